//! Answers that come line by line for as long as somebody reads.

use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::Client;
use crate::api::MAX_MESSAGE;
use crate::api::control::Result;
use crate::api::error::ErrorEnvelope;

/// Longest line of a stream: a message of which every byte is escaped (`\u0000`), and its envelope.
const MAX_LINE: usize = 6 * MAX_MESSAGE + 4096;

/// Ends the connection when the answer is no longer wanted.
#[derive(Debug)]
pub(super) struct Connection(JoinHandle<()>);

impl Connection {
    pub(super) fn new(driver: JoinHandle<()>) -> Self {
        Self(driver)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A streamed answer. Dropping it closes the connection, which ends the operation at the node.
#[derive(Debug)]
pub struct LineStream<T> {
    client: Client,
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no line end.
    scanned: usize,
    ended: bool,
    _connection: Connection,
    _event: PhantomData<fn() -> T>,
}

impl<T> LineStream<T> {
    pub(super) fn new(client: Client, body: Incoming, connection: Connection) -> Self {
        Self {
            client,
            body,
            buffer: BytesMut::new(),
            scanned: 0,
            ended: false,
            _connection: connection,
            _event: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> LineStream<T> {
    /// The next event; `None` after the last. Safe to cancel.
    ///
    /// # Errors
    /// What the node says as its last line, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(line) = self.take_line() {
                return self.decode(&line).map(Some).inspect_err(|_| self.ended = true);
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > MAX_LINE {
                self.ended = true;
                self.buffer.clear();
                return Err(self.client.protocol(&format!("a line is longer than {MAX_LINE} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(self.client.cut(&error));
                }
                None => self.ended = true,
            }
        }
    }

    /// The next event if it has been read already.
    ///
    /// # Errors
    /// See [`LineStream::next`].
    pub fn buffered(&mut self) -> Result<Option<T>> {
        self.take_line().map(|line| self.decode(&line)).transpose()
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let rest = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.scanned + end).freeze();
        self.buffer.advance(1);
        self.scanned = 0;
        Some(line)
    }

    fn decode(&self, line: &[u8]) -> Result<T> {
        if line.starts_with(b"{\"error\":") {
            return Err(self.client.decode::<ErrorEnvelope>(line)?.error);
        }
        self.client.decode(line)
    }
}
