//! The addresses that neighbours see this node at. A neighbour may be wrong or lie, and what it says would go into a signed record:
//! one alone is believed only as long as it is the only one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use meshara_identity::NodeId;

/// Addresses that neighbours saw us at and that we gossip. More than a few means a NAT that gives every peer another port, and
/// then none of them is of use.
const MAX_OBSERVED: usize = 4;
/// Neighbours whose claims are kept: far more than a node links with.
const MAX_CLAIMS: usize = 256;

/// What the present neighbours claim, each one address.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    claims: BTreeMap<NodeId, SocketAddr>,
    /// Those that two neighbours agreed on. One of them is enough to keep it, as links come and go.
    agreed: Vec<SocketAddr>,
}

impl Observed {
    /// A neighbour's claim takes the place of its last one.
    pub(crate) fn claim(&mut self, neighbour: NodeId, addr: SocketAddr) {
        if self.claims.len() < MAX_CLAIMS || self.claims.contains_key(&neighbour) {
            self.claims.insert(neighbour, addr);
            self.settle();
        }
    }

    /// The neighbour has gone, or says nothing of use.
    pub(crate) fn forget(&mut self, neighbour: &NodeId) {
        self.claims.remove(neighbour);
        self.settle();
    }

    fn settle(&mut self) {
        let voices = |addr: &SocketAddr| self.claims.values().filter(|claimed| *claimed == addr).count();
        let mut agreed = std::mem::take(&mut self.agreed);
        agreed.retain(|addr| voices(addr) > 0);
        for addr in self.claims.values() {
            if voices(addr) >= 2 && !agreed.contains(addr) {
                agreed.push(*addr);
            }
        }
        agreed.sort_by_key(|addr| std::cmp::Reverse(voices(addr)));
        agreed.truncate(MAX_OBSERVED);
        self.agreed = agreed;
    }

    /// The addresses to believe.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match self.claims.values().next() {
            Some(only) if self.claims.len() == 1 => vec![*only],
            _ => self.agreed.clone(),
        }
    }
}

/// Whether an address that somebody else names can be that of one node: packets to it reach at most one host, and not by way of an
/// interface that only the namer knows.
pub(crate) fn is_unicast(addr: SocketAddr) -> bool {
    let ip = match addr.ip().to_canonical() {
        // This network and the reserved block, which holds the broadcast address: RFC 6890.
        IpAddr::V4(v4) => {
            !v4.is_multicast() && v4.octets().first().is_some_and(|first| (1..240).contains(first))
        }
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local(),
    };
    ip && addr.port() != 0
}

/// Whether a neighbour's claim may be this node's address elsewhere.
pub(crate) fn is_credible(addr: SocketAddr, bound: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let link_local = matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    is_unicast(addr) && !link_local && (!ip.is_loopback() || bound.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_neighbour_among_several_is_not_believed() {
        let (mut observed, truth, lie) =
            (Observed::default(), addr("198.51.100.7:900"), addr("203.0.113.9:53"));
        observed.claim(node(1), truth);
        assert_eq!(observed.addresses(), [truth], "there is nobody else to ask");
        observed.claim(node(2), lie);
        assert_eq!(observed.addresses(), [], "one of the two is wrong");
        observed.claim(node(3), truth);
        assert_eq!(observed.addresses(), [truth]);
        for port in 1..100 {
            observed.claim(node(2), SocketAddr::new(lie.ip(), port));
            assert_eq!(observed.addresses(), [truth], "claims of one neighbour evict nothing");
        }
        observed.forget(&node(3));
        assert_eq!(observed.addresses(), [truth], "it was agreed on, and nothing speaks against it");
        observed.forget(&node(1));
        observed.forget(&node(2));
        assert_eq!(observed.addresses(), []);
    }

    #[test]
    fn claims_and_addresses_are_bounded() {
        let mut observed = Observed::default();
        for n in 0..=255 {
            for m in 0..4 {
                let mut id = [n; 32];
                id[0] = m;
                observed.claim(NodeId(id), SocketAddr::new([192, 0, 2, n / 2].into(), 9));
            }
        }
        assert_eq!(observed.claims.len(), MAX_CLAIMS);
        assert_eq!(observed.addresses().len(), MAX_OBSERVED);
    }

    #[test]
    fn only_unicast_addresses_with_a_port_count() {
        for good in ["192.0.2.1:1", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:9", "10.0.0.1:65535"] {
            assert!(is_unicast(addr(good)) && is_credible(addr(good), addr("[::]:7")), "{good}");
        }
        let bad = [
            "192.0.2.1:0",
            "0.0.0.0:9",
            "0.1.2.3:9",
            "224.0.0.251:9",
            "255.255.255.255:9",
            "240.0.0.1:9",
            "[::]:9",
            "[ff02::1]:9",
            "[fe80::1]:9",
            "[::ffff:0.0.0.0]:9",
            "[::ffff:255.255.255.255]:9",
            "[::ffff:224.0.0.1]:9",
        ];
        for bad in bad {
            assert!(!is_unicast(addr(bad)) && !is_credible(addr(bad), addr("127.0.0.1:7")), "{bad}");
        }
        for local in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert!(!is_credible(addr(local), addr("[::]:7")), "{local}");
            assert!(is_credible(addr(local), addr("127.0.0.1:7")), "{local}");
        }
        assert!(!is_credible(addr("169.254.1.1:9"), addr("[::]:7")));
    }
}
