//! Whose names are, as the logs of other issuers say: an issuer reads them before it enrols anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use meshara_identity::issuer::MEMBERS_MAX;
use meshara_identity::{NodeId, NodeName, UnixMillis};
use meshara_trust::log::{Enrolment, Entry, LogError, Tiles};

use super::others::Other;
use super::own::lock;

/// The enrolments in logs of others.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Entries read of each log.
    read: BTreeMap<NodeId, u64>,
    /// Of two enrolments of one name the earlier one.
    names: BTreeMap<NodeName, Enrolment>,
}

impl State {
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
            _ => {}
        }
    }
}

impl Names {
    /// Reads what was copied of a log and not read yet. Blocks.
    pub(super) fn read(&self, other: &Arc<Other>) -> Result<(), LogError> {
        let mut next = lock(&self.0).read.get(&other.issuer).copied().unwrap_or(0);
        loop {
            let entries = other.mirror(|mirror| {
                let size = mirror.copied();
                if next < size { Tiles::new(mirror.files(), size).entries(next) } else { Ok(Vec::new()) }
            })?;
            if entries.is_empty() {
                return Ok(());
            }
            next += entries.len() as u64;
            let mut state = lock(&self.0);
            entries.iter().filter_map(|bytes| Entry::decode(bytes).ok()).for_each(|entry| state.take(entry));
            state.read.insert(other.issuer, next);
        }
    }

    /// Whether another node than `node` is enrolled under this name; if `node` is since some time, earlier than that. Of two that were enrolled
    /// in the same millisecond the lower NodeId is the earlier one.
    pub(crate) fn taken(
        &self,
        name: &NodeName,
        node: &NodeId,
        since: Option<UnixMillis>,
        now: UnixMillis,
    ) -> bool {
        let earlier = |held: &Enrolment| since.is_none_or(|since| (held.from, held.node) < (since, *node));
        let names = &lock(&self.0).names;
        names.get(name).is_some_and(|held| held.node != *node && held.until > now && earlier(held))
    }
}

#[cfg(test)]
mod tests {
    use meshara_trust::log::Ended;

    use super::*;

    fn enrolment(node: u8, from: u64, until: u64) -> Entry {
        Entry::Enrolment(Enrolment {
            node: NodeId([node; 32]),
            name: "bob".parse().unwrap(),
            roles: Vec::new(),
            from: UnixMillis(from),
            until: UnixMillis(until),
        })
    }

    #[test]
    fn the_earlier_enrolment_has_the_name_until_it_ends() {
        let names = Names::default();
        let since = |by: u8, since, now| {
            names.taken(&"bob".parse().unwrap(), &NodeId([by; 32]), since, UnixMillis(now))
        };
        let taken = |by: u8, now| since(by, None, now);
        assert!(!taken(2, 5));
        names.0.lock().unwrap().take(enrolment(1, 10, 100));
        assert!(taken(2, 50) && !taken(1, 50) && !taken(2, 100));
        // A node that was enrolled before, elsewhere, keeps its name; one that came later doesn't have it.
        let at = |by, from| since(by, Some(UnixMillis(from)), 50);
        assert!(!at(2, 9) && at(2, 11) && at(2, 10) && !at(0, 10));
        // Later, while the first one goes on: no.
        names.0.lock().unwrap().take(enrolment(2, 20, 200));
        assert!(taken(2, 50) && !taken(1, 50));
        // Earlier, though it is read later: yes.
        names.0.lock().unwrap().take(enrolment(3, 5, 60));
        assert!(taken(1, 50) && !taken(3, 50));
        // Once that has ended the name is free for the next.
        names.0.lock().unwrap().take(enrolment(1, 70, 300));
        assert!(taken(3, 80) && !taken(1, 80));
        let ended = Ended { node: NodeId([1; 32]), by: 1, at: UnixMillis(90) };
        names.0.lock().unwrap().take(Entry::Ended(ended));
        assert!(!taken(2, 95));
    }
}
