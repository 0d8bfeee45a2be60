//! Which set a node goes by: what it accepts, refuses, keeps as evidence, and when it has heard nothing for too long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meshara_identity::wire::WireError;
use meshara_identity::{MeshId, NodeName, UnixMillis};

use super::fork::{Claim, ForkEvidence};
use super::freshness::{HeadRef, SignedFreshness};
use super::head::{SetHash, SetKind, SignedHead, SignedSet};
use super::quorum::{ApprovalError, Quorum, SIGNERS_MAX};

/// How long a node goes on without a word from the signers: a day, so that a weekend's repair of all issuers is noticed, and a
/// night's is not.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How far a signer's clock may be ahead: what identity allows between members.
pub const SKEW_MAX: Duration = Duration::from_secs(10 * 60);

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

/// What became of an offered set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is the newest and was taken; flood it on.
    Accepted,
    /// It is the one held.
    Same,
    /// It is older than the one held and was ignored; send the newer one back.
    Stale {
        /// Number of the one held.
        held: u64,
    },
    /// Its signers contradict themselves. What was held is still held; flood the evidence.
    Fork(Box<ForkEvidence>),
}

/// Why an offered set was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError<E: std::error::Error> {
    /// Of another kind.
    #[error("a set of another kind")]
    WrongKind,
    /// Of another mesh.
    #[error("a set of another mesh")]
    WrongMesh,
    /// Body and head don't belong together.
    #[error("the body is not the one that the head names")]
    WrongBody,
    /// Number 0, or number 1 with a predecessor, or a later one without.
    #[error("number {number} cannot have this predecessor")]
    BadChain {
        /// Its number.
        number: u64,
    },
    /// Made later than now.
    #[error("issued at {issued_at}, and this machine's clock shows {now}: set the clock if that is wrong")]
    FromTheFuture {
        /// When it says it was made.
        issued_at: UnixMillis,
        /// This machine's clock.
        now: UnixMillis,
    },
    /// Not approved.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Approved, but the content can't be used.
    #[error("the content is refused: {0}")]
    Body(E),
}

/// What a statement of freshness told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// What is held is the newest.
    Newest,
    /// There is a newer one; ask for it.
    Behind {
        /// Its number.
        number: u64,
    },
    /// The signer doesn't know the newest yet.
    Older,
    /// Not later than what this signer said before.
    Known,
    /// It contradicts a head. Flood the evidence.
    Fork(Box<ForkEvidence>),
}

/// Why a statement of freshness was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HearError {
    /// Of another mesh.
    #[error("a statement of another mesh")]
    WrongMesh,
    /// Made later than now.
    #[error("said at {at}, and this machine's clock shows {now}: set the clock if that is wrong")]
    FromTheFuture {
        /// The signer's clock.
        at: UnixMillis,
        /// This machine's clock.
        now: UnixMillis,
    },
    /// Not by a signer.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

/// Nothing was heard from enough signers for longer than the limit: nothing may be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct StaleError {
    /// When enough signers last confirmed what is held; `None`: never.
    pub confirmed: Option<UnixMillis>,
    /// The limit.
    pub limit: Duration,
}

impl StaleError {
    fn text(self) -> String {
        let hours = self.limit.as_secs() / 3600;
        match self.confirmed {
            Some(at) => format!(
                "no signer has confirmed revocations and policy since {at}, the limit is {hours} h: connect to a member that \
                 hears them, and check the clock"
            ),
            None => "no signer has confirmed revocations and policy yet".to_owned(),
        }
    }
}

struct Held<B> {
    set: SignedSet,
    reference: HeadRef,
    body: B,
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
}

impl<B: SetBody> Holder<B> {
    /// Holds nothing yet.
    pub fn new(mesh: MeshId, limit: Duration) -> Self {
        Self { mesh, limit, held: None, recent: VecDeque::new(), heard: BTreeMap::new() }
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
        let names = quorum.names();
        let mut times: Vec<_> = self
            .heard
            .iter()
            .filter(|(name, _)| names.contains(name))
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

    /// The statements that were heard last, one a signer: for a new neighbour, and for the store.
    pub fn statements(&self) -> impl Iterator<Item = &SignedFreshness> {
        self.heard.values()
    }

    /// Takes a set if it is the newest.
    pub fn offer(
        &mut self,
        set: SignedSet,
        quorum: &Quorum,
        now: UnixMillis,
    ) -> Result<Offered, OfferError<B::Error>> {
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
        let offered = HeadRef::of(head)?;
        let held = self.newest();
        // Cheap answers first: a known set costs no verification.
        if offered.number <= held.number {
            match self.recent_at(offered.number) {
                Some((known, _)) if known.hash == offered.hash && known.number == held.number => {
                    return Ok(Offered::Same);
                }
                Some((known, _)) if known.hash != offered.hash => {}
                _ => return Ok(Offered::Stale { held: held.number }),
            }
        }
        if head.issued_at > now.plus(SKEW_MAX) {
            return Err(OfferError::FromTheFuture { issued_at: head.issued_at, now });
        }
        quorum.check(B::KIND.purpose(), &head.encode()?, &set.signed.approvals)?;
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
        self.recent.push_back((offered, set.signed.clone()));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.held = Some(Held { set, reference: offered, body });
        Ok(Offered::Accepted)
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
            return Ok(Heard::Fork(Box::new(ForkEvidence { one: Claim::Head(head.clone()), other })));
        }
        let held = self.newest().number;
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
