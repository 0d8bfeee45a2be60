//! Which set a node goes by: what it accepts, refuses, keeps as evidence, and when it has heard nothing for too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use meshara_identity::quorum::{Approval, KeyId, Quorum, SIGNERS_MAX};
use meshara_identity::{MeshId, NodeName, UnixMillis};

use super::fork::{Claim, ForkEvidence};
use super::freshness::{HeadRef, SignedFreshness};
use super::head::{SetHash, SetKind, SignedHead, SignedSet};
use super::outcome::{HearError, Heard, OfferError, Offered, StaleError};

/// How long a node goes on without a word from the signers: a day, so that a night without issuers ends nothing.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How far a signer's clock may be ahead: what identity allows between members.
pub const SKEW_MAX: Duration = Duration::from_secs(10 * 60);

/// How far a set's number may be above the one held. Without a bound, whoever stole enough keys could sign the last number there is, and no
/// later signers could ever follow (TUF's fast-forward attack, specification 1.0 §5.3.11). Two sets a second for the 90 days that a node may
/// sleep.
const JUMP_MAX: u64 = 1 << 24;
/// The highest number that a node takes which never heard of any: 2^24 thefts' jumps above zero, and exact in JSON.
const FIRST_MAX: u64 = 1 << 48;

/// Heads kept to compare with what others show: a fork is found when its other side comes within this many numbers.
const RECENT_MAX: usize = 16;

/// The content of a kind of set.
pub trait SetBody: Sized {
    /// The kind.
    const KIND: SetKind;
    /// Why bytes are no such content, or may not follow what was before.
    type Error: std::error::Error;

    /// Reads a body.
    fn decode(bytes: &[u8]) -> Result<Self, Self::Error>;

    /// Whether this may stand after `before`, which need not be its immediate predecessor.
    fn may_follow(&self, before: &Self) -> Result<(), Self::Error>;
}

struct Held<B> {
    set: SignedSet,
    reference: HeadRef,
    body: B,
    /// The keys whose approvals were verified.
    approved_by: Vec<KeyId>,
}

impl<B> Held<B> {
    /// Whether the keys that approved it are still enough.
    fn is_approved(&self, quorum: &Quorum) -> bool {
        let signers = self.approved_by.iter().filter_map(|key| quorum.signer_of(key));
        signers.map(|signer| &signer.name).collect::<BTreeSet<_>>().len() >= quorum.threshold()
    }
}

/// The newest set of one kind, and who confirmed that it is the newest.
pub struct Holder<B> {
    mesh: MeshId,
    limit: Duration,
    held: Option<Held<B>>,
    /// Heads up to the one held, by number.
    recent: VecDeque<(HeadRef, SignedHead)>,
    /// The latest statement of each signer.
    heard: BTreeMap<NodeName, SignedFreshness>,
    /// Whether a signer said that there was none yet.
    heard_of_none: bool,
}

impl<B: SetBody> Holder<B> {
    /// Holds nothing yet.
    pub fn new(mesh: MeshId, limit: Duration) -> Self {
        Self {
            mesh,
            limit,
            held: None,
            recent: VecDeque::new(),
            heard: BTreeMap::new(),
            heard_of_none: false,
        }
    }

    /// Holds the set that this node stored, whoever approved it then. Of its approvals those by `quorum`, the present signers, count.
    pub fn restored(
        mesh: MeshId,
        limit: Duration,
        set: SignedSet,
        quorum: Option<&Quorum>,
    ) -> Result<Self, OfferError<B::Error>> {
        let mut holder = Self::new(mesh, limit);
        let reference = holder.check_form(&set)?;
        if !set.is_whole() {
            return Err(OfferError::WrongBody);
        }
        let body = B::decode(&set.body).map_err(OfferError::Body)?;
        let verified = quorum.map(|quorum| approved_by::<B::Error>(&set.signed, quorum));
        let approved_by = verified.and_then(Result::ok).unwrap_or_default();
        holder.hold(Held { set, reference, body, approved_by });
        Ok(holder)
    }

    /// How long the signers may be silent.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The newest set, to store and to send; `None` before the first.
    pub fn set(&self) -> Option<&SignedSet> {
        self.held.as_ref().map(|held| &held.set)
    }

    /// Number and hash of the newest set.
    pub fn newest(&self) -> HeadRef {
        self.held.as_ref().map_or(HeadRef::NONE, |held| held.reference)
    }

    /// The newest content, whether it is confirmed or not: to refuse by it, never to accept.
    pub fn unconfirmed(&self) -> Option<&B> {
        self.held.as_ref().map(|held| &held.body)
    }

    /// The newest content (`None` before the first set), if enough signers confirmed it within the limit.
    pub fn current(&self, quorum: &Quorum, now: UnixMillis) -> Result<Option<&B>, StaleError> {
        let confirmed = self.confirmed(quorum);
        let stale = StaleError { confirmed, limit: self.limit };
        let until = confirmed.ok_or(stale)?.plus(self.limit);
        if now <= until { Ok(self.unconfirmed()) } else { Err(stale) }
    }

    /// When as many signers as must approve a set had last said that none is newer than the one held.
    pub fn confirmed(&self, quorum: &Quorum) -> Option<UnixMillis> {
        let held = self.newest();
        let mut times: Vec<_> = self
            .heard
            .iter()
            .filter(|(name, signed)| is_by(signed, name, quorum))
            .filter(|(_, signed)| {
                let newest = signed.statement.newest(B::KIND);
                newest.number < held.number || newest == held
            })
            .map(|(_, signed)| signed.statement.at)
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(quorum.threshold().checked_sub(1)?).copied()
    }

    /// The highest number that a signer spoke of and that isn't held: to ask the next neighbour for.
    pub fn wanted(&self) -> Option<u64> {
        let numbers = self.heard.values().map(|signed| signed.statement.newest(B::KIND).number);
        numbers.max().filter(|number| *number > self.newest().number)
    }

    /// The newest set that a signer spoke of.
    pub fn spoken_of(&self) -> Option<HeadRef> {
        let newest = self.heard.values().map(|signed| signed.statement.newest(B::KIND));
        newest.max_by_key(|newest| newest.number)
    }

    /// The statements that were heard last, one a signer: for a new neighbour, and for the store.
    pub fn statements(&self) -> impl Iterator<Item = &SignedFreshness> {
        self.heard.values()
    }

    /// Whether a set is held, or enough signers said that there is none.
    pub fn is_known(&self, quorum: &Quorum) -> bool {
        self.held.is_some() || self.confirmed(quorum).is_some()
    }

    /// Forgets what was said with keys that sign no more: a key that was stolen confirms nothing, and outshouts nobody, once it is replaced.
    pub fn signers_changed(&mut self, quorum: &Quorum) {
        self.heard.retain(|name, signed| is_by(signed, name, quorum));
    }

    /// Whether the set held has the approvals of the present signers. When it hasn't, since the signers have changed, it goes on being held;
    /// the new signers must approve its head, so that newcomers take it.
    pub fn is_approved(&self, quorum: &Quorum) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_approved(quorum))
    }

    /// Takes a set if it is the newest. When it was made doesn't matter: a node whose clock is wrong must not miss a revocation.
    pub fn offer(&mut self, mut set: SignedSet, quorum: &Quorum) -> Result<Offered, OfferError<B::Error>> {
        let offered = self.check_form(&set)?;
        let held = self.newest();
        // Cheap answers first: a known set costs no verification.
        if offered.number <= held.number {
            match self.recent_at(offered.number).map(|(known, _)| *known) {
                Some(known) if known == offered && known == held => return self.reapprove(set, quorum),
                Some(known) if known != offered => {}
                _ => return Ok(Offered::Stale { held: held.number }),
            }
        }
        let highest = if held.number == 0 && !self.heard_of_none {
            FIRST_MAX
        } else {
            held.number.saturating_add(JUMP_MAX)
        };
        if offered.number > highest {
            return Err(OfferError::TooFar { held: held.number, number: offered.number });
        }
        let approved_by = approved_by(&set.signed, quorum)?;
        if let Some(evidence) = self.contradicted_by(&set.signed, offered) {
            return Ok(Offered::Fork(Box::new(evidence)));
        }
        if !set.is_whole() {
            return Err(OfferError::WrongBody);
        }
        let body = B::decode(&set.body).map_err(OfferError::Body)?;
        if let Some(before) = self.unconfirmed() {
            body.may_follow(before).map_err(OfferError::Body)?;
        }
        keep_verified(&mut set.signed, &approved_by);
        self.hold(Held { set, reference: offered, body, approved_by });
        Ok(Offered::Accepted)
    }

    /// What needs neither clock nor signatures.
    fn check_form(&self, set: &SignedSet) -> Result<HeadRef, OfferError<B::Error>> {
        let head = &set.signed.head;
        if head.kind != B::KIND {
            return Err(OfferError::WrongKind);
        }
        if head.mesh != self.mesh {
            return Err(OfferError::WrongMesh);
        }
        let first = head.previous == SetHash::ZERO;
        if head.number == 0 || (head.number == 1) != first {
            return Err(OfferError::BadChain { number: head.number });
        }
        Ok(HeadRef::of(head)?)
    }

    /// The set that is held, with other approvals: looked at only when those held don't suffice any more.
    fn reapprove(&mut self, mut set: SignedSet, quorum: &Quorum) -> Result<Offered, OfferError<B::Error>> {
        match self.held.as_mut().filter(|held| !held.is_approved(quorum)) {
            None => Ok(Offered::Same),
            Some(held) => {
                held.approved_by = approved_by(&set.signed, quorum)?;
                keep_verified(&mut set.signed, &held.approved_by);
                held.set.signed = set.signed;
                // As evidence, too, it must verify under the present signers.
                let recent = self.recent.iter_mut().find(|(known, _)| *known == held.reference);
                if let Some((_, signed)) = recent {
                    signed.clone_from(&held.set.signed);
                }
                Ok(Offered::Reapproved)
            }
        }
    }

    fn hold(&mut self, held: Held<B>) {
        self.recent.push_back((held.reference, held.set.signed.clone()));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.held = Some(held);
    }

    /// Takes a signer's word on what is newest.
    pub fn hear(
        &mut self,
        signed: &SignedFreshness,
        quorum: &Quorum,
        now: UnixMillis,
    ) -> Result<Heard, HearError> {
        let statement = &signed.statement;
        if statement.mesh != self.mesh {
            return Err(HearError::WrongMesh);
        }
        if statement.at > now.plus(SKEW_MAX) {
            return Err(HearError::FromTheFuture { at: statement.at, now });
        }
        if self.heard.values().any(|known| known == signed) {
            return Ok(Heard::Known);
        }
        let signer = signed.signer(quorum)?;
        if self.heard.get(signer).is_some_and(|known| known.statement.at >= statement.at) {
            return Ok(Heard::Known);
        }
        let newest = statement.newest(B::KIND);
        if let Some((_, head)) = self.recent_at(newest.number).filter(|(known, _)| known.hash != newest.hash)
        {
            let other = Claim::Freshness(signed.clone());
            let evidence = ForkEvidence { one: Claim::Head(head.clone()), other };
            return Ok(match evidence.verify(&self.mesh, quorum) {
                Ok(_) => Heard::Fork(Box::new(evidence)),
                Err(_) => Heard::Other { number: newest.number },
            });
        }
        let held = self.newest().number;
        self.heard_of_none |= newest == HeadRef::NONE;
        self.heard.insert(signer.clone(), signed.clone());
        let names = quorum.names();
        if self.heard.len() > SIGNERS_MAX {
            // Those who sign no more make room; a quorum has no more than the limit.
            self.heard.retain(|name, _| names.contains(name));
        }
        Ok(match newest.number.cmp(&held) {
            std::cmp::Ordering::Equal => Heard::Newest,
            std::cmp::Ordering::Greater => Heard::Behind { number: newest.number },
            std::cmp::Ordering::Less => Heard::Older,
        })
    }

    fn recent_at(&self, number: u64) -> Option<&(HeadRef, SignedHead)> {
        self.recent.iter().find(|(known, _)| known.number == number)
    }

    /// The head held that an approved head contradicts: one of the same number, or the predecessor that it doesn't name.
    fn contradicted_by(&self, signed: &SignedHead, offered: HeadRef) -> Option<ForkEvidence> {
        let same = self.recent_at(offered.number).filter(|(known, _)| known.hash != offered.hash);
        let before = self
            .recent_at(offered.number.saturating_sub(1))
            .filter(|(known, _)| known.hash != signed.head.previous);
        let (_, head) = same.or(before)?;
        Some(ForkEvidence { one: Claim::Head(head.clone()), other: Claim::Head(signed.clone()) })
    }
}

/// Whether a statement was made with one of the keys that its signer has now.
fn is_by(signed: &SignedFreshness, name: &NodeName, quorum: &Quorum) -> bool {
    quorum.signer_of(&signed.key()).is_some_and(|signer| signer.name == *name)
}

/// Drops approvals that nobody verified: a later quorum may have the key that they pretend to be by.
fn keep_verified(signed: &mut SignedHead, verified: &[KeyId]) {
    signed.approvals.retain(|approval| verified.contains(&approval.key()));
}

/// The keys that approved a head, if their signers are enough.
fn approved_by<E: std::error::Error>(
    signed: &SignedHead,
    quorum: &Quorum,
) -> Result<Vec<KeyId>, OfferError<E>> {
    quorum.check(signed.head.kind.purpose(), &signed.head.encode()?, &signed.approvals)?;
    Ok(signed.approvals.iter().map(Approval::key).filter(|key| quorum.signer_of(key).is_some()).collect())
}
