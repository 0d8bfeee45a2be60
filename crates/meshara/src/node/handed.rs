//! Which protocols' streams of a session were handed to applications: they are asked about again as long as the session is open.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshara_identity::Member;
use meshara_trust::policy::TargetKind;

use super::Inner;
use super::trust::policy::{self, Denied};

/// Protocols of one session: more than the applications of one machine speak. Streams of further ones are refused until the next session.
const PROTOCOLS: usize = 256;

/// The protocols. A stream that has ended leaves its protocol behind, since nobody says that it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Handed(Arc<Mutex<BTreeSet<String>>>);

impl Handed {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of this protocol is about to be handed over; whether it may be.
    pub(super) fn add(&self, protocol: &str) -> bool {
        let mut protocols = self.lock();
        let room = protocols.len() < PROTOCOLS || protocols.contains(protocol);
        if room {
            protocols.insert(protocol.to_owned());
        }
        room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Why one of them is denied now, if one is.
    pub(super) fn denied(&self, inner: &Inner, peer: &Member) -> Option<Denied> {
        let protocols = self.lock();
        protocols
            .iter()
            .find_map(|protocol| policy::ask_again(inner, peer, TargetKind::Service, protocol).err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_so_many_protocols_and_no_more() {
        let handed = Handed::default();
        assert!(handed.is_empty());
        assert!((0..PROTOCOLS).all(|number| handed.add(&format!("p{number}"))));
        assert!(!handed.add("more") && handed.add("p0"));
    }
}
