//! What a node of the twin holds of signed sets, and who signs them: the core `gossip` with real signatures.
//!
//! Verifying one takes some 0.2 ms, and a node verifies each statement once, so a thousand nodes stay faster than real time. Signatures have
//! random bytes, as ML-DSA's have; nothing in the trace depends on them, since their lengths don't.

use std::sync::OnceLock;
use std::time::Duration;

use meshara_identity::{NodeId, RootKey, UnixMillis};
use meshara_trust::gossip::{Gossip, Moment, Stored};
use meshara_trust::revocation::Revocations;
use meshara_trust::root::{ROOT_LIFE_MAX, RootDocument, SignedRoot};
use meshara_trust::sets::{
    KeyId, Quorum, SetBody, SetHead, SetKind, SignedFreshness, SignedHead, SignedSet, Signer,
};
use zeroize::Zeroizing;

use crate::auth::Revoked;
use crate::mail::UNIX_MS;

/// Keys of the mesh: the founder's, and those of later authorities in turn.
const KEYS: u8 = 3;
/// How long the signers may be silent.
const SILENCE: Duration = Duration::from_secs(24 * 3600);

/// The keys, the same in every world, so that a replayed run has the same mesh. None if they can't be made.
fn keys() -> &'static [RootKey] {
    static MADE: OnceLock<Vec<RootKey>> = OnceLock::new();
    MADE.get_or_init(|| {
        let make = |n: u8| RootKey::from_seeds(&Zeroizing::new([[n + 1; 32], [n + 101; 32]])).ok();
        (0..KEYS).map_while(make).collect()
    })
}

/// The signed sets of a running node.
pub(crate) struct Trust {
    pub(crate) gossip: Gossip,
    /// The event under way to wake this part.
    pub(crate) timer: Option<Duration>,
    /// What the overlay and handshakes go by.
    pub(crate) revoked: Revoked,
    /// Something is on its way to the disk.
    pub(crate) writing: bool,
    /// Something is new since.
    pub(crate) dirty: bool,
}

pub(crate) fn moment(now: Duration) -> Moment {
    Moment { elapsed: now, clock: UnixMillis(UNIX_MS).plus(now) }
}

impl Trust {
    /// Begins with what the disk holds. None if that contradicts itself.
    pub(crate) fn start(stored: Stored, revoked: Revoked, now: Duration) -> Option<Self> {
        let mesh = keys().first()?.public().fingerprint();
        let gossip = Gossip::new(mesh, SILENCE, stored, moment(now).clock).ok()?;
        Some(Self { gossip, timer: None, revoked, writing: false, dirty: false })
    }

    /// What would be written now.
    pub(crate) fn stored(&self) -> Stored {
        Stored {
            roots: self.gossip.versions().to_vec(),
            revocations: self.gossip.set(SetKind::Revocations).cloned(),
            policy: self.gossip.set(SetKind::Policy).cloned(),
            statements: self.gossip.revocations().statements().cloned().collect(),
        }
    }
}

/// The key of this mesh that signs for it now.
fn signing(gossip: &Gossip, clock: UnixMillis) -> Option<&'static RootKey> {
    let authority = gossip.authority(clock)?;
    keys().iter().find(|key| authority.signer_of(&KeyId::of(key.public())).is_some())
}

fn alone(number: usize) -> Option<Quorum> {
    let signer =
        Signer { name: format!("signer-{number}").parse().ok()?, key: keys().get(number)?.public().clone() };
    Quorum::new(1, vec![signer]).ok()
}

/// Version 1 of the root document.
pub(crate) fn founding() -> Option<SignedRoot> {
    let key = keys().first()?;
    let name = "founder".parse().ok()?;
    let document = RootDocument::founding(key, name, alone(0)?, UnixMillis(UNIX_MS), ROOT_LIFE_MAX).ok()?;
    let mut signed = SignedRoot::new(document);
    signed.approve(key).ok()?;
    Some(signed)
}

/// The next version, with another authority.
pub(crate) fn rotated(gossip: &Gossip, clock: UnixMillis) -> Option<SignedRoot> {
    let held = gossip.root()?;
    let next = held.version + 1;
    let authority = alone(usize::try_from(held.version).ok()? % usize::from(KEYS))?;
    let (issued_at, expires_at) = (clock, clock.plus(ROOT_LIFE_MAX));
    let document = RootDocument { version: next, issued_at, expires_at, authority, ..held.clone() };
    let mut signed = SignedRoot::new(document);
    signed.approve(keys().first()?).ok()?;
    Some(signed)
}

/// The snapshot held, approved by the present signer as well: what a new authority does first.
pub(crate) fn reapproved(gossip: &Gossip, clock: UnixMillis) -> Option<SignedSet> {
    let mut set = gossip.set(SetKind::Revocations)?.clone();
    set.signed.approve(signing(gossip, clock)?).ok()?;
    Some(set)
}

/// The snapshot after the one held, which revokes `node` too.
pub(crate) fn revoking(gossip: &Gossip, clock: UnixMillis, node: NodeId) -> Option<SignedSet> {
    let mut revocations: Revocations = gossip.revocations().unconfirmed().cloned().unwrap_or_default();
    revocations.revoke(node, clock, "the scenario says so".parse().ok()?).ok()?;
    let body = revocations.encode().ok()?;
    let previous = gossip.set(SetKind::Revocations).map(|set| &set.signed.head);
    let mesh = gossip.root()?.mesh;
    let head = SetHead::following(previous, Revocations::KIND, mesh, clock, &body).ok()?;
    let mut signed = SignedHead::new(head);
    signed.approve(signing(gossip, clock)?).ok()?;
    Some(SignedSet { signed, body })
}

/// The signer's word on what is newest.
pub(crate) fn confirming(gossip: &Gossip, clock: UnixMillis) -> Option<SignedFreshness> {
    gossip.freshness(clock).sign(signing(gossip, clock)?).ok()
}

/// A member that nobody sees any more: the `number`th to be revoked.
pub(crate) fn former(number: u64) -> NodeId {
    NodeId(blake3::derive_key("meshara twin former member", &number.to_be_bytes()))
}
