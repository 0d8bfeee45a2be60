//! The head of a numbered set, which signers approve, and the set itself.

use std::fmt;

use data_encoding::HEXLOWER;
use meshara_identity::quorum::{APPROVALS_MAX, Approval, Approvals};
use meshara_identity::root::Purpose;
use meshara_identity::wire::{self, WireError};
use meshara_identity::{KeyError, MeshId, RootKey, UnixMillis};
use serde::{Deserialize, Serialize};

/// Longest signed head: 110 bytes and 64 approvals of 3.4 KB.
pub const HEAD_MAX: usize = 256 + APPROVALS_MAX * 3500;

/// Hash of a head or of a body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetHash(pub [u8; 32]);

impl SetHash {
    /// What stands before the first set.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of a body.
    pub fn of_body(body: &[u8]) -> Self {
        Self(blake3::derive_key("meshara 2026-11 numbered set body v1", body))
    }
}

impl fmt::Display for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetHash({self})")
    }
}

/// What a set is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SetKind {
    /// Nodes that are members no more.
    Revocations,
    /// Rules of who may do what.
    Policy,
}

impl SetKind {
    /// What its signers sign about.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Revocations => Purpose::Revocations,
            Self::Policy => Purpose::Policy,
        }
    }

    /// Longest body. Each is sent whole, so it must cross a slow link within a minute: 8 MiB hold 100,000 revocations with
    /// reasons of 40 characters, 4 MiB 10,000 rules of 400 bytes.
    pub fn body_max(self) -> usize {
        match self {
            Self::Revocations => 8 * 1024 * 1024,
            Self::Policy => 4 * 1024 * 1024,
        }
    }
}

/// Number, chain and content of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetHead {
    /// What it is of.
    pub kind: SetKind,
    /// The mesh it is for.
    pub mesh: MeshId,
    /// Its number, from 1.
    pub number: u64,
    /// Hash of the head before it; [`SetHash::ZERO`] for number 1.
    pub previous: SetHash,
    /// When it was made.
    pub issued_at: UnixMillis,
    /// Hash of the body.
    pub body_hash: SetHash,
    /// Length of the body.
    pub body_len: u32,
}

impl SetHead {
    /// The head of the first set, or of the one that follows `previous`.
    pub fn following(
        previous: Option<&Self>,
        kind: SetKind,
        mesh: MeshId,
        issued_at: UnixMillis,
        body: &[u8],
    ) -> Result<Self, WireError> {
        let too_large = WireError::TooLarge { len: body.len(), max: kind.body_max() };
        let body_len = match u32::try_from(body.len()) {
            Ok(len) if body.len() <= kind.body_max() => len,
            _ => return Err(too_large),
        };
        let number = previous.map_or(0, |head| head.number).checked_add(1).ok_or(WireError::Malformed)?;
        let previous = previous.map_or(Ok(SetHash::ZERO), Self::hash)?;
        Ok(Self { kind, mesh, number, previous, issued_at, body_hash: SetHash::of_body(body), body_len })
    }

    /// What signers sign: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, HEAD_MAX)
    }

    /// The hash by which the next set names this one.
    pub fn hash(&self) -> Result<SetHash, WireError> {
        Ok(SetHash(blake3::derive_key("meshara 2026-11 numbered set head v1", &self.encode()?)))
    }
}

/// A head and its approvals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// What is approved.
    pub head: SetHead,
    /// By whom.
    pub approvals: Approvals,
}

impl SignedHead {
    /// A head that nobody has approved yet.
    pub fn new(head: SetHead) -> Self {
        Self { head, approvals: Approvals::default() }
    }

    /// Adds the approval of `key`.
    pub fn approve(&mut self, key: &RootKey) -> Result<(), KeyError> {
        let statement = self.head.encode().map_err(|_| KeyError::Signing)?;
        let approval = Approval::sign(key, self.head.kind.purpose(), &statement)?;
        if self.approvals.add(approval) { Ok(()) } else { Err(KeyError::Signing) }
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. Nothing is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, HEAD_MAX)
    }
}

/// A whole set as it travels and is stored: `version | length of the signed head, u32 | signed head | body`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedSet {
    /// The approved head.
    pub signed: SignedHead,
    /// What it is about, in the form of its kind.
    pub body: Vec<u8>,
}

/// Version of [`SignedSet`]'s form.
const SET_VERSION: u8 = 1;

impl SignedSet {
    /// Encoded form.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let head = self.signed.encode()?;
        let len = u32::try_from(head.len()).map_err(|_| WireError::Malformed)?;
        let mut out = Vec::with_capacity(5 + head.len() + self.body.len());
        out.push(SET_VERSION);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(&self.body);
        Ok(out)
    }

    /// Reads [`encode`](Self::encode)'s form; length and hash of the body must be the head's. No approval is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (&found, rest) = bytes.split_first().ok_or(WireError::Malformed)?;
        if found != SET_VERSION {
            return Err(WireError::UnsupportedVersion { found, supported: SET_VERSION });
        }
        let (len, rest) = rest.split_first_chunk().ok_or(WireError::Malformed)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| WireError::Malformed)?;
        let (head, body) = rest.split_at_checked(len).ok_or(WireError::Malformed)?;
        let signed = SignedHead::decode(head)?;
        let set = Self { signed, body: body.to_vec() };
        if set.is_whole() { Ok(set) } else { Err(WireError::Malformed) }
    }

    /// Whether the body is the one that the head names, and not too long.
    pub fn is_whole(&self) -> bool {
        Self::belong(&self.signed.head, &self.body)
    }

    /// Whether `body` is the one that `head` names, and not too long.
    pub fn belong(head: &SetHead, body: &[u8]) -> bool {
        body.len() <= head.kind.body_max()
            && u32::try_from(body.len()) == Ok(head.body_len)
            && SetHash::of_body(body) == head.body_hash
    }
}
