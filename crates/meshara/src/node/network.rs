//! The machine's side of the network: interface addresses that come and go, and waking from sleep.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;
use meshara_overlay::Hint;
use meshara_transport::HopLink;

use super::Inner;

/// How often the clocks are compared to notice sleep.
const SLEEP_CHECK: Duration = Duration::from_secs(1);
/// Sleep shorter than this is no event: probes pass over it.
const SLEPT: Duration = Duration::from_secs(2);
/// Addresses of this machine that are looked at.
const MAX_LOCAL: usize = 64;

/// Follows the machine's addresses, for ever. Changes reach the overlay and LAN discovery at once.
pub(crate) async fn watch_interfaces(inner: Arc<Inner>) {
    let mut watcher = match IfWatcher::new() {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "interface changes will be noticed by timeouts only");
            return;
        }
    };
    for net in watcher.iter() {
        inner.add_local(net.addr());
    }
    inner.publish_addresses();
    loop {
        let event = std::future::poll_fn(|cx| watcher.poll_if_event(cx)).await;
        match event {
            Ok(IfEvent::Up(net)) => {
                if inner.add_local(net.addr()) {
                    tracing::info!(addr = %net.addr(), "address appeared");
                    changed(&inner);
                }
            }
            Ok(IfEvent::Down(net)) => {
                if inner.remove_local(net.addr()) {
                    tracing::info!(addr = %net.addr(), "address vanished");
                    unusable(&inner, &[net.addr()]);
                    changed(&inner);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "interface watch");
                tokio::time::sleep(SLEEP_CHECK).await;
            }
        }
    }
}

/// Tells the overlay that links from these addresses carry nothing any more.
pub(super) fn unusable(inner: &Inner, addrs: &[IpAddr]) {
    for link in inner.overlay.links() {
        if link.source.is_some_and(|source| addrs.contains(&source)) {
            inner.overlay.hint(link.hop.id(), Hint::InterfaceDown);
        }
    }
}

/// This machine's address on a new link. Only the accepting side of a QUIC connection is told; the dialling one asks the routing table.
pub(super) fn source(link: &HopLink) -> Option<IpAddr> {
    link.connection().local_ip().map(|ip| ip.to_canonical()).or_else(|| source_towards(link.remote()))
}

/// The address that packets to a destination leave from. Nothing is sent.
fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let remote = match remote {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(remote.ip().to_canonical(), remote.port())
        }
        _ => remote,
    };
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

pub(super) fn changed(inner: &Inner) {
    inner.publish_addresses();
    inner.overlay.input(|core, now| core.network_changed(now));
    inner.network_changes.send_modify(|count| *count = count.wrapping_add(1));
}

/// Notices sleep: the boot clock runs on while the monotonic clock stands.
pub(crate) async fn watch_sleep(inner: Arc<Inner>) {
    let mut before = asleep();
    loop {
        tokio::time::sleep(SLEEP_CHECK).await;
        let total = asleep();
        let slept = total.saturating_sub(before);
        before = total;
        if slept >= SLEPT {
            tracing::info!(?slept, "woke from sleep");
            changed(&inner);
        }
    }
}

/// Time that the machine has slept since it booted.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn asleep() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}

/// Time that the machine has slept: elsewhere the monotonic clock includes it or the overlay's own timers show it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn asleep() -> Duration {
    Duration::ZERO
}

/// The addresses under which others may reach this node, best first: local ones, then those that neighbours saw.
pub(crate) fn reachable(
    bound: SocketAddr,
    local: &BTreeSet<IpAddr>,
    observed: &[SocketAddr],
) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    let mut add = |addr: SocketAddr| {
        if !out.contains(&addr) {
            out.push(addr);
        }
    };
    if bound.ip().is_unspecified() {
        let fits = |ip: &&IpAddr| !ip.is_loopback() && (bound.is_ipv6() || ip.is_ipv4());
        for ip in local.iter().filter(fits).take(MAX_LOCAL) {
            // Link-local addresses mean nothing elsewhere.
            if !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
                add(SocketAddr::new(*ip, bound.port()));
            }
        }
    } else {
        add(bound);
    }
    for addr in observed.iter().filter(|addr| !addr.ip().is_loopback() || bound.ip().is_loopback()) {
        add(*addr);
    }
    out
}

/// Indices of the interfaces that have IPv6.
#[cfg(target_os = "linux")]
pub(crate) fn interfaces_v6() -> BTreeSet<u32> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    table
        .lines()
        .take(MAX_LOCAL)
        .filter(|line| !line.ends_with(" lo"))
        .filter_map(|line| u32::from_str_radix(line.split_whitespace().nth(1)?, 16).ok())
        .collect()
}

/// Indices of the interfaces that have IPv6: the system's default one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn interfaces_v6() -> BTreeSet<u32> {
    BTreeSet::from([0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_to_this_machine_leave_from_it() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(source_towards("127.0.0.1:9".parse().unwrap()), Some(loopback));
        assert_eq!(source_towards("[::ffff:127.0.0.1]:9".parse().unwrap()), Some(loopback));
    }

    #[test]
    fn a_node_on_all_interfaces_offers_what_others_can_reach() {
        let local =
            ["127.0.0.1", "::1", "192.0.2.1", "fe80::1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
        let observed = ["198.51.100.7:900".parse().unwrap(), "127.0.0.1:5".parse().unwrap()];
        let dual = reachable("[::]:7".parse().unwrap(), &local, &observed);
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:7", "[2001:db8::1]:7", "198.51.100.7:900"].map(|addr| addr.parse().unwrap()).into();
        assert_eq!(dual, expected);
        let one = reachable("127.0.0.1:7".parse().unwrap(), &local, &observed[1..]);
        assert_eq!(one, ["127.0.0.1:7".parse().unwrap(), observed[1]]);
        let v4 = reachable("0.0.0.0:7".parse().unwrap(), &local, &[]);
        assert_eq!(v4, ["192.0.2.1:7".parse().unwrap()]);
    }
}
