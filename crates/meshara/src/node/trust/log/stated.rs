//! Writes into this issuer's log what it goes by: grants, versions of the root document, phases, revocations, policies. And that the
//! enrolments of the revoked ended, which frees their names. And changes of roles that were not logged when they were made.
//!
//! What the log says already is read from the log itself, so no crash can keep anything out of it for good, or write it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshara_identity::{NodeId, UnixMillis, WireError};
use meshara_trust::log::entry::Statement;
use meshara_trust::log::{Ended, Entry, LogError, Phase, Tiles};
use meshara_trust::revocation::Revocations;
use meshara_trust::sets::SetKind;

use super::OwnLog;
use crate::node::Inner;

/// Entries read at a time: 0.1 s, after which the log is published again. A log of a million entries is read in some seconds after a start.
const READ: u64 = 64 * 1024;
/// Entries appended at a time: a few hundred KB, a small part of what may wait to be published.
const APPENDED: usize = 1024;
/// Derives the hash of a root document (BLAKE3, over its encoding).
const ROOT_HASH: &str = "meshara 2026-11 root document v1";
/// Derives the hash of a grant (BLAKE3, over its encoding, with its signatures).
const GRANT_HASH: &str = "meshara 2026-11 issuer grant v1";

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Issuer(#[from] meshara_identity::IssuerError),
    #[error(transparent)]
    Roles(#[from] meshara_identity::issuer::RolesError),
}

/// Number and hash.
type Named = (u64, [u8; 32]);

/// What this node goes by.
#[derive(Debug, Default)]
struct Held {
    /// Version and hash of the root document, and its phase.
    root: Option<(Named, u8)>,
    revocations: Option<Named>,
    policy: Option<Named>,
    grants: BTreeMap<NodeId, Named>,
    revoked: BTreeSet<NodeId>,
}

/// Its numbers: as long as they stay, so does the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbers {
    root: u64,
    revocations: u64,
    policy: u64,
    grants: Vec<(NodeId, u64)>,
}

/// What the log says already.
#[derive(Debug, Default)]
pub(super) struct Stated {
    read: u64,
    root: u64,
    phase: Option<u8>,
    revocations: u64,
    policy: u64,
    grants: BTreeMap<NodeId, u64>,
    enrolled: BTreeSet<NodeId>,
    /// Whose enrolment ended, and whose name may still be theirs in the issuer's store.
    ended: BTreeSet<NodeId>,
    /// With these numbers there is nothing to do.
    settled: Option<Numbers>,
}

/// Brings the log up to what this node goes by now. What it appends is published by the next checkpoint. Blocks.
pub(super) fn state(inner: &Arc<Inner>, own: &OwnLog, stated: &mut Stated) -> Result<(), StateError> {
    if !stated.read(own)? {
        return Ok(());
    }
    if let Some(issuer) = inner.standing.issuer() {
        issuer.log_role_changes()?;
    }
    let numbers = numbers(inner);
    if stated.settled.as_ref() == Some(&numbers) {
        return Ok(());
    }
    let held = held(inner)?;
    // From here on no certificate of theirs gets into the log, and so none after the end of its enrolment.
    own.bar(held.revoked.clone());
    let missing = stated.missing(&held, UnixMillis::now());
    if missing.is_empty() {
        stated.release(inner)?;
        stated.settled = Some(numbers);
    } else {
        own.append(&missing)?;
    }
    Ok(())
}

fn numbers(inner: &Inner) -> Numbers {
    let have = inner.sets.view(meshara_trust::gossip::Gossip::have);
    let anchors = inner.standing.anchors();
    let grants = anchors.grants().iter().map(|grant| (grant.statement.issuer, grant.statement.number));
    Numbers {
        root: have.root,
        revocations: have.revocations.number,
        policy: have.policy.number,
        grants: grants.collect(),
    }
}

fn held(inner: &Inner) -> Result<Held, WireError> {
    let mut held = inner.sets.view(|gossip| {
        let set = |kind| {
            let head = gossip.set(kind).map(|set| &set.signed.head);
            head.map(|head| Ok::<_, WireError>((head.number, head.hash()?.0))).transpose()
        };
        let root = gossip.root().map(|root| {
            let hash = blake3::derive_key(ROOT_HASH, &root.encode()?);
            Ok::<_, WireError>(((root.version, hash), root.phase as u8))
        });
        let revoked = gossip.revocations().unconfirmed().map(Revocations::revoked).unwrap_or_default();
        Ok::<_, WireError>(Held {
            root: root.transpose()?,
            revocations: set(SetKind::Revocations)?,
            policy: set(SetKind::Policy)?,
            grants: BTreeMap::new(),
            revoked: revoked.into_iter().map(|revocation| revocation.node).collect(),
        })
    })?;
    for grant in inner.standing.anchors().grants() {
        let named = (grant.statement.number, blake3::derive_key(GRANT_HASH, &grant.encode()?));
        let newest = held.grants.entry(grant.statement.issuer).or_insert(named);
        if newest.0 < named.0 {
            *newest = named;
        }
    }
    Ok(held)
}

impl Stated {
    /// Reads what was published and not read yet; whether that was all.
    fn read(&mut self, own: &OwnLog) -> Result<bool, LogError> {
        let end = self.read + READ;
        while self.read < end {
            let (size, entries) = own.with(|log| {
                let size = log.size();
                let some = self.read < size;
                Ok((size, if some { Tiles::new(log.files(), size).entries(self.read)? } else { Vec::new() }))
            })?;
            if entries.is_empty() {
                return Ok(self.read == size);
            }
            self.read += entries.len() as u64;
            entries.iter().filter_map(|bytes| Entry::decode(bytes).ok()).for_each(|entry| self.take(&entry));
        }
        Ok(false)
    }

    fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Root(statement) => self.root = self.root.max(statement.number),
            Entry::Phase(phase) => self.phase = self.phase.max(Some(phase.phase)),
            Entry::Revocations(statement) => self.revocations = self.revocations.max(statement.number),
            Entry::Policy(statement) => self.policy = self.policy.max(statement.number),
            Entry::Grant { issuer, grant } => {
                let number = self.grants.entry(*issuer).or_default();
                *number = grant.number.max(*number);
            }
            Entry::Enrolment(enrolment) => {
                self.enrolled.insert(enrolment.node);
                self.ended.remove(&enrolment.node);
                // It may have been revoked since.
                self.settled = None;
            }
            Entry::Ended(ended) => {
                self.enrolled.remove(&ended.node);
                self.ended.insert(ended.node);
                self.settled = None;
            }
            _ => {}
        }
    }

    /// What the log lacks, at most [`APPENDED`].
    fn missing(&self, held: &Held, at: UnixMillis) -> Vec<Entry> {
        let statement = |(number, hash): Named| Statement { number, hash, at };
        let newer = |held: Option<Named>, stated: u64| held.filter(|held| held.0 > stated).map(statement);
        let root = newer(held.root.map(|(root, _)| root), self.root).map(Entry::Root);
        let phase = held.root.filter(|(_, phase)| self.phase < Some(*phase));
        let phase = phase.map(|((_, hash), phase)| Entry::Phase(Phase { phase, hash, at }));
        let grants = held.grants.iter().filter_map(|(issuer, grant)| {
            let stated = self.grants.get(issuer).copied().unwrap_or_default();
            newer(Some(*grant), stated).map(|grant| Entry::Grant { issuer: *issuer, grant })
        });
        let revocations = newer(held.revocations, self.revocations).map(Entry::Revocations);
        let policy = newer(held.policy, self.policy).map(Entry::Policy);
        let ended = held.revocations.into_iter().flat_map(|(by, _)| {
            self.enrolled
                .intersection(&held.revoked)
                .map(move |node| Entry::Ended(Ended { node: *node, by, at }))
        });
        let all = root.into_iter().chain(phase).chain(grants).chain(revocations).chain(policy).chain(ended);
        all.take(APPENDED).collect()
    }

    /// Frees the names of those whose enrolment the log says to have ended. One who was taken back meanwhile, and enrolled again before this was
    /// known here, is enrolled once more with its next certificate.
    fn release(&mut self, inner: &Inner) -> Result<(), StateError> {
        let Some(issuer) = inner.standing.issuer() else { return Ok(()) };
        while let Some(node) = self.ended.first().copied() {
            if issuer.release(&node)? {
                tracing::info!(%node, "the enrolment of this node ended: its name is free");
            }
            self.ended.remove(&node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meshara_trust::log::Enrolment;

    use super::*;

    const AT: UnixMillis = UnixMillis(1_795_000_000_000);

    fn held() -> Held {
        Held {
            root: Some(((2, [2; 32]), 1)),
            revocations: Some((5, [5; 32])),
            policy: None,
            grants: BTreeMap::from([(NodeId([8; 32]), (3, [3; 32]))]),
            revoked: BTreeSet::from([NodeId([1; 32]), NodeId([9; 32])]),
        }
    }

    fn enrolment(node: u8) -> Entry {
        Entry::Enrolment(Enrolment {
            node: NodeId([node; 32]),
            name: format!("n{node}").parse().unwrap(),
            roles: Vec::new(),
            from: AT,
            until: UnixMillis(AT.0 + 1),
        })
    }

    #[test]
    fn what_the_log_lacks_is_written_once() {
        let mut stated = Stated::default();
        stated.take(&enrolment(1));
        stated.take(&enrolment(2));
        let missing = stated.missing(&held(), AT);
        let statement = |number| Statement { number, hash: [number as u8; 32], at: AT };
        assert_eq!(
            missing,
            [
                Entry::Root(statement(2)),
                Entry::Phase(Phase { phase: 1, hash: [2; 32], at: AT }),
                Entry::Grant { issuer: NodeId([8; 32]), grant: statement(3) },
                Entry::Revocations(statement(5)),
                Entry::Ended(Ended { node: NodeId([1; 32]), by: 5, at: AT }),
            ]
        );
        missing.iter().for_each(|entry| stated.take(entry));
        assert_eq!(stated.missing(&held(), AT), []);
        // Who is enrolled again, and still revoked, ends again.
        stated.take(&enrolment(1));
        assert_eq!(stated.missing(&held(), AT).len(), 1);
        let newer = Held { root: Some(((3, [3; 32]), 1)), revocations: Some((4, [4; 32])), ..held() };
        let entries = stated.missing(&newer, AT);
        assert!(matches!(entries[..], [Entry::Root(_), Entry::Ended(_)]), "{entries:?}");
    }
}
