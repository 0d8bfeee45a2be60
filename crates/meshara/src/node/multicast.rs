//! LAN discovery: nodes announce themselves by multicast, IPv4 and IPv6 link-local.
//!
//! An announcement is only a hint where to dial; the dial's handshake proves who is there. It tells listeners a tag of the mesh,
//! the NodeId and the port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::{MeshId, NodeId};
use meshara_overlay::{KnownNode, KnownOrigin};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Inner;
use super::network::interfaces_v6;

/// Administratively scoped group (RFC 2365), chosen at random.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 77, 101, 115);
/// Link-local group (RFC 4291 §2.7), transient flag set.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0x4d65, 0x7368, 0x6172);
/// Port of the groups, beside the nodes' own default.
const PORT: u16 = 6375;
/// Between announcements: someone who joins the LAN is found within seconds, 50 nodes make 10 packets a second.
const INTERVAL: Duration = Duration::from_secs(5);
/// Announcements after a start or a change come at this pace, three times.
const QUICK: Duration = Duration::from_millis(500);
const MAGIC: [u8; 4] = *b"MSHA";
const VERSION: u8 = 1;
const LEN: usize = 4 + 1 + 8 + 32 + 2;

/// What an announcement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    mesh: [u8; 8],
    node: NodeId,
    port: u16,
}

impl Announcement {
    pub(crate) fn new(mesh: &MeshId, node: NodeId, port: u16) -> Self {
        let mut tag = [0; 8];
        let mut hasher = blake3::Hasher::new_derive_key("meshara 2026-11 multicast tag v1");
        hasher.update(&mesh.0);
        hasher.finalize_xof().fill(&mut tag);
        Self { mesh: tag, node, port }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.mesh);
        bytes.extend_from_slice(&self.node.0);
        bytes.extend_from_slice(&self.port.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (mesh, rest) = rest.split_first_chunk()?;
        let (node, rest) = rest.split_first_chunk()?;
        let port = u16::from_be_bytes(rest.try_into().ok()?);
        (port != 0).then_some(Self { mesh: *mesh, node: NodeId(*node), port })
    }
}

/// Decodes an announcement; for the fuzz target.
#[doc(hidden)]
pub fn decode_announcement(bytes: &[u8]) -> bool {
    Announcement::decode(bytes).is_some()
}

/// Announces this node and listens for others, for ever. Says so once and ends where the system has no multicast.
pub(crate) async fn run(inner: Arc<Inner>, ours: Announcement) {
    let v4 = socket(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let v6 = socket(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    if let (Err(error), Err(_)) = (&v4, &v6) {
        tracing::warn!(%error, "LAN discovery is off: no multicast socket");
        return;
    }
    let (v4, v6) = (v4.ok(), v6.ok());
    let mut changes = inner.network_changes.subscribe();
    let mut quick = 3;
    let (mut buffer4, mut buffer6) = ([0; 64], [0; 64]);
    let mut next = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                announce(&inner, v4.as_ref(), v6.as_ref(), &ours).await;
                quick = u32::saturating_sub(quick, 1);
                next = tokio::time::Instant::now() + if quick > 0 { QUICK } else { INTERVAL };
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                quick = 3;
                next = tokio::time::Instant::now();
            }
            received = receive(v4.as_ref(), &mut buffer4) => heard(&inner, &ours, received, &buffer4),
            received = receive(v6.as_ref(), &mut buffer6) => heard(&inner, &ours, received, &buffer6),
        }
    }
}

fn heard(inner: &Inner, ours: &Announcement, received: Option<(usize, SocketAddr)>, buffer: &[u8]) {
    let Some((len, from)) = received else { return };
    let Some(theirs) = buffer.get(..len).and_then(Announcement::decode) else { return };
    if theirs.mesh != ours.mesh || theirs.node == ours.node {
        return;
    }
    let mut addr = from;
    addr.set_port(theirs.port);
    inner.overlay.known(KnownNode {
        node: Some(theirs.node),
        addrs: vec![addr],
        origin: KnownOrigin::Multicast,
    });
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket {
        Some(socket) => match socket.recv_from(buffer).await {
            Ok(received) => Some(received),
            Err(_) => {
                tokio::time::sleep(QUICK).await; // an interface vanished; don't spin
                None
            }
        },
        None => std::future::pending().await,
    }
}

fn socket(any: IpAddr) -> std::io::Result<UdpSocket> {
    let addr = SocketAddr::new(any, PORT);
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?; // several nodes on one machine
    if any.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(1)?;
    } else {
        socket.set_multicast_ttl_v4(1)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

/// Joins the groups on every interface (again does no harm) and sends to each.
async fn announce(inner: &Inner, v4: Option<&UdpSocket>, v6: Option<&UdpSocket>, ours: &Announcement) {
    let bytes = ours.encode();
    if let Some(socket) = v4 {
        for ip in inner.local_ips() {
            if let IpAddr::V4(ip) = ip {
                let raw = socket2::SockRef::from(socket);
                let _ = raw.join_multicast_v4(&GROUP_V4, &ip);
                if raw.set_multicast_if_v4(&ip).is_ok() {
                    let _ = socket.send_to(&bytes, (GROUP_V4, PORT)).await;
                }
            }
        }
    }
    if let Some(socket) = v6 {
        for index in interfaces_v6() {
            let _ = socket2::SockRef::from(socket).join_multicast_v6(&GROUP_V6, index);
            let to = SocketAddrV6::new(GROUP_V6, PORT, 0, index);
            let _ = socket.send_to(&bytes, to).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_frozen() {
        let announcement = Announcement { mesh: [1; 8], node: NodeId([2; 32]), port: 0x0304 };
        let mut expected = b"MSHA\x01".to_vec();
        expected.extend([1; 8]);
        expected.extend([2; 32]);
        expected.extend([3, 4]);
        assert_eq!(announcement.encode(), expected);
        assert_eq!(Announcement::decode(&expected), Some(announcement));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = Announcement { mesh: [1; 8], node: NodeId([2; 32]), port: 7 }.encode();
        for cut in 0..good.len() {
            assert_eq!(Announcement::decode(&good[..cut]), None);
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(Announcement::decode(&long), None);
        let mut newer = good;
        newer[4] = 2;
        assert_eq!(Announcement::decode(&newer), None);
    }
}
