//! What crosses links, in bytes by kind.

use meshara_overlay::control;
use meshara_overlay::record::Kind;

/// Bytes that all nodes sent since counting began, with what frames and packets add to a message (but for UDP and IP).
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Traffic {
    /// For how long was counted, seconds.
    pub seconds: f64,
    /// How many nodes.
    pub nodes: usize,
    /// Probes.
    pub probes: u64,
    /// Records with certificates.
    pub member: u64,
    /// Records with addresses.
    pub addresses: u64,
    /// Records with links.
    pub link_state: u64,
    /// Digests, summaries and requests.
    pub compare: u64,
    /// Heads of issuers' logs, with their announcements.
    pub heads: u64,
    /// Root documents, signed sets and statements.
    pub trust: u64,
    /// Pings and sessions.
    pub frames: u64,
}

impl Traffic {
    /// A control message of the overlay.
    pub(crate) fn control(&mut self, size: usize, bytes: &[u8]) {
        if control::is_of_heads(bytes) {
            self.heads += size as u64;
            return;
        }
        let mut rest = size;
        let mut first = None;
        for (kind, len) in control::kinds(bytes) {
            first = first.or(Some(kind));
            rest = rest.saturating_sub(len);
            *self.of(Some(kind)) += len as u64;
        }
        *self.of(first) += rest as u64;
    }

    fn of(&mut self, kind: Option<Kind>) -> &mut u64 {
        match kind {
            Some(Kind::Member) => &mut self.member,
            Some(Kind::Addresses) => &mut self.addresses,
            Some(Kind::LinkState) => &mut self.link_state,
            None => &mut self.compare,
        }
    }

    /// Bytes of records and their comparison that a node sends in an hour; as many come in.
    #[must_use]
    pub fn records_per_node_hour(&self) -> f64 {
        self.per_node_hour(self.member + self.addresses + self.link_state + self.compare + self.heads)
    }

    /// A number of bytes as what a node sends in an hour.
    #[must_use]
    pub fn per_node_hour(&self, bytes: u64) -> f64 {
        if self.seconds <= 0.0 || self.nodes == 0 {
            return 0.0;
        }
        bytes as f64 * 3600.0 / self.seconds / self.nodes as f64
    }
}

#[cfg(test)]
mod tests {
    use meshara_overlay::NodeId;
    use meshara_overlay::control::{Aged, Message};
    use meshara_overlay::record::Record;

    use super::*;

    #[test]
    fn every_byte_is_of_one_kind() {
        let record = |kind, body: &[u8]| Aged {
            age_s: 0,
            record: Record::sign(kind, NodeId([1; 32]), 1, body, |_| [0; 64]).unwrap(),
        };
        let (member, links) = (record(Kind::Member, &[7; 1000]), record(Kind::LinkState, &[0, 0]));
        let bytes = Message::Records(vec![member.clone(), links.clone()]).encode();
        let mut traffic = Traffic::default();
        traffic.control(bytes.len() + 64, &bytes);
        assert_eq!(traffic.link_state, links.record.bytes().len() as u64 + 4, "with age and length");
        assert_eq!(traffic.member + traffic.link_state, bytes.len() as u64 + 64);
        let digest = Message::Digest([0; 32]).encode();
        traffic.control(digest.len(), &digest);
        assert_eq!(traffic.compare, 34);
        let head = meshara_overlay::HeadId { issuer: NodeId([1; 32]), size: 7 };
        let list = Message::Heads(vec![head]).encode();
        traffic.control(list.len(), &list);
        assert_eq!((traffic.heads, traffic.compare), (42, 34));
        let hour = Traffic { seconds: 1800.0, nodes: 2, ..Traffic::default() };
        assert!((hour.per_node_hour(100) - 100.0).abs() < 1e-9);
    }
}
