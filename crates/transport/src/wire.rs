//! The node's one UDP socket: batched receive (GRO), segmented send (GSO), write readiness.
//!
//! Knows nothing of QUIC or hop frames.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::UdpPoller;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

/// Asked of the kernel for both socket buffers: 8 MiB holds 3 ms of a 20 Gbit/s flow, the length of a
/// scheduler's time slice. The kernel may grant less (`net.core.rmem_max`); `doctor` says so.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// Most bytes given to one segmented send: the kernel refuses UDP payloads over 65,507 bytes (IPv4).
const MAX_BATCH_BYTES: usize = 65_000;

/// Before receiving is tried again after an error: short beside every timeout, long beside a busy loop.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// The UDP socket of a node.
#[derive(Debug)]
pub struct Wire {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    v6: bool,
}

impl Wire {
    /// Binds the socket. An unspecified IPv6 address listens on IPv4 too.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        grow_buffers(&socket);
        socket.bind(&addr.into())?;
        socket.set_nonblocking(true)?;
        let std_socket: std::net::UdpSocket = socket.into();
        let state = UdpSocketState::new((&std_socket).into())?;
        Ok(Self { io: tokio::net::UdpSocket::from_std(std_socket)?, state, v6: addr.is_ipv6() })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// The sizes in bytes that the kernel granted: receive buffer, send buffer.
    pub fn buffer_sizes(&self) -> io::Result<(usize, usize)> {
        let socket = (&self.io).into();
        let receive = self.state.recv_buffer_size(socket)?;
        Ok((receive, self.state.send_buffer_size((&self.io).into())?))
    }

    /// Most equal-sized datagrams that one system call takes; 1 where the kernel has no GSO.
    pub fn gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Most datagrams that one receive joins; 1 where the kernel has no GRO.
    pub fn gro_segments(&self) -> usize {
        self.state.gro_segments()
    }

    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Sends `contents` as datagrams of `segment` bytes (the last may be shorter).
    ///
    /// Returns how many bytes the kernel took; fewer than all only when its buffer is full. Errors that say
    /// something about one destination (unreachable, too large) count as taken: UDP loses packets.
    pub(crate) fn send_run(&self, to: SocketAddr, contents: &[u8], segment: usize) -> usize {
        let destination = self.native(to);
        let mut sent = 0;
        while let Some(rest) = contents.get(sent..).filter(|rest| !rest.is_empty()) {
            let most = (MAX_BATCH_BYTES / segment.max(1)).clamp(1, self.state.max_gso_segments()) * segment;
            let chunk = rest.get(..most.min(rest.len())).unwrap_or(rest);
            let transmit = Transmit {
                destination,
                ecn: None,
                contents: chunk,
                segment_size: (chunk.len() > segment).then_some(segment),
                src_ip: None,
            };
            match self.try_send(&transmit) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return sent,
                // After EIO the state has turned GSO off: the same bytes go out one by one.
                Err(_) if transmit.segment_size.is_some() && self.state.max_gso_segments() == 1 => {}
                Ok(()) | Err(_) => sent += chunk.len(),
            }
        }
        sent
    }

    /// Sends one QUIC transmit; every error but `WouldBlock` is a lost packet.
    pub(crate) fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let native =
            Transmit { destination: self.native(transmit.destination), src_ip: None, ..transmit.clone() };
        match self.try_send(&native) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(()),
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit))
    }

    /// As if the kernel's buffer had just been found full: nothing more is sent before the kernel tells of the socket again, which
    /// it does when something arrives. On loopback its buffer never fills.
    #[cfg(test)]
    pub(crate) fn refuse(&self) {
        let _ = self.io.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }

    /// Waits until the socket takes data.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            match self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta)) {
                Ok(count) => {
                    for meta in meta.iter_mut().take(count) {
                        meta.addr = canonical(meta.addr);
                        meta.dst_ip = meta.dst_ip.map(|ip| ip.to_canonical());
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // ICMP errors of earlier sends; they say nothing about the socket itself.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
                    ) => {}
                // Whatever it is (no memory, a socket that an administrator shut), it may pass, and QUIC would give the socket up.
                Err(error) => {
                    tracing::warn!(%error, "can't receive");
                    let waker = cx.waker().clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(RECEIVE_PAUSE).await;
                        waker.wake();
                    });
                    return Poll::Pending;
                }
            }
        }
    }

    /// An address in the family of the socket: IPv4 becomes IPv4-mapped on a dual-stack socket.
    pub(crate) fn native(&self, addr: SocketAddr) -> SocketAddr {
        match addr {
            SocketAddr::V4(v4) if self.v6 => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
            other => other,
        }
    }
}

/// An IPv4-mapped address as the IPv4 address that it is.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            IpAddr::V6(_) => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// The address to bind when the user names none: every interface, both families where IPv6 exists.
pub fn any_address(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn grow_buffers(socket: &Socket) {
    // The forced form passes net.core.rmem_max, with CAP_NET_ADMIN only; the plain form is capped by it.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
}

/// Wakes one task when the socket takes data again.
pub(crate) struct WritePoller {
    wire: Arc<Wire>,
    writable: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl WritePoller {
    pub(crate) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, writable: None }
    }
}

impl std::fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WritePoller").finish_non_exhaustive()
    }
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.wire.clone();
        let future = self.writable.get_or_insert_with(|| Box::pin(async move { wire.io.writable().await }));
        let result = future.as_mut().poll(cx);
        if result.is_ready() {
            self.writable = None;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dual_stack_socket_sends_to_ipv4_and_reports_ipv4() {
        let a = Wire::bind("[::]:0".parse().unwrap()).unwrap();
        let b = Wire::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = b.local_addr().unwrap();
        a.io.writable().await.unwrap();
        assert_eq!(a.send_run(to, &[7; 250], 100), 250);
        let (mut data, mut meta) = (vec![0; 65_536], [RecvMeta::default()]);
        let mut lengths = Vec::new();
        while lengths.iter().sum::<usize>() < 250 {
            let mut bufs = [IoSliceMut::new(&mut data)];
            std::future::poll_fn(|cx| b.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
            lengths.push(meta[0].len);
            assert!(meta[0].addr.is_ipv4());
            assert!(meta[0].stride <= 100);
        }
        assert_eq!(lengths.iter().sum::<usize>(), 250);
    }
}
