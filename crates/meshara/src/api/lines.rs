//! An answer that streams JSON objects, one a line, as they occur.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde::Serialize;

use super::control::Events;
use super::error::{ApiError, ErrorCode, ErrorEnvelope};

/// Most events that go into one chunk: enough that a fast stream costs few writes.
const MAX_PER_CHUNK: usize = 64;

/// The body of a streamed answer. Dropping it (the client went away) drops the receiver, which tells the node.
pub(super) struct Lines<T> {
    events: Option<Events<T>>,
}

impl<T> Lines<T> {
    pub(super) fn new(events: Events<T>) -> Self {
        Self { events: Some(events) }
    }
}

impl<T: Serialize> Body for Lines<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        let mut batch = Vec::new();
        let count = std::task::ready!(events.poll_recv_many(cx, &mut batch, MAX_PER_CHUNK));
        if count == 0 {
            self.events = None;
            return Poll::Ready(None);
        }
        let mut chunk = Vec::new();
        for event in batch {
            let written = match event {
                Ok(event) => write_line(&mut chunk, &event),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                // Nothing follows an error.
                self.events = None;
                if write_line(&mut chunk, &ErrorEnvelope::from(error)).is_err() {
                    tracing::error!("an error of the control API does not serialise");
                }
                break;
            }
        }
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

fn write_line<T: Serialize>(chunk: &mut Vec<u8>, value: &T) -> Result<(), ApiError> {
    let start = chunk.len();
    let internal =
        |reason: String| ApiError::new(ErrorCode::Internal, format!("an event does not serialise: {reason}"));
    serde_json::to_writer(&mut *chunk, value).map_err(|error| {
        chunk.truncate(start);
        internal(error.to_string())
    })?;
    chunk.write_all(b"\n").map_err(|error| internal(error.to_string()))
}
