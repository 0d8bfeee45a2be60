//! A mesh of two whose members don't run.

use std::path::PathBuf;
use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::{UnixMillis, create_mesh};

/// Alice, who issues, and bob, who joined with her ticket.
pub(crate) struct Mesh {
    pub(crate) alice: Identity,
    pub(crate) bob: Identity,
    dir: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new(now: UnixMillis) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let (a, b) = (dir.path().join("alice"), dir.path().join("bob"));
        let alice = create_mesh(&a, &"lab".parse().unwrap(), &"alice".parse().unwrap(), None, now).unwrap();
        let issuer = home::open_issuer(&a, alice.membership.anchors(), None).unwrap().unwrap();
        let ticket = issuer.invite(Duration::from_secs(60), 1, vec![], now).unwrap().ticket;
        let (client, node, routing) =
            home::begin_join(&b, ticket, "bob".parse().unwrap(), None, now).unwrap();
        let membership = client.open_reply(&issuer.handle_join(client.request(), now).reply, now).unwrap();
        let bob = home::finish(&b, node, routing, membership, None).unwrap();
        Self { alice, bob, dir }
    }

    /// Where alice's files are.
    #[allow(dead_code, reason = "each test takes what it needs")]
    pub(crate) fn home_of_alice(&self) -> PathBuf {
        self.dir.path().join("alice")
    }
}
