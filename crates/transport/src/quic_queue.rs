//! QUIC packets of links on their way from the shared socket to the link endpoint.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn_udp::RecvMeta;

use crate::counters::Counters;

/// Packets waiting. Links carry only handshakes and control messages; 1,024 packets (1.5 MB) are a hundred handshakes at
/// once, more is flood.
const QUEUE: usize = 1024;

#[derive(Default)]
struct State {
    packets: VecDeque<(RecvMeta, Vec<u8>)>,
    waker: Option<Waker>,
}

/// A bounded queue with one reader.
#[derive(Default)]
pub(crate) struct QuicQueue(Mutex<State>);

impl QuicQueue {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one packet, or drops it when the queue is full.
    pub(crate) fn push(&self, meta: &RecvMeta, packet: &[u8], counters: &Counters) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.packets.len() >= QUEUE {
                counters.quic_full.fetch_add(1, Relaxed);
                return;
            }
            let meta = RecvMeta { len: packet.len(), stride: packet.len(), ..*meta };
            state.packets.push_back((meta, packet.to_vec()));
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Hands waiting packets to the reader, one per buffer.
    pub(crate) fn poll(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((received, packet)) = state.packets.pop_front() else { break };
            let Some(room) = buf.get_mut(..packet.len()) else { continue };
            room.copy_from_slice(&packet);
            *meta = received;
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
