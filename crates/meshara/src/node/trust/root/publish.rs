//! From approvals to what the mesh goes by: statements that enough signers approved, here or elsewhere.

use std::sync::Arc;

use meshara_identity::grant::GrantStatement;
use meshara_identity::{IssuerGrant, TrustAnchors, UnixMillis};
use meshara_trust::audit::{Event, Outcome, Words};
use meshara_trust::gossip::{Gossip, GossipError};
use meshara_trust::root::{
    DetachedSignature, OfflineError, RootDocument, RootError, SignedRoot, Statement, StatementFile,
};
use meshara_trust::sets::{
    Approvals, HeadRef, KeyId, Offered, Quorum, SetHead, SetKind, SignedHead, SignedSet,
};

use super::proposals;
use super::signing::{self, JournalFile};
use crate::node::trust::sets::{self, PublishError};
use crate::node::{Inner, standing};

/// A statement that the mesh goes by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// `root`, `revocations`, `policy` or `grant`.
    pub(crate) kind: &'static str,
    /// Its version or number.
    pub(crate) number: u64,
    /// Whether it was known already.
    pub(crate) known: bool,
}

/// What follows the set held, and what this node signs of it.
pub(in crate::node::trust) struct Draft {
    head: SetHead,
    body: Vec<u8>,
    needed: usize,
    id: KeyId,
}

/// Makes the next set of a kind, to be approved by a key of this node. Numbers that this node's key signed in proposals that were given
/// up are skipped, with one more: so nothing contradicts what it signed.
pub(in crate::node::trust) fn draft(
    inner: &Inner,
    kind: SetKind,
    body: impl FnOnce(&Gossip) -> Result<Vec<u8>, PublishError>,
) -> Result<Draft, PublishError> {
    let sets = &inner.sets;
    let now = UnixMillis::now();
    let journal = JournalFile::of_home(sets.home()).read()?;
    let keys = sets.keys();
    sets.view(|gossip| {
        let authority = gossip.authority(now).ok_or(GossipError::NoRoot)?;
        let key = keys.of(authority).ok_or(PublishError::NoAuthority)?;
        let id = KeyId::of(key.public());
        let root = gossip.root().ok_or(GossipError::NoRoot)?;
        let body = body(gossip)?;
        let previous = gossip.set(kind).map(|set| &set.signed.head);
        let mut head = SetHead::following(previous, kind, root.mesh, now, &body)?;
        let signed = journal.highest(id, kind.purpose());
        if signed >= head.number {
            head.number = signed.saturating_add(2);
        }
        Ok(Draft { head, body, needed: authority.threshold(), id })
    })
}

/// Approves a draft as this node's signer. Where that is enough the set is written before it is returned; else a proposal is, and the
/// error says so. Blocks.
pub(in crate::node::trust) fn approve(inner: &Inner, draft: Draft) -> Result<SignedSet, PublishError> {
    let Draft { head, body, needed, id } = draft;
    let sets = &inner.sets;
    let keys = sets.keys();
    let key = keys.all().find(|key| KeyId::of(key.public()) == id).ok_or(PublishError::NoAuthority)?;
    let file = StatementFile::set(&head, body)?;
    let signature = signing::sign(&file, key, &JournalFile::of_home(sets.home()), false)?;
    if needed > 1 {
        return Err(PublishError::Proposed(proposals::write(sets.home(), &file, &[signature], needed)?));
    }
    let mut signed = SignedHead::new(head);
    let quorum =
        sets.view(|gossip| gossip.authority(UnixMillis::now()).cloned()).ok_or(GossipError::NoRoot)?;
    file.join(signature, &[&quorum], &mut signed.approvals)?;
    let set = SignedSet { signed, body: file.body().to_vec() };
    sets.write(&set)?;
    Ok(set)
}

/// Takes a statement and the signatures that came back, and publishes it if they are enough.
///
/// # Errors
/// [`PublishError`]: which signature is of no use, or how many are missing. Nothing was published.
pub(crate) async fn publish(
    inner: &Arc<Inner>,
    file: StatementFile,
    signatures: Vec<DetachedSignature>,
) -> Result<Published, PublishError> {
    let _alone = inner.sets.signing().await;
    let statement = file.statement()?;
    let (kind, number) = (statement.word(), statement.number());
    let published = take(inner, &file, statement, signatures).await;
    if let Err(error) = &published {
        inner.audit.record(Event::Publication {
            statement: Words::clean(kind),
            number,
            outcome: Outcome::Refused(Words::clean(&error.to_string())),
        });
    }
    published
}

async fn take(
    inner: &Arc<Inner>,
    file: &StatementFile,
    statement: Statement,
    signatures: Vec<DetachedSignature>,
) -> Result<Published, PublishError> {
    let kind = statement.word();
    match statement {
        Statement::Root(document) => root(inner, file, *document, signatures).await,
        Statement::Grant(statement) => grant(inner, file, *statement, signatures).await,
        Statement::Revocations(head, _) | Statement::Policy(head, _) => {
            let set = join_set(inner, file, head, signatures)?;
            let number = set.signed.head.number;
            let (work, stored) = (inner.clone(), set.clone());
            // What this node would refuse must not be written: it is offered first, and on the disk before anybody is told that it is done.
            let offered = inner.sets.input(inner, |gossip, now| gossip.publish_set(now, set))?;
            let known = offered == Offered::Same;
            match offered {
                Offered::Accepted | Offered::Reapproved => {
                    let written = tokio::task::spawn_blocking(move || work.sets.write(&stored));
                    written.await.map_err(|_| PublishError::Stopping)??;
                }
                Offered::Same => {}
                other => return Err(PublishError::NotNewest(Box::new(other))),
            }
            sets::confirm(inner);
            Ok(Published { kind, number, known })
        }
        _ => Err(OfflineError::WrongStatement.into()),
    }
}

/// The set with the approvals that came, and those that it has already where it is held.
fn join_set(
    inner: &Inner,
    file: &StatementFile,
    head: SetHead,
    signatures: Vec<DetachedSignature>,
) -> Result<SignedSet, PublishError> {
    let reference = HeadRef::of(&head)?;
    let (held, quorum) = inner.sets.view(|gossip| {
        let held = gossip.set(head.kind).map(|set| &set.signed);
        let same = held.filter(|held| HeadRef::of(&held.head).is_ok_and(|held| held == reference));
        let approvals = same.map(|held| held.approvals.clone()).unwrap_or_default();
        (approvals, gossip.authority(UnixMillis::now()).cloned())
    });
    let quorum = quorum.ok_or(GossipError::NoRoot)?;
    // Of former signers nothing is kept: those who sign now have to be found by whoever verifies.
    let mut approvals = Approvals::default();
    let present = held.iter().filter(|approval| quorum.signer_of(&approval.key()).is_some());
    for approval in present {
        let _ = approvals.add(approval.clone());
    }
    for signature in signatures {
        file.join(signature, &[&quorum], &mut approvals)?;
    }
    quorum.check(file.purpose(), &head.encode()?, &approvals).map_err(OfflineError::from)?;
    Ok(SignedSet { signed: SignedHead { head, approvals }, body: file.body().to_vec() })
}

/// Publishes a version of the root document. Durable when this returns.
async fn root(
    inner: &Arc<Inner>,
    file: &StatementFile,
    document: RootDocument,
    signatures: Vec<DetachedSignature>,
) -> Result<Published, PublishError> {
    let held = inner.sets.view(|gossip| gossip.root().cloned()).ok_or(GossipError::NoRoot)?;
    if document.mesh != held.mesh {
        return Err(GossipError::Root(RootError::WrongMesh).into());
    }
    if document == held {
        // Its approvals are of the signers before, of whom nothing is held any more.
        return Ok(Published { kind: "root", number: held.version, known: true });
    }
    let mut approvals = Approvals::default();
    for signature in signatures {
        file.join(signature, &[&held.root, &document.root], &mut approvals)?;
    }
    let number = document.version;
    let (before, phase) = (held.phase, document.phase);
    if number > held.version {
        keeps_grants(inner, &document)?;
    }
    let signed = SignedRoot { document, approvals };
    inner.sets.input(inner, |gossip, now| gossip.publish_root(now, signed))?;
    let work = inner.clone();
    let written = tokio::task::spawn_blocking(move || work.sets.write_all());
    written.await.map_err(|_| PublishError::Stopping)??;
    if phase != before {
        inner.audit.record(Event::Phase { version: number, phase: phase as u8, outcome: Outcome::Done });
    }
    // It is published, whatever becomes of this; it is tried again.
    if let Err(error) = follow_root(inner).await {
        tracing::error!(%error, "grants can't be judged by the newest root document yet");
    }
    Ok(Published { kind: "root", number, known: false })
}

/// Judges grants by the newest root document that is held here.
async fn follow_root(inner: &Arc<Inner>) -> Result<(), PublishError> {
    let versions = inner.sets.view(|gossip| gossip.versions().to_vec());
    standing::rooted(inner, &versions).await?;
    Ok(())
}

/// Whether all who issue go on under a version of the root document, but for the revoked. One that was granted after the version was written
/// would be dropped without anybody's wish.
fn keeps_grants(inner: &Inner, document: &RootDocument) -> Result<(), PublishError> {
    if document.grants.is_none() {
        // Held versions may be so old; a new one says what stands.
        return Err(GossipError::Root(RootError::NamesNoGrants).into());
    }
    let (anchors, now) = (inner.standing.anchors(), UnixMillis::now());
    for grant in anchors.in_force().filter(|grant| grant.statement.not_after >= now) {
        let (issuer, number) = (grant.statement.issuer, grant.statement.number);
        let stands = grant.is_named_in(document) || grant.check_under(document).is_ok();
        if !stands && !inner.sets.revoked.contains(&issuer) {
            return Err(PublishError::DropsGrant { issuer, number });
        }
    }
    Ok(())
}

/// Publishes a grant. Durable when this returns; the issuer begins when it hears of it.
async fn grant(
    inner: &Arc<Inner>,
    file: &StatementFile,
    statement: GrantStatement,
    signatures: Vec<DetachedSignature>,
) -> Result<Published, PublishError> {
    let (mesh, quorum) = inner.sets.root_quorum()?.ok_or(GossipError::NoRoot)?;
    if statement.mesh_id != Some(mesh) {
        return Err(GossipError::Root(RootError::WrongMesh).into());
    }
    // Gossip may be ahead of the anchors, or the disk failed when they were to follow: a grant of the new signers would seem to be of strangers.
    follow_root(inner).await?;
    let number = statement.number;
    let held = |anchors: &TrustAnchors| anchors.in_force().any(|held| held.statement == statement);
    let known = held(&inner.standing.anchors());
    if !known {
        let mut approvals = Approvals::default();
        for signature in signatures {
            file.join(signature, &[&quorum], &mut approvals)?;
        }
        let bytes = statement.encode()?;
        quorum.check(file.purpose(), &bytes, &approvals).map_err(OfflineError::from)?;
        // Grants travel with every join: more approvals than are needed would only make them longer.
        let approvals = quorum.sufficient(&approvals);
        let grant = IssuerGrant::approved(statement.clone(), approvals)?;
        standing::learn(inner, std::slice::from_ref(&grant)).await?;
        if !held(&inner.standing.anchors()) {
            return Err(PublishError::GrantNotTaken { number });
        }
    }
    Ok(Published { kind: "grant", number, known })
}

/// Approves the sets held anew as one of the present signers, after the signers changed. Where this node's approval is not enough, it writes
/// a proposal, once. Blocks.
pub(in crate::node::trust) fn reapprove(inner: &Arc<Inner>) -> Vec<SignedSet> {
    let mut done = Vec::new();
    for kind in [SetKind::Revocations, SetKind::Policy] {
        match reapprove_one(inner, kind) {
            Ok(set) => done.extend(set),
            Err(PublishError::Proposed(proposed)) => {
                tracing::warn!(file = %proposed.file.display(), needed = proposed.needed, "the mesh has other signers: they must approve the set held with `trust sign` and `trust publish`");
            }
            Err(error) => tracing::error!(%error, "the set held could not be approved anew"),
        }
    }
    done
}

fn reapprove_one(inner: &Inner, kind: SetKind) -> Result<Option<SignedSet>, PublishError> {
    let sets = &inner.sets;
    let now = UnixMillis::now();
    let keys = sets.keys();
    let lacking = sets.view(|gossip| {
        let quorum = gossip.authority(now)?;
        let approved = match kind {
            SetKind::Revocations => gossip.revocations().is_approved(quorum),
            _ => gossip.policy().is_approved(quorum),
        };
        Some((quorum.clone(), gossip.set(kind)?.clone())).filter(|_| !approved)
    });
    let Some((quorum, set)) = lacking else { return Ok(None) };
    let Some(key) = keys.of(&quorum) else { return Ok(None) };
    let id = KeyId::of(key.public());
    if present(&set, &quorum).any(|held| held == id) {
        // It has done its part.
        return Ok(None);
    }
    let journal = JournalFile::of_home(sets.home());
    let file = StatementFile::set(&set.signed.head, set.body.clone())?;
    let before = journal.read()?.highest(id, kind.purpose());
    if before == set.signed.head.number && quorum.threshold() > 1 {
        // The proposal was written already.
        return Ok(None);
    }
    let signature = signing::sign(&file, key, &journal, false)?;
    let mut approvals = Approvals::default();
    for approval in set.signed.approvals.iter().filter(|held| quorum.signer_of(&held.key()).is_some()) {
        let _ = approvals.add(approval.clone());
    }
    file.join(signature.clone(), &[&quorum], &mut approvals)?;
    let signed = SignedHead { head: set.signed.head.clone(), approvals };
    let enough = quorum.check(kind.purpose(), &signed.head.encode()?, &signed.approvals).is_ok();
    if !enough {
        let needed = quorum.threshold();
        return Err(PublishError::Proposed(proposals::write(sets.home(), &file, &[signature], needed)?));
    }
    let set = SignedSet { signed, body: set.body };
    sets.write(&set)?;
    Ok(Some(set))
}

/// The keys of present signers that approved a set.
fn present<'a>(set: &'a SignedSet, quorum: &'a Quorum) -> impl Iterator<Item = KeyId> + 'a {
    let keys = set.signed.approvals.iter().map(meshara_trust::sets::Approval::key);
    keys.filter(|key| quorum.signer_of(key).is_some())
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
