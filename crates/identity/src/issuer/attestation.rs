//! What an issuer asks of a newcomer beside the ticket. A ticket names kinds of attestation, and each kind is judged by its [`Attestor`];
//! further kinds (a TPM's quote, a cloud's instance document) are further attestors, and no message changes for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::store::{Applied, Listed, StoreError, Txn};
use super::{Issuer, IssuerError};
use crate::ids::{NodeId, UnixMillis};
use crate::join::Refusal;
use crate::leaf::roles_are_canonical;
use crate::names::{NodeName, RoleName};

/// A kind of attestation. Numbers below 256 are Meshara's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttestationKind(pub u16);

impl AttestationKind {
    /// An operator says yes to each node, [`Issuer::answer_application`].
    pub const APPROVAL: Self = Self(1);
    /// The node is on the issuer's list, [`Issuer::allow`].
    pub const LISTED: Self = Self(2);
}

/// Most kinds that one ticket asks for, or one request has evidence of.
pub const KINDS_MAX: usize = 4;

/// Longest evidence of one kind in bytes: a TPM's quote with its certificates, and room for a request's 11 KB of keys beside it.
pub const EVIDENCE_MAX: usize = 8 * 1024;

/// Most nodes that wait for a decision at a time; a megabyte of store. The ones that asked first leave first.
pub const APPLICANTS_MAX: usize = 1024;

/// Most of them with one ticket, so that who has one can't drive out all that wait with others.
const APPLICANTS_PER_TICKET: usize = 64;

/// Most nodes on the issuer's list: as many as a mesh of the size that Meshara aims at has.
pub const LISTED_MAX: u64 = 10_000;

/// What a newcomer shows for one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The kind.
    pub kind: AttestationKind,
    /// What the kind's attestor reads, at most [`EVIDENCE_MAX`] bytes. The request's signatures cover it.
    pub bytes: Vec<u8>,
}

/// Who asks, as far as the ticket's holder proved it.
pub struct Applicant<'a> {
    /// The node, which proved its key.
    pub node: NodeId,
    /// The name that it asks for; it is free, or this node's.
    pub name: &'a NodeName,
    /// What it shows for the kind that is judged.
    pub evidence: Option<&'a [u8]>,
    /// The issuer's clock.
    pub now: UnixMillis,
    ticket: &'a [u8; 16],
    txn: &'a Txn,
}

impl fmt::Debug for Applicant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applicant")
            .field("node", &self.node)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why a newcomer isn't attested.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unattested {
    /// It hears this; nothing is written.
    Refused(Refusal),
    /// Somebody has to decide first: it hears [`Refusal::AwaitingApproval`], and may ask again with the same ticket.
    Waits,
    /// The issuer failed.
    Failed(StoreError),
}

impl From<StoreError> for Unattested {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Judges one kind of evidence.
pub trait Attestor: Send + Sync + fmt::Debug {
    /// Whether this node may join, and the roles that it has by this beside its ticket's. Blocks shortly at most: other requests wait.
    ///
    /// # Errors
    /// [`Unattested`].
    fn attest(&self, applicant: &Applicant<'_>) -> Result<Vec<RoleName>, Unattested>;
}

/// Waits until an operator has decided.
#[derive(Debug)]
struct ByApproval;

impl Attestor for ByApproval {
    fn attest(&self, applicant: &Applicant<'_>) -> Result<Vec<RoleName>, Unattested> {
        let known = applicant.txn.applied(&applicant.node)?;
        // What was decided about one name, or with one ticket, says nothing about another: so an approval ends with its ticket.
        match known.filter(|known| known.name == *applicant.name && known.ticket == *applicant.ticket) {
            Some(Applied { decision: Verdict::Approved, roles, .. }) => Ok(roles),
            Some(Applied { decision: Verdict::Declined, .. }) => Err(Unattested::Refused(Refusal::Declined)),
            Some(_) => Err(Unattested::Waits),
            None => {
                let applied = Applied {
                    ticket: *applicant.ticket,
                    name: applicant.name.clone(),
                    since: applicant.now,
                    decision: Verdict::Waiting,
                    roles: Vec::new(),
                };
                applicant.txn.make_room_for_applicant(
                    applicant.ticket,
                    APPLICANTS_PER_TICKET,
                    APPLICANTS_MAX,
                )?;
                applicant.txn.put_applied(&applicant.node, &applied)?;
                Err(Unattested::Waits)
            }
        }
    }
}

/// Looks into the issuer's list.
#[derive(Debug)]
struct ByList;

impl Attestor for ByList {
    fn attest(&self, applicant: &Applicant<'_>) -> Result<Vec<RoleName>, Unattested> {
        match applicant.txn.listed(&applicant.node)? {
            Some(Listed { name, roles }) if name.as_ref().is_none_or(|name| name == applicant.name) => {
                Ok(roles)
            }
            _ => Err(Unattested::Refused(Refusal::NotListed)),
        }
    }
}

/// What was said about a node that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing yet.
    Waiting,
    /// It may join, under the name that it asked for.
    Approved,
    /// It may not.
    Declined,
}

/// Names one application: this node, under this name, with this ticket. Whoever decides says it, so that nobody can change what he looked at.
///
/// The first ten bytes of a BLAKE3 hash: two with one id cost 2^40 key pairs, and a node has one application at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplicationId([u8; 10]);

/// Derives it, over NodeId, ticket id and name.
const APPLICATION_ID: &str = "meshara 2026-11 application id v1";

impl ApplicationId {
    fn of(node: &NodeId, applied: &Applied) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(APPLICATION_ID);
        hasher.update(&node.0).update(&applied.ticket).update(applied.name.as_str().as_bytes());
        let mut id = [0; 10];
        hasher.finalize_xof().fill(&mut id);
        Self(id)
    }
}

impl fmt::Display for ApplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A node that waits, or about which was decided and that hasn't come back yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// What a decision names.
    pub id: ApplicationId,
    /// The node.
    pub node: NodeId,
    /// The name that it asks for.
    pub name: NodeName,
    /// When it first asked.
    pub since: UnixMillis,
    /// What was decided.
    pub decision: Verdict,
    /// The roles that its ticket gives it beside those that the decision does.
    pub ticket_roles: Vec<RoleName>,
}

/// A node on the issuer's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The node.
    pub node: NodeId,
    /// The only name that it may have; any free one without.
    pub name: Option<NodeName>,
    /// Roles that it has beside its ticket's, sorted, each once.
    pub roles: Vec<RoleName>,
}

/// The attestors that an issuer has.
#[derive(Debug)]
pub(super) struct Attestors(RwLock<HashMap<AttestationKind, Arc<dyn Attestor>>>);

impl Default for Attestors {
    fn default() -> Self {
        let own: [(_, Arc<dyn Attestor>); 2] =
            [(AttestationKind::APPROVAL, Arc::new(ByApproval)), (AttestationKind::LISTED, Arc::new(ByList))];
        Self(RwLock::new(HashMap::from(own)))
    }
}

impl Attestors {
    /// Judges a newcomer by every kind that its ticket asks for; all roles that it has by them.
    pub(super) fn judge(
        &self,
        kinds: &[AttestationKind],
        evidence: &[Evidence],
        (node, name, ticket): (NodeId, &NodeName, &[u8; 16]),
        (txn, now): (&Txn, UnixMillis),
    ) -> Result<Vec<RoleName>, Unattested> {
        let mut roles = Vec::new();
        for kind in kinds {
            let attestor = self.0.read().unwrap_or_else(PoisonError::into_inner).get(kind).cloned();
            let attestor =
                attestor.ok_or(Unattested::Refused(Refusal::UnknownAttestation { kind: kind.0 }))?;
            let evidence = evidence.iter().find(|one| one.kind == *kind).map(|one| one.bytes.as_slice());
            roles.extend(attestor.attest(&Applicant { node, name, evidence, now, ticket, txn })?);
        }
        Ok(roles)
    }
}

/// An application as it stands; none whose ticket has ended.
fn shown(
    txn: &Txn,
    node: NodeId,
    applied: Applied,
    now: UnixMillis,
) -> Result<Option<Application>, StoreError> {
    if txn.ticket(&applied.ticket)?.is_none_or(|ticket| ticket.expires_at <= now) {
        return Ok(None);
    }
    let (id, ticket_roles) = (ApplicationId::of(&node, &applied), txn.ticket_roles(&applied.ticket)?);
    let Applied { name, since, decision, .. } = applied;
    Ok(Some(Application { id, node, name, since, decision, ticket_roles }))
}

impl Issuer {
    /// From now on tickets may ask for `kind`, and this judges it. Replaces the one before.
    pub fn attest_with(&self, kind: AttestationKind, attestor: Arc<dyn Attestor>) {
        self.attestors.0.write().unwrap_or_else(PoisonError::into_inner).insert(kind, attestor);
    }

    /// The nodes that wait for a decision, and those that haven't come back after one; the longest waiting first. None whose ticket has
    /// ended.
    ///
    /// # Errors
    /// The store fails.
    pub fn applications(&self, now: UnixMillis) -> Result<Vec<Application>, IssuerError> {
        let txn = self.store.begin()?;
        let mut all = Vec::new();
        for (node, applied) in txn.all_applied()? {
            all.extend(shown(&txn, node, applied, now)?);
        }
        all.sort_by_key(|application| (application.since, application.node));
        Ok(all)
    }

    /// Decides about a node that asked: it may join under the name and with the ticket that it asked with, with these roles beside the
    /// ticket's (sorted, each once), or it may not. `None` when nobody asks so any more: it asked anew under another name or with another
    /// ticket, or its ticket has ended.
    ///
    /// # Errors
    /// [`IssuerError::Roles`]; the store fails.
    pub fn answer_application(
        &self,
        id: &ApplicationId,
        approved: bool,
        roles: &[RoleName],
        now: UnixMillis,
    ) -> Result<Option<Application>, IssuerError> {
        if !roles_are_canonical(roles) {
            return Err(IssuerError::Roles);
        }
        let txn = self.store.begin()?;
        let asks = |(node, applied): &(NodeId, Applied)| ApplicationId::of(node, applied) == *id;
        let Some((node, mut applied)) = txn.all_applied()?.into_iter().find(asks) else { return Ok(None) };
        applied.decision = if approved { Verdict::Approved } else { Verdict::Declined };
        applied.roles = roles.to_vec();
        txn.put_applied(&node, &applied)?;
        let Some(shown) = shown(&txn, node, applied, now)? else { return Ok(None) };
        txn.commit()?;
        Ok(Some(shown))
    }

    /// Puts a node on the list, or changes what the list says of it.
    ///
    /// # Errors
    /// [`IssuerError::Roles`], [`IssuerError::TooManyListed`]; the store fails.
    pub fn allow(&self, allowed: &Allowed) -> Result<(), IssuerError> {
        let Allowed { node, name, roles } = allowed.clone();
        if !roles_are_canonical(&roles) {
            return Err(IssuerError::Roles);
        }
        let txn = self.store.begin()?;
        if txn.listed(&node)?.is_none() && txn.listed_count()? >= LISTED_MAX {
            return Err(IssuerError::TooManyListed);
        }
        txn.put_listed(&node, &Listed { name, roles })?;
        Ok(txn.commit()?)
    }

    /// Takes a node off the list; what the list said of it. One that has joined stays a member.
    ///
    /// # Errors
    /// The store fails.
    pub fn disallow(&self, node: &NodeId) -> Result<Option<Allowed>, IssuerError> {
        let txn = self.store.begin()?;
        let removed = txn.remove_listed(node)?;
        txn.commit()?;
        Ok(removed.map(|Listed { name, roles }| Allowed { node: *node, name, roles }))
    }

    /// The list, by NodeId.
    ///
    /// # Errors
    /// The store fails.
    pub fn allowed(&self) -> Result<Vec<Allowed>, IssuerError> {
        let listed = self.store.begin()?.all_listed()?;
        Ok(listed.into_iter().map(|(node, Listed { name, roles })| Allowed { node, name, roles }).collect())
    }
}
