//! Whose names are, and which roles operators gave to whom, as the logs of other issuers say: an issuer reads them before it certifies
//! anything.
//!
//! What a log says counts as long as its issuer does, and as far as its grant reaches: so a rogue one silences nobody once it is revoked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use meshara_identity::issuer::{CLOCK_SKEW_MAX, MEMBERS_MAX, RoleChange};
use meshara_identity::{NodeId, NodeName, TrustAnchors, UnixMillis};
use meshara_trust::log::{Enrolment, Entry, LogError, Roles, Tiles};

use super::others::Other;
use super::own::lock;

/// What the logs of others say, one log apart from the other.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<BTreeMap<NodeId, Said>>);

/// What one log says.
#[derive(Debug, Default)]
struct Said {
    /// Entries read of it.
    read: u64,
    /// Of two enrolments of one name the earlier one, until it ends.
    names: BTreeMap<NodeName, Enrolment>,
    /// The last words on each node's roles, as they follow each other in the log, [`WORDS`] at most.
    roles: BTreeMap<NodeId, VecDeque<RoleChange>>,
}

/// A later word of a log takes the place of its earlier ones, whatever time each names: who set a wrong clock right is heard again. A few are kept,
/// as one from the future hides none before it.
const WORDS: usize = 4;

/// Since when the root lets an issuer say anything, and until when.
pub(crate) type Granted = (UnixMillis, UnixMillis);

/// The issuers whose logs count, each with the span of its grants: none that is revoked.
pub(crate) fn counted(
    anchors: &TrustAnchors,
    revoked: impl Fn(&NodeId) -> bool,
) -> BTreeMap<NodeId, Granted> {
    let mut counted = BTreeMap::new();
    for statement in anchors.in_force().map(|grant| &grant.statement) {
        if !revoked(&statement.issuer) {
            let (from, until) =
                counted.entry(statement.issuer).or_insert((statement.not_before, statement.not_after));
            *from = statement.not_before.min(*from);
            *until = statement.not_after.max(*until);
        }
    }
    counted
}

impl Said {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Enrolment(new) => {
                let full = self.names.len() as u64 >= MEMBERS_MAX;
                match self.names.get_mut(&new.name) {
                    // Another node has it, from an earlier time on that goes on.
                    Some(held) if held.node != new.node && held.from <= new.from && held.until > new.from => {
                    }
                    Some(held) => *held = new,
                    None if full => {}
                    None => {
                        self.names.insert(new.name.clone(), new);
                    }
                }
            }
            Entry::Ended(ended) => self.names.retain(|_, held| held.node != ended.node),
            Entry::Roles(Roles { node, roles, at }) => {
                let change = RoleChange { at, roles };
                let full = self.roles.len() as u64 >= MEMBERS_MAX;
                if full && !self.roles.contains_key(&node) {
                    return;
                }
                let words = self.roles.entry(node).or_default();
                words.push_back(change);
                if words.len() > WORDS {
                    words.pop_front();
                }
            }
            _ => {}
        }
    }
}

impl Names {
    /// Reads what was copied of a log and not read yet. Blocks.
    pub(super) fn read(&self, other: &Arc<Other>) -> Result<(), LogError> {
        let mut next = lock(&self.0).get(&other.issuer).map_or(0, |said| said.read);
        loop {
            let entries = other.mirror(|mirror| {
                let size = mirror.copied();
                if next < size { Tiles::new(mirror.files(), size).entries(next) } else { Ok(Vec::new()) }
            })?;
            if entries.is_empty() {
                return Ok(());
            }
            next += entries.len() as u64;
            let mut all = lock(&self.0);
            let said = all.entry(other.issuer).or_default();
            entries.iter().filter_map(|bytes| Entry::decode(bytes).ok()).for_each(|entry| said.take(entry));
            said.read = next;
        }
    }

    /// Whether another node than `node` is enrolled under this name by one who counts; if `node` is since some time, earlier than that. Of two
    /// that were enrolled in the same millisecond the lower NodeId is the earlier one. Nobody enrolled anybody before its grant, or for longer.
    pub(crate) fn taken(
        &self,
        name: &NodeName,
        node: &NodeId,
        since: Option<UnixMillis>,
        counted: &BTreeMap<NodeId, Granted>,
        now: UnixMillis,
    ) -> bool {
        let all = lock(&self.0);
        counted.iter().any(|(issuer, (begin, end))| {
            let held = all.get(issuer).and_then(|said| said.names.get(name));
            held.is_some_and(|held| {
                let from = held.from.max(*begin);
                held.node != *node
                    && held.until.min(*end) > now
                    && since.is_none_or(|since| (from, held.node) < (since, *node))
            })
        })
    }

    /// What was said last of a node's roles by one who counts: of the last word of each log the newest. Nobody speaks from the future, beyond what clocks may differ: that would be
    /// the last word for ever.
    pub(crate) fn roles(
        &self,
        node: &NodeId,
        counted: &BTreeMap<NodeId, Granted>,
        now: UnixMillis,
    ) -> Option<RoleChange> {
        let all = lock(&self.0);
        let said = counted.iter().filter_map(|(issuer, (_, end))| {
            let words = all.get(issuer)?.roles.get(node)?;
            words.iter().rfind(|change| change.at <= now.plus(CLOCK_SKEW_MAX) && change.at <= *end)
        });
        said.max().cloned()
    }
}

#[cfg(test)]
mod tests {
    use meshara_trust::log::Ended;

    use super::*;

    const A: NodeId = NodeId([0xa; 32]);
    const B: NodeId = NodeId([0xb; 32]);

    fn enrolment(node: u8, from: u64, until: u64) -> Entry {
        Entry::Enrolment(Enrolment {
            node: NodeId([node; 32]),
            name: "bob".parse().unwrap(),
            roles: Vec::new(),
            from: UnixMillis(from),
            until: UnixMillis(until),
        })
    }

    fn granted(issuers: &[(NodeId, u64, u64)]) -> BTreeMap<NodeId, Granted> {
        issuers
            .iter()
            .map(|(issuer, from, until)| (*issuer, (UnixMillis(*from), UnixMillis(*until))))
            .collect()
    }

    fn said(names: &Names, issuer: NodeId, entry: Entry) {
        names.0.lock().unwrap().entry(issuer).or_default().take(entry);
    }

    #[test]
    fn the_earlier_enrolment_has_the_name_until_it_ends() {
        let names = Names::default();
        let all = granted(&[(A, 0, 1000)]);
        let since = |by: u8, since, now| {
            names.taken(&"bob".parse().unwrap(), &NodeId([by; 32]), since, &all, UnixMillis(now))
        };
        let taken = |by: u8, now| since(by, None, now);
        assert!(!taken(2, 5));
        said(&names, A, enrolment(1, 10, 100));
        assert!(taken(2, 50) && !taken(1, 50) && !taken(2, 100));
        // A node that was enrolled before, elsewhere, keeps its name; one that came later doesn't have it.
        let at = |by, from| since(by, Some(UnixMillis(from)), 50);
        assert!(!at(2, 9) && at(2, 11) && at(2, 10) && !at(0, 10));
        // Later, while the first one goes on: no.
        said(&names, A, enrolment(2, 20, 200));
        assert!(taken(2, 50) && !taken(1, 50));
        // Earlier, though it is read later: yes.
        said(&names, A, enrolment(3, 5, 60));
        assert!(taken(1, 50) && !taken(3, 50));
        // Once that has ended the name is free for the next.
        said(&names, A, enrolment(1, 70, 300));
        assert!(taken(3, 80) && !taken(1, 80));
        let ended = Ended { node: NodeId([1; 32]), by: 1, at: UnixMillis(90) };
        said(&names, A, Entry::Ended(ended));
        assert!(!taken(2, 95));
    }

    #[test]
    fn a_log_speaks_for_its_own_issuer_while_that_counts_and_as_far_as_its_grant_reaches() {
        let names = Names::default();
        let taken = |by: u8, since: Option<u64>, by_whom: &[(NodeId, u64, u64)], now| {
            let (name, node) = ("bob".parse().unwrap(), NodeId([by; 32]));
            names.taken(&name, &node, since.map(UnixMillis), &granted(by_whom), UnixMillis(now))
        };
        // B claims the name for a node of its own, since ever and for ever.
        said(&names, B, enrolment(9, 0, u64::MAX));
        said(&names, A, enrolment(1, 10, 100));
        let (a, b) = ((A, 0, 1000), (B, 40, 500));
        // Whoever was enrolled before B's grant keeps the name, and after its end nobody is silenced.
        assert!(!taken(1, Some(10), &[a, b], 50) && taken(1, Some(41), &[a, b], 50));
        assert!(taken(1, None, &[b], 499) && !taken(1, None, &[b], 500));
        // Once B is revoked its log says nothing, and A's says what it said before.
        assert!(!taken(1, None, &[a], 50) && taken(9, None, &[a], 50));
        // That a node ended frees what the same log enrolled, and nothing else.
        let ended = |node| Entry::Ended(Ended { node: NodeId([node; 32]), by: 1, at: UnixMillis(60) });
        said(&names, B, ended(1));
        assert!(taken(9, None, &[a], 70));
        said(&names, B, ended(9));
        assert!(!taken(1, None, &[b], 70));
    }

    #[test]
    fn the_last_word_on_roles_counts_unless_it_is_from_the_future_or_by_one_who_is_revoked() {
        let names = Names::default();
        let now = 10_000_000;
        let say = |issuer, at: u64, role: &str| {
            let roles = vec![role.parse().unwrap()];
            said(&names, issuer, Entry::Roles(Roles { node: NodeId([1; 32]), roles, at: UnixMillis(at) }));
        };
        let heard = |by: &[(NodeId, u64, u64)]| {
            let change = names.roles(&NodeId([1; 32]), &granted(by), UnixMillis(now))?;
            Some(change.roles[0].to_string())
        };
        let (a, b) = ((A, 0, u64::MAX), (B, 0, u64::MAX));
        assert_eq!(heard(&[a, b]), None);
        say(A, 20, "ops");
        say(B, 10, "db");
        assert_eq!(heard(&[a, b]).as_deref(), Some("ops"));
        assert_eq!(heard(&[b]).as_deref(), Some("db"), "A is revoked");
        // What a log says later counts, though its clock was set back; of two of one time all choose the same.
        say(A, 15, "dev");
        assert_eq!(heard(&[a, b]).as_deref(), Some("dev"));
        say(A, 20, "ops");
        say(B, 20, "web");
        assert_eq!(heard(&[a, b]).as_deref(), Some("web"));
        assert_eq!(heard(&[a, (B, 0, 19)]).as_deref(), Some("ops"), "B's grant had ended");
        let far = now + CLOCK_SKEW_MAX.as_millis() as u64;
        say(B, far + 1, "admin");
        assert_eq!(heard(&[a, b]).as_deref(), Some("web"), "what it said before isn't hidden");
        say(B, 30, "db");
        assert_eq!(heard(&[a, b]).as_deref(), Some("db"), "its clock is right again");
        say(A, far, "far");
        assert_eq!(heard(&[a, b]).as_deref(), Some("far"));
        for at in 0..100 {
            say(A, at, "more");
        }
        assert_eq!(names.0.lock().unwrap()[&A].roles[&NodeId([1; 32])].len(), WORDS);
    }
}
