//! The state machine: messages and the time go in, messages and changes come out.

mod visitor;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::root_chain::VERSION_MAX;
use meshara_identity::wire::WireError;
use meshara_identity::{MeshId, UnixMillis};

use super::message::{Have, Item, MESSAGE_MAX, Message, SET_MESSAGE_MAX};
use super::neighbour::Neighbour;
use crate::policy::{Compiled, PolicyError};
use crate::revocation::{RevocationError, Revocations};
use crate::root::{Advanced, RootDocument, RootError, SignedRoot, TrustedRoot};
use crate::sets::{
    ApprovalError, EvidenceError, Fork, ForkEvidence, Freshness, HeadRef, HearError, Heard, Holder,
    OfferError, Offered, Quorum, SetBody, SetKind, SignedFreshness, SignedSet, StaleError,
};
pub use visitor::Visit;

/// A neighbour that was asked and has not answered for so long is slow or worse: another one is asked beside it, the next after twice as
/// long, and so on.
const HEDGE: Duration = Duration::from_millis(500);
/// Neighbours asked for one item at once: as many as a node aims to have. Each may send 8 MiB.
const ASKED_MAX: usize = 8;
/// A neighbour that has not answered for so long is asked for this item no more. 8 MiB in a minute are 1.1 Mbit/s; what comes later is
/// taken all the same.
const ASK_FOR: Duration = Duration::from_secs(60);
/// A neighbour's request for all statements is served this often at most: 32 of them have 110 KB.
const STATEMENTS_EVERY: Duration = Duration::from_secs(1);
/// Evidence kept: one for each number of a kind. Signers that contradict themselves more often need no more proof.
const EVIDENCE_KEPT: usize = 16;
/// Versions of the root document kept, since newcomers walk them all.
const VERSIONS_MAX: usize = VERSION_MAX as usize;

/// A neighbour, as the driver numbers its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u64);

/// The time of an input: since the driver's start, and by the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Only grows.
    pub elapsed: Duration,
    /// What signatures are dated by.
    pub clock: UnixMillis,
}

/// What a node kept from an earlier life.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Versions of the root document from the first.
    pub roots: Vec<SignedRoot>,
    /// The newest revocation snapshot.
    pub revocations: Option<SignedSet>,
    /// The newest policy set.
    pub policy: Option<SignedSet>,
    /// Statements of freshness, one a signer.
    pub statements: Vec<SignedFreshness>,
}

/// Why a stored or a published statement was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GossipError {
    /// A root document.
    #[error("the root document is refused: {0}")]
    Root(#[from] RootError),
    /// A revocation snapshot.
    #[error("the revocation snapshot is refused: {0}")]
    Revocations(#[from] OfferError<RevocationError>),
    /// A policy set.
    #[error("the policy is refused: {0}")]
    Policy(#[from] OfferError<PolicyError>),
    /// A statement of freshness.
    #[error("the statement of freshness is refused: {0}")]
    Freshness(#[from] HearError),
    /// There is no root document, or it has ended: nobody's signature counts.
    #[error("this node knows no root document that is valid now, so no signature counts")]
    NoRoot,
    /// More versions than are kept.
    #[error("a root document can have {VERSIONS_MAX} versions")]
    TooManyVersions,
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What no honest neighbour sends. The driver closes the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// Bytes that are no message.
    #[error("a message about signed sets is refused: {0}")]
    Wire(#[from] WireError),
    /// A statement with a signature that doesn't verify, of another mesh, or that contradicts itself.
    #[error("a signed statement is refused: {0}")]
    Statement(GossipError),
    /// Evidence that proves nothing.
    #[error("evidence is refused: {0}")]
    Evidence(EvidenceError),
}

/// What is new, to be enforced and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A version of the root document.
    Root,
    /// A set, or its approvals.
    Set(SetKind),
    /// Statements of freshness.
    Statements,
    /// Signers contradict themselves.
    Fork(Fork),
    /// Something approved could not be used, or something was refused that honest nodes may send: for the log.
    Refused(GossipError),
}

/// What the driver has to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a message on the neighbour's stream, after those before it.
    Send {
        /// To whom.
        to: Peer,
        /// The message.
        message: Arc<[u8]>,
    },
    /// Enforce, store, count or log.
    Changed(Change),
}

/// What one node holds, and what its neighbours do.
pub struct Gossip {
    mesh: MeshId,
    root: Option<TrustedRoot>,
    versions: Vec<SignedRoot>,
    revocations: Holder<Revocations>,
    policy: Holder<Compiled>,
    evidence: Vec<(Fork, ForkEvidence)>,
    neighbours: BTreeMap<Peer, Neighbour>,
    /// The sets held as messages, since several neighbours ask at once.
    messages: BTreeMap<Item, (HeadRef, Arc<[u8]>)>,
    outputs: VecDeque<Output>,
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("have", &self.have()).finish_non_exhaustive()
    }
}

impl Gossip {
    /// Begins with what was stored; `limit` is how long the signers may be silent.
    pub fn new(mesh: MeshId, limit: Duration, stored: Stored, now: UnixMillis) -> Result<Self, GossipError> {
        let (root, versions) = walked(&mesh, stored.roots, now)?;
        // Whether the document has ended is no matter here: what is held is held.
        let quorum = root.as_ref().map(|root| &root.document().authority);
        let revocations = restored::<Revocations>(mesh, limit, stored.revocations, quorum)?;
        let policy = restored::<Compiled>(mesh, limit, stored.policy, quorum)?;
        let mut gossip = Self {
            mesh,
            root,
            versions,
            revocations,
            policy,
            evidence: Vec::new(),
            neighbours: BTreeMap::new(),
            messages: BTreeMap::new(),
            outputs: VecDeque::new(),
        };
        let now = Moment { elapsed: Duration::ZERO, clock: now };
        for signed in stored.statements {
            // A clock that was set back since, or signers that changed: then they are heard again.
            let _ = gossip.hear(now, None, signed);
        }
        gossip.outputs.clear();
        Ok(gossip)
    }

    /// What is held.
    pub fn have(&self) -> Have {
        Have {
            root: self.root.as_ref().map_or(0, |root| root.document().version),
            revocations: self.revocations.newest(),
            policy: self.policy.newest(),
        }
    }

    /// The root document, also when it has ended.
    pub fn root(&self) -> Option<&RootDocument> {
        self.root.as_ref().map(TrustedRoot::document)
    }

    /// All versions of the root document, to store.
    pub fn versions(&self) -> &[SignedRoot] {
        &self.versions
    }

    /// The revocations.
    pub fn revocations(&self) -> &Holder<Revocations> {
        &self.revocations
    }

    /// The policy.
    pub fn policy(&self) -> &Holder<Compiled> {
        &self.policy
    }

    /// The set of a kind, to store.
    pub fn set(&self, kind: SetKind) -> Option<&SignedSet> {
        match kind {
            SetKind::Revocations => self.revocations.set(),
            SetKind::Policy => self.policy.set(),
        }
    }

    /// The evidence kept, and what it proves.
    pub fn evidence(&self) -> impl Iterator<Item = &(Fork, ForkEvidence)> {
        self.evidence.iter()
    }

    /// Whose signatures count now: nobody's before the first root document, and after its end.
    pub fn authority(&self, now: UnixMillis) -> Option<&Quorum> {
        authority(self.root.as_ref(), now)
    }

    /// When enough signers last said that neither revocations nor policy are newer than those held.
    pub fn confirmed(&self) -> Option<UnixMillis> {
        let authority = &self.root.as_ref()?.document().authority;
        Some(self.revocations.confirmed(authority)?.min(self.policy.confirmed(authority)?))
    }

    /// Whether enough signers confirmed both sets within the limit: who passes on revocations and withholds the policy freezes nobody.
    pub fn current(&self, now: UnixMillis) -> Result<(), StaleError> {
        let never = StaleError { confirmed: None, limit: self.revocations.limit() };
        let authority = self.authority(now).ok_or(never)?;
        self.revocations.current(authority, now)?;
        self.policy.current(authority, now).map(drop)
    }

    /// Whether it is known what the mesh's policy is: a set is held, or enough signers said that there is none.
    pub fn knows_policy(&self) -> bool {
        self.root.as_ref().is_some_and(|root| self.policy.is_known(&root.document().authority))
    }

    /// What a signer says now.
    pub fn freshness(&self, at: UnixMillis) -> Freshness {
        let have = self.have();
        Freshness { mesh: self.mesh, at, revocations: have.revocations, policy: have.policy }
    }

    /// A neighbour's stream is ready both ways.
    pub fn peer_up(&mut self, now: Moment, peer: Peer) {
        self.neighbours.insert(peer, Neighbour::new());
        self.tell(peer);
        self.send_statements(now, peer);
        let evidence: Vec<_> = self.evidence.iter().map(|(_, evidence)| evidence.clone()).collect();
        for evidence in evidence {
            self.send(peer, &Message::Evidence(Box::new(evidence)));
        }
    }

    /// A neighbour is gone; what it was asked for, another one is.
    pub fn peer_down(&mut self, now: Moment, peer: Peer) {
        self.neighbours.remove(&peer);
        self.pursue(now);
    }

    /// Longest message that a neighbour may send now: a set only when it was asked for one.
    pub fn limit(&self, peer: Peer) -> usize {
        let asked = self.neighbours.get(&peer).is_some_and(|neighbour| {
            [Item::Revocations, Item::Policy].iter().any(|item| neighbour.asked.contains_key(item))
        });
        if asked { SET_MESSAGE_MAX } else { MESSAGE_MAX }
    }

    /// A message of a neighbour.
    ///
    /// # Errors
    /// What no honest neighbour sends: the link is to be closed.
    pub fn handle_message(&mut self, now: Moment, from: Peer, bytes: &[u8]) -> Result<(), Misbehaviour> {
        let message = Message::decode(bytes)?;
        let ours = self.have();
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return Ok(()) };
        match message {
            Message::Have(have) => {
                neighbour.tells(have, ours);
                self.ask_again(now, from);
                self.pursue(now);
                Ok(())
            }
            Message::Want { item, above } => {
                self.serve(now, from, item, above);
                Ok(())
            }
            Message::Root(signed) => self.root_from(now, from, *signed),
            Message::Set(set) => self.set_from(now, from, set),
            Message::Freshness(signed) => {
                neighbour.has(&signed);
                match self.hear(now, Some(from), *signed) {
                    Err(GossipError::Freshness(error)) if is_forged(&error) => {
                        Err(Misbehaviour::Statement(error.into()))
                    }
                    _ => Ok(()),
                }
            }
            Message::Evidence(evidence) => self.evidence_from(now, Some(from), *evidence),
        }
    }

    /// To be called when the time of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.pursue(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, since the driver's start.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let items = [Item::Root, Item::Revocations, Item::Policy];
        items.into_iter().filter_map(|item| self.next_look(item)).min()
    }

    /// The next thing to do. Call until it returns `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes a version of the root document that this node signed or was given, and passes it on.
    pub fn publish_root(&mut self, now: Moment, signed: SignedRoot) -> Result<Advanced, GossipError> {
        let advanced = self.advance(now, signed)?;
        self.tell_all();
        self.pursue(now);
        Ok(advanced)
    }

    /// Takes a set that this node signed or was given, and passes it on.
    pub fn publish_set(&mut self, now: Moment, set: SignedSet) -> Result<Offered, GossipError> {
        let item = Item::of(set.signed.head.kind);
        let offered = self.offer(now, set)?;
        if offered == Offered::Reapproved {
            self.tell_anew(item);
        }
        self.tell_all();
        Ok(offered)
    }

    /// Takes a statement that this node signed, and passes it on.
    pub fn publish_freshness(&mut self, now: Moment, signed: SignedFreshness) -> Result<(), GossipError> {
        self.hear(now, None, signed)
    }

    fn send(&mut self, to: Peer, message: &Message) {
        match message.encode() {
            Ok(bytes) => self.outputs.push_back(Output::Send { to, message: bytes.into() }),
            Err(error) => self.changed(Change::Refused(error.into())),
        }
    }

    fn changed(&mut self, change: Change) {
        self.outputs.push_back(Output::Changed(change));
    }

    /// A neighbour that was asked for approvals of a set, had none and gave no answer, tells that it has what this node has once more: by now
    /// it may have them.
    fn ask_again(&mut self, now: Moment, peer: Peer) {
        for item in [Item::Revocations, Item::Policy] {
            let above = self.have().item(item).number;
            if !self.unapproved(item, now.clock) {
                continue;
            }
            let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
            if neighbour.told_again.contains(&item) && neighbour.asked.contains_key(&item) {
                neighbour.told_again.remove(&item);
                neighbour.asked.insert(item, now.elapsed);
                self.send(peer, &Message::Want { item, above });
            }
        }
    }

    /// Whether the set held lacks the approvals of the present signers.
    fn unapproved(&self, item: Item, now: UnixMillis) -> bool {
        let Some(authority) = self.authority(now) else { return false };
        match item {
            Item::Revocations => !self.revocations.is_approved(authority),
            Item::Policy => !self.policy.is_approved(authority),
            Item::Root | Item::Statements => false,
        }
    }

    /// Tells all neighbours what is held, also those that were told so: a set has other approvals than before.
    fn tell_anew(&mut self, item: Item) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.said = None;
            neighbour.served.remove(&item);
        }
        self.tell_all();
    }

    /// Tells a neighbour what is held, unless it was told so.
    fn tell(&mut self, peer: Peer) {
        let have = self.have();
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        if neighbour.said.replace(have) != Some(have) {
            self.send(peer, &Message::Have(have));
        }
    }

    fn tell_all(&mut self) {
        let peers: Vec<Peer> = self.neighbours.keys().copied().collect();
        for peer in peers {
            self.tell(peer);
        }
    }

    fn send_statements(&mut self, now: Moment, peer: Peer) {
        let statements: Vec<_> = self.revocations.statements().cloned().collect();
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.statements_at = Some(now.elapsed);
        for signed in statements {
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.has(&signed);
            }
            self.send(peer, &Message::Freshness(Box::new(signed)));
        }
    }

    /// Answers a neighbour that wants something: once for each version.
    fn serve(&mut self, now: Moment, to: Peer, item: Item, above: u64) {
        let held = self.have().item(item);
        let Some(neighbour) = self.neighbours.get_mut(&to) else { return };
        let served = neighbour.served.get(&item).copied();
        match item {
            Item::Statements => {
                let lately = neighbour.statements_at.is_some_and(|at| now.elapsed < at + STATEMENTS_EVERY);
                // Before its first root document it could verify none.
                if !lately || served.is_none() {
                    neighbour.served.insert(item, HeadRef::NONE);
                    self.send_statements(now, to);
                }
            }
            Item::Root => {
                let from = served.map_or(0, |served| served.number).max(above);
                neighbour.served.insert(item, held);
                let versions = self.versions.iter().filter(|signed| signed.document.version > from);
                for signed in versions.cloned().collect::<Vec<_>>() {
                    self.send(to, &Message::Root(Box::new(signed)));
                }
            }
            Item::Revocations | Item::Policy => {
                if held.number == 0 || served == Some(held) {
                    return;
                }
                neighbour.served.insert(item, held);
                if let Some(message) = self.message(item, held) {
                    self.outputs.push_back(Output::Send { to, message });
                }
            }
        }
    }

    /// The set held, as a message.
    fn message(&mut self, item: Item, held: HeadRef) -> Option<Arc<[u8]>> {
        if let Some((known, message)) = self.messages.get(&item)
            && *known == held
        {
            return Some(message.clone());
        }
        let set = if item == Item::Policy { self.policy.set() } else { self.revocations.set() };
        let message: Arc<[u8]> = Message::Set(set?.clone()).encode().ok()?.into();
        self.messages.insert(item, (held, message.clone()));
        Some(message)
    }

    /// Asks for what others have and this node lacks.
    fn pursue(&mut self, now: Moment) {
        for item in [Item::Root, Item::Revocations, Item::Policy] {
            // Without a root nothing else can be verified.
            if item != Item::Root && self.authority(now.clock).is_none() {
                continue;
            }
            let held = self.have().item(item);
            for neighbour in self.neighbours.values_mut() {
                if neighbour.asked.get(&item).is_some_and(|at| now.elapsed >= *at + ASK_FOR) {
                    neighbour.refuse(item);
                }
            }
            let asked = self.asked(item);
            if asked.len() >= ASKED_MAX || patience(&asked).is_some_and(|until| now.elapsed < until) {
                continue;
            }
            // What a signer spoke of is there; a number that only a neighbour tells may be made up.
            let spoken_of = match item {
                Item::Revocations => self.revocations.spoken_of(),
                Item::Policy => self.policy.spoken_of(),
                _ => None,
            };
            let rank =
                |(peer, told): &(Peer, HeadRef)| (Some(*told) == spoken_of, told.number, Reverse(*peer));
            let unapproved = self.unapproved(item, now.clock);
            let Some((peer, _)) = self.candidates(item, held, unapproved).max_by_key(rank) else { continue };
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.told_again.remove(&item);
                neighbour.asked.insert(item, now.elapsed);
            }
            self.send(peer, &Message::Want { item, above: held.number });
        }
    }

    fn asked(&self, item: Item) -> Vec<Duration> {
        self.neighbours.values().filter_map(|neighbour| neighbour.asked.get(&item).copied()).collect()
    }

    /// Neighbours that could be asked for an item, with what they told.
    fn candidates(
        &self,
        item: Item,
        held: HeadRef,
        unapproved: bool,
    ) -> impl Iterator<Item = (Peer, HeadRef)> {
        self.neighbours
            .iter()
            .filter(move |(_, neighbour)| {
                !neighbour.asked.contains_key(&item) && neighbour.offers(item, held, unapproved)
            })
            .map(move |(peer, neighbour)| (*peer, neighbour.told.item(item)))
    }

    /// When an item that was asked for is to be looked at again.
    fn next_look(&self, item: Item) -> Option<Duration> {
        let asked = self.asked(item);
        let expires = asked.iter().min().map(|first| *first + ASK_FOR)?;
        let more =
            asked.len() < ASKED_MAX && self.candidates(item, self.have().item(item), false).next().is_some();
        let hedge = patience(&asked).filter(|_| more);
        Some(hedge.map_or(expires, |hedge| hedge.min(expires)))
    }

    fn advance(&mut self, now: Moment, signed: SignedRoot) -> Result<Advanced, GossipError> {
        if self.versions.len() >= VERSIONS_MAX {
            return Err(GossipError::TooManyVersions);
        }
        let advanced = match &mut self.root {
            Some(root) => root.advance(signed, now.clock)?,
            none => {
                *none = Some(TrustedRoot::first(&self.mesh, signed, now.clock)?);
                Advanced::Yes
            }
        };
        if advanced == Advanced::Yes {
            if let Some(root) = &self.root {
                self.versions.push(root.signed().clone());
                self.revocations.signers_changed(&root.document().authority);
                self.policy.signers_changed(&root.document().authority);
            }
            // What nobody's signature was good for may be good now.
            for neighbour in self.neighbours.values_mut() {
                neighbour.refused.clear();
            }
            self.changed(Change::Root);
        }
        Ok(advanced)
    }

    fn root_from(&mut self, now: Moment, from: Peer, signed: SignedRoot) -> Result<(), Misbehaviour> {
        let version = signed.document.version;
        let outcome = self.advance(now, signed);
        let held = self.have().root;
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.told.root = neighbour.told.root.max(version);
            if held >= neighbour.told.root {
                neighbour.asked.remove(&Item::Root);
            }
        }
        match outcome {
            Ok(Advanced::Yes) => {
                self.tell_all();
                // Those that came before could not be verified.
                self.send(from, &Message::Want { item: Item::Statements, above: 0 });
            }
            Ok(Advanced::Same) | Err(GossipError::Root(RootError::Rollback { .. })) => {}
            Err(error) => {
                if let Some(neighbour) = self.neighbours.get_mut(&from) {
                    neighbour.refuse(Item::Root);
                }
                if let GossipError::Root(
                    RootError::WrongMesh
                    | RootError::NotFounder
                    | RootError::OldQuorum(ApprovalError::BadSignature { .. })
                    | RootError::NewQuorum(ApprovalError::BadSignature { .. }),
                ) = &error
                {
                    return Err(Misbehaviour::Statement(error));
                }
                self.changed(Change::Refused(error));
            }
        }
        self.pursue(now);
        Ok(())
    }

    /// Takes a set into its holder.
    fn offer(&mut self, now: Moment, set: SignedSet) -> Result<Offered, GossipError> {
        let kind = set.signed.head.kind;
        let authority = authority(self.root.as_ref(), now.clock).ok_or(GossipError::NoRoot)?;
        let offered = match kind {
            SetKind::Revocations => self.revocations.offer(set, authority)?,
            SetKind::Policy => self.policy.offer(set, authority)?,
        };
        match &offered {
            Offered::Accepted | Offered::Reapproved => {
                self.messages.remove(&Item::of(kind));
                self.changed(Change::Set(kind));
            }
            Offered::Fork(evidence) => {
                let evidence = evidence.as_ref().clone();
                // Between quorums that share no signer it may prove nothing.
                let _ = self.evidence_from(now, None, evidence);
            }
            Offered::Same | Offered::Stale { .. } => {}
        }
        Ok(offered)
    }

    fn set_from(&mut self, now: Moment, from: Peer, set: SignedSet) -> Result<(), Misbehaviour> {
        let item = Item::of(set.signed.head.kind);
        let reference = HeadRef::of(&set.signed.head)?;
        let offered = self.offer(now, set);
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.asked.remove(&item);
            if reference.number >= neighbour.told.item(item).number {
                neighbour.told.set_item(item, reference);
            }
        }
        match offered {
            Ok(Offered::Accepted) => self.tell_all(),
            Ok(Offered::Reapproved) => self.tell_anew(item),
            Ok(Offered::Same) => {}
            Ok(Offered::Stale { .. } | Offered::Fork(_)) => self.refuse(from, item),
            Err(error) => {
                self.refuse(from, item);
                if is_dishonest(&error) {
                    return Err(Misbehaviour::Statement(error));
                }
                self.changed(Change::Refused(error));
            }
        }
        self.pursue(now);
        Ok(())
    }

    fn refuse(&mut self, peer: Peer, item: Item) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.refuse(item);
        }
    }

    /// Takes a statement of freshness and passes it on if it is news.
    fn hear(&mut self, now: Moment, from: Option<Peer>, signed: SignedFreshness) -> Result<(), GossipError> {
        let authority = authority(self.root.as_ref(), now.clock).ok_or(GossipError::NoRoot)?;
        let of_revocations = self.revocations.hear(&signed, authority, now.clock)?;
        let of_policy = self.policy.hear(&signed, authority, now.clock)?;
        let mut news = false;
        for heard in [of_revocations, of_policy] {
            news |= heard != Heard::Known;
            if let Heard::Fork(evidence) = heard {
                let _ = self.evidence_from(now, None, *evidence);
            }
        }
        if !news {
            return Ok(());
        }
        self.changed(Change::Statements);
        let others = self.neighbours.iter_mut().filter(|(peer, _)| Some(**peer) != from);
        let lacking: Vec<Peer> =
            others.filter_map(|(peer, neighbour)| neighbour.lacks(&signed).then_some(*peer)).collect();
        let message = Message::Freshness(Box::new(signed));
        for peer in lacking {
            self.send(peer, &message);
        }
        Ok(())
    }

    /// Verifies evidence, keeps it and passes it on if it is news.
    fn evidence_from(
        &mut self,
        now: Moment,
        from: Option<Peer>,
        evidence: ForkEvidence,
    ) -> Result<(), Misbehaviour> {
        let Some(authority) = authority(self.root.as_ref(), now.clock) else { return Ok(()) };
        let fork = match evidence.verify(&self.mesh, authority) {
            Ok(fork) => fork,
            // Honest nodes may go by another root document still.
            Err(EvidenceError::NobodySignedBoth) => return Ok(()),
            Err(error) => return Err(Misbehaviour::Evidence(error)),
        };
        let known = |(known, _): &(Fork, _)| known.kind == fork.kind && known.number == fork.number;
        if self.evidence.len() >= EVIDENCE_KEPT || self.evidence.iter().any(known) {
            return Ok(());
        }
        self.evidence.push((fork.clone(), evidence.clone()));
        self.changed(Change::Fork(fork));
        let others: Vec<Peer> = self.neighbours.keys().copied().filter(|peer| Some(*peer) != from).collect();
        let message = Message::Evidence(Box::new(evidence));
        for peer in others {
            self.send(peer, &message);
        }
        Ok(())
    }
}

/// Until when those that were asked are waited for before one more is.
fn patience(asked: &[Duration]) -> Option<Duration> {
    let last = asked.iter().max()?;
    Some(*last + HEDGE * (1_u32 << (asked.len() - 1).min(ASKED_MAX)))
}

/// Walks the versions that were stored, and gives them with the approvals that suffice.
fn walked(
    mesh: &MeshId,
    stored: Vec<SignedRoot>,
    now: UnixMillis,
) -> Result<(Option<TrustedRoot>, Vec<SignedRoot>), RootError> {
    let mut versions = Vec::with_capacity(stored.len());
    let mut held: Option<TrustedRoot> = None;
    for signed in stored {
        match &mut held {
            Some(root) => {
                if root.restore(signed, now)? == Advanced::Same {
                    continue;
                }
            }
            none => *none = Some(TrustedRoot::first(mesh, signed, now)?),
        }
        versions.extend(held.as_ref().map(|root| root.signed().clone()));
    }
    Ok((held, versions))
}

fn authority(root: Option<&TrustedRoot>, now: UnixMillis) -> Option<&Quorum> {
    Some(&root?.valid_at(now).ok()?.authority)
}

fn restored<B: SetBody>(
    mesh: MeshId,
    limit: Duration,
    stored: Option<SignedSet>,
    quorum: Option<&Quorum>,
) -> Result<Holder<B>, OfferError<B::Error>> {
    match stored {
        Some(set) => Holder::restored(mesh, limit, set, quorum),
        None => Ok(Holder::new(mesh, limit)),
    }
}

/// Whether no honest node passes such a statement on.
fn is_forged(error: &HearError) -> bool {
    matches!(error, HearError::WrongMesh | HearError::Approval(ApprovalError::BadSignature { .. }))
}

/// Whether no honest node sends such a set. One that goes by another root document may send one without enough approvals.
fn is_dishonest(error: &GossipError) -> bool {
    fn of<E: std::error::Error>(error: &OfferError<E>) -> bool {
        !matches!(
            error,
            OfferError::Approval(ApprovalError::NotEnough { .. })
                | OfferError::Body(_)
                | OfferError::TooFar { .. }
        )
    }
    match error {
        GossipError::Revocations(error) => of(error),
        GossipError::Policy(error) => of(error),
        _ => false,
    }
}
