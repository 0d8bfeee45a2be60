//! The two sockets that QUIC sees: the link socket (real addresses) and the session socket (mesh addresses). Both share the
//! node's one UDP socket through the data plane.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{RecvMeta, Transmit};

use crate::data_plane::DataPlane;
use crate::reassembly::session_addr;
use crate::wire::WritePoller;

/// Packets that one receive buffer of the session endpoint holds.
const SESSION_RECEIVE_SEGMENTS: usize = 4;
/// Session packets per transmit: two segmented sends of four. quinn itself stops at 10.
const SESSION_TRANSMIT_SEGMENTS: usize = 8;

/// QUIC packets of links, on the wire as they are.
#[derive(Debug)]
pub(crate) struct LinkSocket(pub(crate) Arc<DataPlane>);

impl AsyncUdpSocket for LinkSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller::new(self.0.wire.clone()))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.wire.send_quic(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.0.quic.poll(cx, bufs, meta))?;
        // quinn dials IPv4 as IPv4-mapped addresses on a dual-stack socket, and takes answers from these alone.
        for meta in meta.iter_mut().take(count) {
            meta.addr = self.0.wire.native(meta.addr);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.wire.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.wire.gso_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.wire.may_fragment()
    }
}

/// QUIC packets of sessions, which travel as hop frames. Polling it for received packets drives the whole data plane.
#[derive(Debug)]
pub(crate) struct SessionSocket(pub(crate) Arc<DataPlane>);

impl AsyncUdpSocket for SessionSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller::new(self.0.wire.clone()))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.send_session(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(session_addr(self.0.me()))
    }

    fn max_transmit_segments(&self) -> usize {
        SESSION_TRANSMIT_SEGMENTS
    }

    fn max_receive_segments(&self) -> usize {
        SESSION_RECEIVE_SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false // frames split packets, so QUIC may look for the largest size that gets through
    }
}
