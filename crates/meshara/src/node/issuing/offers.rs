//! Offers to make this node an issuer. Any member can make one, and only the grant that follows shows whether it is the root's: so until then none
//! holds up another, and each member has a few in a minute.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::NodeId;

/// Offers of one member that came to nothing are counted for so long: each costs a signature, and the first one a key.
const PAUSE: Duration = Duration::from_secs(60);
/// So many may come to nothing meanwhile: who proposes a grant by file, or tries again after a failure, needs no more.
const OFFERS: u32 = 4;
/// Members whose offers are remembered: few hold a root, and with so many in a minute somebody is up to something.
const OFFERING: usize = 64;

/// The offers of late.
#[derive(Debug, Default)]
pub(in crate::node) struct Granting {
    /// Held while the key of an offer is made, and while a grant that the root signed is carried out; never while anybody is waited for.
    pub(super) alone: tokio::sync::Mutex<()>,
    /// Since when, and how many.
    began: Mutex<HashMap<NodeId, (Instant, u32)>>,
}

impl Granting {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, (Instant, u32)>> {
        self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an offer of `from` may cost something now; it is counted then.
    pub(super) fn begins(&self, from: NodeId, now: Instant) -> bool {
        let mut began = self.lock();
        began.retain(|_, (since, _)| now.saturating_duration_since(*since) < PAUSE);
        if began.len() >= OFFERING && !began.contains_key(&from) {
            return false;
        }
        let (_, count) = began.entry(from).or_insert((now, 0));
        *count += 1;
        *count <= OFFERS
    }

    /// It was the root's: where something else fails now, it may offer again at once.
    pub(super) fn is_the_roots(&self, from: &NodeId) {
        self.lock().remove(from);
    }
}

#[cfg(test)]
mod tests {
    use meshara_identity::{GrantOffer, Lives, TrustAnchors, UnixMillis};

    use super::super::super::sessions::tests::{build, pair};
    use super::super::super::streams::Opening;
    use super::super::{GRANT_ENDS, Signs, make};
    use super::*;
    use crate::api::{Control as _, ErrorCode, IssuerRequest, TrustControl as _};

    #[test]
    fn a_member_offers_a_few_times_a_minute_unless_it_holds_the_root() {
        let (granting, start) = (Granting::default(), Instant::now());
        let node = |number: usize| NodeId([u8::try_from(number).unwrap(); 32]);
        assert!((0..OFFERS).all(|_| granting.begins(node(0), start)));
        assert!(granting.begins(node(1), start), "another is not held");
        assert!(!granting.begins(node(0), start + PAUSE - Duration::from_millis(1)));
        assert!((0..OFFERS).all(|_| granting.begins(node(0), start + PAUSE)));
        granting.is_the_roots(&node(0));
        assert!((0..OFFERS).all(|_| granting.begins(node(0), start + PAUSE)));
        let admitted = (0..200).filter(|number| granting.begins(node(*number), start + PAUSE)).count();
        assert_eq!(admitted, OFFERING - 1);
    }

    #[tokio::test]
    async fn streams_for_offers_on_which_nothing_comes_hold_up_no_offer() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, bob) = pair(dir.path()).await;
        let (sessions, peer) = (&alice.inner.sessions, bob.member().node_id);
        let opened = tokio::time::timeout(Duration::from_secs(40), async {
            loop {
                if let Ok(streams) = sessions.open_stream(peer, &Opening::Grant).await {
                    return streams;
                }
            }
        });
        let _silent = opened.await.unwrap();
        // It has reached bob: what is answered after it was opened after it.
        sessions.open_stream(peer, &Opening::Clock).await.unwrap().1.read_to_end(8).await.unwrap();
        alice.control().trust_issuer_add(IssuerRequest::new("bob")).await.unwrap();
        assert!(bob.inner.standing.issuer().is_some());
        alice.shutdown().await;
        bob.shutdown().await;
    }

    #[tokio::test]
    async fn an_issuer_whose_grant_ends_soon_gets_another_for_its_key_and_one_that_goes_on_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, bob) = pair(dir.path()).await;
        let add = async || alice.control().trust_issuer_add(IssuerRequest::new("bob")).await;
        let (node, now) = (bob.member().node_id, UnixMillis::now());
        let anchors = alice.inner.standing.anchors();
        let offer = GrantOffer::new(anchors.mesh().clone(), node, 1, Lives::default(), now);
        let soon = GrantOffer { not_after: now.plus(GRANT_ENDS / 2), ..offer };
        let root = alice.inner.standing.root().unwrap();
        make(&alice.inner, Signs::Founder(Box::new(root)), soon).await.map(drop).unwrap();
        let issuer = bob.inner.standing.issuer().unwrap();
        assert_eq!(issuer.grant().statement.number, 1);
        let ticket = bob.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
        let carol = dir.path().join("carol");
        crate::join(crate::JoinOptions::new(carol, ticket, "carol".parse().unwrap())).await.unwrap();

        add().await.unwrap();
        assert_eq!(issuer.grant().statement.number, 2);
        assert!(issuer.grant().statement.not_after > now.plus(GRANT_ENDS * 2));
        assert_eq!(add().await.unwrap_err().code, ErrorCode::AlreadyInitialised);
        // It knows whom it knew, keeps its log, and what it signed stands.
        let bob_home = dir.path().join("bob");
        let before = issuer.grant();
        drop(issuer);
        bob.shutdown().await;
        let bob = build(&bob_home).await;
        let again = bob.inner.standing.issuer().unwrap();
        assert_eq!(again.grant().statement.number, 2);
        assert!(again.has_key_of(&before));
        assert!(again.members().unwrap().iter().any(|(name, _)| name.as_str() == "carol"));
        bob.control().invite(Duration::from_secs(60), 1).await.unwrap();

        // A grant that counts no more is none.
        let other = again.grant();
        let dropped = TrustAnchors::clone(&anchors);
        assert!(again.is_granted(&bob.inner.standing.anchors(), now) && !again.is_granted(&dropped, now));
        assert!(!again.is_granted(&bob.inner.standing.anchors(), other.statement.not_after.plus(GRANT_ENDS)));
        alice.shutdown().await;
        bob.shutdown().await;
    }
}
