//! Port, socket buffers, offload and configured neighbours.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use meshara::config::{Config, DEFAULT_PORT, PeerAddr};

use super::{Check, Running};
use crate::text;

/// Socket buffer that holds what a 2.5 Gbit/s link delivers in 20 ms, the longest that a busy scheduler keeps us waiting.
const BUFFER: u64 = 7_500_000;
/// Names resolve within this time or not at all.
const RESOLVE: Duration = Duration::from_secs(5);

pub(super) async fn check(config: &Config, running: Option<&Running>) -> Vec<Check> {
    let mut checks = vec![port(config, running)];
    checks.extend(buffer(
        "net.core.rmem_max",
        "receive buffer",
        running.and_then(|node| node.facts.recv_buffer),
    ));
    checks.extend(buffer(
        "net.core.wmem_max",
        "send buffer",
        running.and_then(|node| node.facts.send_buffer),
    ));
    checks.push(offload(running));
    match running {
        Some(node) => checks.extend(neighbours(node)),
        None => {
            for peer in &config.peers {
                checks.push(resolves(peer).await);
            }
        }
    }
    checks
}

fn port(config: &Config, running: Option<&Running>) -> Check {
    if let Some(node) = running {
        return Check::ok("port", format!("the node listens on {}", node.status.listen.join(", ")));
    }
    let addr = config.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)));
    let Err(error) = UdpSocket::bind(addr) else { return Check::ok("port", format!("{addr} free")) };
    let detail = format!("cannot listen on {addr}: {error}");
    if error.kind() == io::ErrorKind::AddrInUse && config.listen.is_none() {
        let fix = "nothing, unless others expect this port: the node will take another one";
        return Check::warn("port", detail, fix);
    }
    let fix = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program uses UDP port {0} (`ss -ulpn sport = :{0}`); end it or choose another with --listen",
            addr.port()
        ),
        io::ErrorKind::AddrNotAvailable => {
            "no interface has this address; correct --listen or config.toml".into()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root; choose another with --listen".into()
        }
        _ => "choose another address with --listen".into(),
    };
    Check::fail("port", detail, fix)
}

/// Linux tells its limits under /proc; elsewhere only a running node knows.
fn buffer(sysctl: &str, name: &'static str, granted: Option<u64>) -> Option<Check> {
    let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
    let limit = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let size = granted.into_iter().chain(limit).max()?;
    let fix = format!("sudo sysctl -w {sysctl}={BUFFER}   (and in /etc/sysctl.d/ to keep it)");
    Some(if size >= BUFFER {
        Check::ok(name, text::bytes(size))
    } else {
        Check::warn(name, format!("{}: fast links may lose packets", text::bytes(size)), fix)
    })
}

fn offload(running: Option<&Running>) -> Check {
    let told = running.and_then(|node| node.facts.gso_segments.zip(node.facts.gro_segments));
    let (gso, gro) = match told {
        Some(told) => told,
        None => match probe() {
            Ok(found) => found,
            Err(error) => return Check::warn("offload", format!("cannot ask: {error}"), "check it by hand"),
        },
    };
    let detail = format!("GSO {gso}, GRO {gro} segments");
    if gso > 1 && gro > 1 {
        Check::ok("offload", detail)
    } else {
        Check::warn(
            "offload",
            detail,
            "a kernel of 5.0 or newer sends and receives many packets at once; throughput is lower without",
        )
    }
}

fn probe() -> io::Result<(u64, u64)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let state = quinn_udp::UdpSocketState::new((&socket).into())?;
    let count = |segments: usize| u64::try_from(segments).unwrap_or(u64::MAX);
    Ok((count(state.max_gso_segments()), count(state.gro_segments())))
}

fn neighbours(node: &Running) -> Vec<Check> {
    let check = |peer: &meshara::api::ConfiguredPeer| {
        if peer.connected {
            return Check::ok("peer", format!("{} is linked", peer.addr));
        }
        let reason = peer.last_error.as_deref().unwrap_or("no answer yet");
        let fix = "does a node run there, and does a firewall let UDP through?";
        Check::warn("peer", format!("{}: {reason}", peer.addr), fix)
    };
    let mut checks: Vec<_> = node.facts.configured_peers.iter().map(check).collect();
    if node.status.neighbours == 0 {
        let fix = "name one with `meshara up --peer HOST:PORT`, or invite another machine";
        checks.push(Check::warn("neighbours", "none: this node is alone", fix));
    }
    checks
}

async fn resolves(peer: &PeerAddr) -> Check {
    match tokio::time::timeout(RESOLVE, peer.resolve()).await {
        Ok(Ok(found)) if !found.is_empty() => {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            Check::ok(
                "peer",
                format!("{peer} is {}; whether it answers shows when the node runs", found.join(", ")),
            )
        }
        Ok(Ok(_)) => Check::fail("peer", format!("{peer} has no address"), "correct --peer or config.toml"),
        Ok(Err(error)) => Check::fail("peer", format!("{peer}: {error}"), "correct --peer or config.toml"),
        Err(_) => Check::warn("peer", format!("{peer} did not resolve within 5 s"), "check the name service"),
    }
}
