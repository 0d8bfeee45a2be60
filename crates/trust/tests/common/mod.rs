//! Signers and times that the tests share.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::OnceLock;

use meshara_identity::{NodeId, RootKey, UnixMillis};
use meshara_trust::sets::{Quorum, SetBody, SetHead, SetKind, SignedHead, SignedSet, Signer};
use zeroize::Zeroizing;

pub(crate) const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

/// Keys that are the same in every run, so that frozen files verify.
pub(crate) fn key(number: usize) -> &'static RootKey {
    static KEYS: OnceLock<Vec<RootKey>> = OnceLock::new();
    let make = |n: u8| RootKey::from_seeds(&Zeroizing::new([[n + 1; 32], [n + 101; 32]])).unwrap();
    &KEYS.get_or_init(|| (0..8).map(make).collect())[number]
}

pub(crate) fn signer(name: &str, number: usize) -> Signer {
    Signer { name: name.parse().unwrap(), key: key(number).public().clone() }
}

pub(crate) fn quorum(threshold: u8, signers: &[(&str, usize)]) -> Quorum {
    Quorum::new(threshold, signers.iter().map(|(name, number)| signer(name, *number)).collect()).unwrap()
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

/// A set approved by these keys.
pub(crate) fn set(
    previous: Option<&SignedSet>,
    kind: SetKind,
    body: Vec<u8>,
    at: UnixMillis,
    keys: &[usize],
) -> SignedSet {
    let previous = previous.map(|set| &set.signed.head);
    let mesh = key(0).public().fingerprint();
    let mut signed = SignedHead::new(SetHead::following(previous, kind, mesh, at, &body).unwrap());
    for number in keys {
        signed.approve(key(*number)).unwrap();
    }
    SignedSet { signed, body }
}

/// Reads a body.
pub(crate) fn body<B: SetBody>(bytes: &[u8]) -> B {
    B::decode(bytes).unwrap()
}
