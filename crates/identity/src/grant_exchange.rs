//! What neighbours tell each other of issuers' grants: which they hold, and those that the other lacks.

use serde::{Deserialize, Serialize};

use crate::grant::{GRANTS_BYTES_MAX, GRANTS_MAX, IssuerGrant};
use crate::ids::NodeId;
use crate::wire::{self, WireError};

/// Longest list of names: 16 of 42 bytes.
pub const HELD_MAX: usize = 1024;

/// Names of grants: issuer and number, sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldGrants(Vec<(NodeId, u64)>);

fn name(grant: &IssuerGrant) -> (NodeId, u64) {
    (grant.statement.issuer, grant.statement.number)
}

impl HeldGrants {
    /// The names of these.
    pub fn of(grants: &[IssuerGrant]) -> Self {
        let mut names: Vec<_> = grants.iter().map(name).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// Those of `ours` that are not among them.
    pub fn lacks(&self, ours: &[IssuerGrant]) -> Vec<IssuerGrant> {
        ours.iter().filter(|grant| !self.0.contains(&name(grant))).cloned().collect()
    }

    /// Whether one of them is not among `ours`.
    pub fn exceed(&self, ours: &[IssuerGrant]) -> bool {
        self.0.iter().any(|held| ours.iter().all(|grant| name(grant) != *held))
    }

    /// Version byte and postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let held: Self = wire::decode(bytes, HELD_MAX)?;
        let canonical = held.0.len() <= GRANTS_MAX && held.0.is_sorted_by(|a, b| a < b);
        if canonical { Ok(held) } else { Err(WireError::Malformed) }
    }
}

/// Grants as they travel: version byte and postcard.
pub fn encode_grants(grants: &[IssuerGrant]) -> Result<Vec<u8>, WireError> {
    wire::encode(&grants)
}

/// Reads [`encode_grants`]'s form. Nothing is verified yet.
pub fn decode_grants(bytes: &[u8]) -> Result<Vec<IssuerGrant>, WireError> {
    let grants: Vec<IssuerGrant> = wire::decode(bytes, GRANTS_BYTES_MAX)?;
    if grants.len() <= GRANTS_MAX { Ok(grants) } else { Err(WireError::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static GRANT: &[u8] = include_bytes!("../tests/fixtures/grant.bin");

    #[test]
    fn the_forms_are_frozen() {
        let held = HeldGrants(vec![(NodeId([1; 32]), 300), (NodeId([2; 32]), 1)]);
        let expected = [vec![1, 2], vec![1; 32], vec![0xac, 0x02], vec![2; 32], vec![1]];
        let bytes = held.encode().unwrap();
        assert_eq!(bytes, expected.concat());
        assert_eq!(HeldGrants::decode(&bytes), Ok(held));
        // A list of one grant is its count and the grant without its version byte.
        let grant = IssuerGrant::decode(GRANT).unwrap();
        let bytes = encode_grants(std::slice::from_ref(&grant)).unwrap();
        assert_eq!(bytes, [&[1, 1], &GRANT[1..]].concat());
        assert_eq!(decode_grants(&bytes), Ok(vec![grant]));
    }

    #[test]
    fn what_is_lacked() {
        let grant = IssuerGrant::decode(GRANT).unwrap();
        let ours = std::slice::from_ref(&grant);
        let (none, all) = (HeldGrants::of(&[]), HeldGrants::of(ours));
        assert_eq!((none.lacks(ours), all.lacks(ours)), (vec![grant.clone()], vec![]));
        assert!(all.exceed(&[]) && !all.exceed(ours) && !none.exceed(ours));
    }

    #[test]
    fn odd_lists_are_refused() {
        let held = |names: Vec<(NodeId, u64)>| HeldGrants::decode(&HeldGrants(names).encode().unwrap());
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        for names in [vec![(b, 1), (a, 1)], vec![(a, 1), (a, 1)], (0..17).map(|n| (a, n)).collect()] {
            assert_eq!(held(names), Err(WireError::Malformed));
        }
        let grant = IssuerGrant::decode(GRANT).unwrap();
        let many = encode_grants(&vec![grant; 17]).unwrap();
        assert_eq!(decode_grants(&many), Err(WireError::Malformed));
        assert_eq!(decode_grants(&[1, 0, 0]), Err(WireError::Malformed));
    }

    proptest! {
        #[test]
        fn round_trips(names in prop::collection::btree_set((any::<[u8; 32]>(), any::<u64>()), 0..=GRANTS_MAX)) {
            let held = HeldGrants(names.into_iter().map(|(node, number)| (NodeId(node), number)).collect());
            prop_assert_eq!(HeldGrants::decode(&held.encode().unwrap()), Ok(held));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = (HeldGrants::decode(&bytes), decode_grants(&bytes));
        }
    }
}
