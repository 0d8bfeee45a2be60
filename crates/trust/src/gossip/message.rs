//! What neighbours tell each other: messages on a stream of their link, reliable and in order.
//!
//! ```text
//! version u8 = 1 | type u8 | …
//!   1 have       root version u64 | revocations: number u64, hash [32] | policy: number u64, hash [32]
//!   2 want       item u8 (0 root, 1 revocations, 2 policy, 3 statements) | above u64
//!   3 root       a version of the root document and its approvals
//!   4 set        a whole set
//!   5 freshness  a signed statement
//!   6 evidence   two statements that contradict each other
//! ```
//! Numbers are big-endian.

use meshara_identity::wire::WireError;

use crate::root::{ROOT_MAX, SignedRoot};
use crate::sets::{
    EVIDENCE_MAX, ForkEvidence, HEAD_MAX, HeadRef, SetHash, SetKind, SignedFreshness, SignedSet,
};

/// Version of the format.
const VERSION: u8 = 1;

/// Longest message that isn't a set: evidence with all approvals that two heads may have.
pub const MESSAGE_MAX: usize = 16 + if EVIDENCE_MAX > ROOT_MAX { EVIDENCE_MAX } else { ROOT_MAX };

/// Longest message of all: the largest set. Taken only from a neighbour that was asked for one.
pub const SET_MESSAGE_MAX: usize = 16 + HEAD_MAX + 8 * 1024 * 1024;

const HAVE: u8 = 1;
const WANT: u8 = 2;
const ROOT: u8 = 3;
const SET: u8 = 4;
const FRESHNESS: u8 = 5;
const EVIDENCE: u8 = 6;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// Versions of the root document.
    Root,
    /// The revocation snapshot.
    Revocations,
    /// The policy set.
    Policy,
    /// The statements of freshness that were heard last.
    Statements,
}

impl Item {
    fn code(self) -> u8 {
        match self {
            Self::Root => 0,
            Self::Revocations => 1,
            Self::Policy => 2,
            Self::Statements => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Root, Self::Revocations, Self::Policy, Self::Statements].into_iter().find(|i| i.code() == code)
    }

    /// The item that holds sets of a kind.
    #[must_use]
    pub fn of(kind: SetKind) -> Self {
        match kind {
            SetKind::Revocations => Self::Revocations,
            SetKind::Policy => Self::Policy,
        }
    }
}

/// What a node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Have {
    /// Version of the root document; 0 for none.
    pub root: u64,
    /// The revocation snapshot.
    pub revocations: HeadRef,
    /// The policy set.
    pub policy: HeadRef,
}

impl Have {
    /// Nothing.
    pub const NOTHING: Self = Self { root: 0, revocations: HeadRef::NONE, policy: HeadRef::NONE };

    /// One of its parts; a root document's hash isn't told, since there is one of each version.
    #[must_use]
    pub fn item(&self, item: Item) -> HeadRef {
        match item {
            Item::Root => HeadRef { number: self.root, hash: SetHash::ZERO },
            Item::Revocations => self.revocations,
            Item::Policy => self.policy,
            Item::Statements => HeadRef::NONE,
        }
    }

    pub(super) fn set_item(&mut self, item: Item, reference: HeadRef) {
        match item {
            Item::Root => self.root = reference.number,
            Item::Revocations => self.revocations = reference,
            Item::Policy => self.policy = reference,
            Item::Statements => {}
        }
    }
}

/// A message between neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// This is what I hold now.
    Have(Have),
    /// Send me what you have above this number.
    Want {
        /// Of what.
        item: Item,
        /// The number that the asker holds.
        above: u64,
    },
    /// A version of the root document.
    Root(Box<SignedRoot>),
    /// A set.
    Set(SignedSet),
    /// A signer's word on what is newest.
    Freshness(Box<SignedFreshness>),
    /// A proof that a signer contradicts itself.
    Evidence(Box<ForkEvidence>),
}

impl Message {
    /// The message as bytes.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let (code, body) = match self {
            Self::Have(have) => {
                let mut body = have.root.to_be_bytes().to_vec();
                for part in [have.revocations, have.policy] {
                    body.extend(part.number.to_be_bytes());
                    body.extend(part.hash.0);
                }
                (HAVE, body)
            }
            Self::Want { item, above } => {
                let mut body = vec![item.code()];
                body.extend(above.to_be_bytes());
                (WANT, body)
            }
            Self::Root(root) => (ROOT, root.encode()?),
            Self::Set(set) => (SET, set.encode()?),
            Self::Freshness(signed) => (FRESHNESS, signed.encode()?),
            Self::Evidence(evidence) => (EVIDENCE, evidence.encode()?),
        };
        let mut out = Vec::with_capacity(2 + body.len());
        out.extend([VERSION, code]);
        out.extend(body);
        Ok(out)
    }

    /// Reads [`encode`](Self::encode)'s form. No signature is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > SET_MESSAGE_MAX {
            return Err(WireError::TooLarge { len: bytes.len(), max: SET_MESSAGE_MAX });
        }
        let (head, mut body) = bytes.split_first_chunk::<2>().ok_or(WireError::Malformed)?;
        let [found, code] = *head;
        if found != VERSION {
            return Err(WireError::UnsupportedVersion { found, supported: VERSION });
        }
        let message = match code {
            HAVE => {
                let root = number(&mut body)?;
                let (revocations, policy) = (reference(&mut body)?, reference(&mut body)?);
                Self::Have(Have { root, revocations, policy })
            }
            WANT => {
                let [item] = take(&mut body)?;
                let item = Item::from_code(item).ok_or(WireError::Malformed)?;
                Self::Want { item, above: number(&mut body)? }
            }
            ROOT => return Ok(Self::Root(Box::new(SignedRoot::decode(body)?))),
            SET => return Ok(Self::Set(SignedSet::decode(body)?)),
            FRESHNESS => return Ok(Self::Freshness(Box::new(SignedFreshness::decode(body)?))),
            EVIDENCE => return Ok(Self::Evidence(Box::new(ForkEvidence::decode(body)?))),
            _ => return Err(WireError::Malformed),
        };
        if body.is_empty() { Ok(message) } else { Err(WireError::Malformed) }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(WireError::Malformed)?;
    *bytes = rest;
    Ok(*head)
}

fn number(bytes: &mut &[u8]) -> Result<u64, WireError> {
    take(bytes).map(u64::from_be_bytes)
}

/// A set by number and hash. Number 0 is no set, and has no hash.
fn reference(bytes: &mut &[u8]) -> Result<HeadRef, WireError> {
    let reference = HeadRef { number: number(bytes)?, hash: SetHash(take(bytes)?) };
    let none = (reference.number == 0, reference.hash == SetHash::ZERO);
    if none.0 == none.1 { Ok(reference) } else { Err(WireError::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn have() -> Have {
        let revocations = HeadRef { number: 258, hash: SetHash([7; 32]) };
        Have { root: 1, revocations, policy: HeadRef::NONE }
    }

    #[test]
    fn the_wire_forms_are_frozen() {
        let mut bytes = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2];
        bytes.extend([7; 32]);
        bytes.extend([0; 40]);
        assert_eq!(Message::Have(have()).encode().unwrap(), bytes);
        assert_eq!(Message::decode(&bytes), Ok(Message::Have(have())));
        let want = Message::Want { item: Item::Policy, above: 9 };
        assert_eq!(want.encode().unwrap(), [1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(Message::decode(&want.encode().unwrap()), Ok(want));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Message::decode(&[1]), Err(WireError::Malformed));
        assert_eq!(Message::decode(&[1, 9]), Err(WireError::Malformed));
        let other = WireError::UnsupportedVersion { found: 2, supported: 1 };
        assert_eq!(Message::decode(&[2, 1]), Err(other));
        assert_eq!(Message::decode(&[1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 9]), Err(WireError::Malformed));
        let mut bytes = Message::Have(have()).encode().unwrap();
        bytes.push(0);
        assert_eq!(Message::decode(&bytes), Err(WireError::Malformed));
        let nameless = Have { policy: HeadRef { number: 3, hash: SetHash::ZERO }, ..have() };
        assert_eq!(Message::decode(&Message::Have(nameless).encode().unwrap()), Err(WireError::Malformed));
        let long = vec![1; SET_MESSAGE_MAX + 1];
        let too_large = WireError::TooLarge { len: SET_MESSAGE_MAX + 1, max: SET_MESSAGE_MAX };
        assert_eq!(Message::decode(&long), Err(too_large));
    }

    proptest! {
        #[test]
        fn decoded_is_canonical(mut bytes: Vec<u8>, code in 1u8..7) {
            for (to, from) in bytes.iter_mut().zip([VERSION, code]) { *to = from; }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode().unwrap(), bytes);
            }
        }

        #[test]
        fn round_trip(root: u64, number in 1u64.., hash: [u8; 32], above: u64) {
            prop_assume!(hash != [0; 32]);
            let policy = HeadRef { number, hash: SetHash(hash) };
            for message in [
                Message::Have(Have { root, revocations: HeadRef::NONE, policy }),
                Message::Want { item: Item::Root, above },
            ] {
                prop_assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
            }
        }
    }
}
