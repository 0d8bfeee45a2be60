//! The issuer's log: what is given out is in it, members witness, follow and audit it, and an old copy of it doesn't go on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{build, config, first, joined, reached, soon};
use meshara::api::{
    AuditInfo, Control, IssuerRequest, LogControl, LogStatus, PolicyControl, RevokeRequest, TrustControl,
};
use meshara::{BundleError, JoinError, JoinOptions, Node, UnixMillis, audit_bundle, join, write_bundle};
use meshara_identity::{JoinError as Refused, Refusal, home};
use meshara_trust::log::{
    Certificate, DiskFiles, Entry, Hash, LogStatement, Promise, Tiles, verify_certificate_promise,
};

mod common;

async fn log_status(node: &Node) -> LogStatus {
    node.control().trust_status().await.unwrap().log
}

/// Waits until the node's log has so many witnesses.
async fn witnessed(node: &Node, witnesses: u64) -> LogStatus {
    soon(async {
        loop {
            let status = log_status(node).await;
            if status.witnesses >= witnesses {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Waits until an audit sees so many witnesses; what it says then.
async fn audited(node: &Node, witnesses: u64) -> AuditInfo {
    soon(async {
        loop {
            let info = node.control().trust_audit().await.unwrap();
            if info.witnesses == witnesses {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// SHA-256 of every certificate that the log in a home has, and how many entries it has.
fn logged(home: &Path) -> (BTreeSet<Hash>, u64) {
    let directory = home.join("log");
    let files = DiskFiles::read_only(&directory);
    let note = fs::read_to_string(directory.join("checkpoint")).unwrap();
    let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    let tiles = Tiles::new(&files, size);
    let entries = (0..size).map(|index| Entry::decode(&tiles.entry(index).unwrap()).unwrap());
    let leaves = entries.filter_map(|entry| match entry {
        Entry::Certificate(certificate) => Some(certificate.leaf),
        _ => None,
    });
    (leaves.collect(), size)
}

/// What the log in a home says, also while its node runs and replaces files.
fn entries(home: &Path) -> Vec<Entry> {
    let directory = home.join("log");
    let files = DiskFiles::read_only(&directory);
    loop {
        let note = fs::read_to_string(directory.join("checkpoint")).unwrap();
        let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        let tiles = Tiles::new(&files, size);
        let read: Result<Vec<_>, _> = (0..size).map(|index| tiles.entry(index)).collect();
        if let Ok(read) = read {
            return read.iter().map(|bytes| Entry::decode(bytes).unwrap()).collect();
        }
    }
}

/// How many entries of each kind that is about the mesh: root, phase, grant, revocations, policy, ended.
fn stated(home: &Path) -> [usize; 6] {
    let mut counts = [0; 6];
    for entry in entries(home) {
        let kind = match entry {
            Entry::Root(_) => 0,
            Entry::Phase(_) => 1,
            Entry::Grant { .. } => 2,
            Entry::Revocations(_) => 3,
            Entry::Policy(_) => 4,
            Entry::Ended(_) => 5,
            _ => continue,
        };
        counts[kind] += 1;
    }
    counts
}

async fn stated_as(home: &Path, counts: [usize; 6]) {
    soon(async {
        while stated(home) != counts {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// The home of one who joins under this name at `member`; asked until it is let in.
async fn let_in(member: &Node, home: &Path, name: &str) {
    soon(async {
        loop {
            let ticket = member.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
            if join(JoinOptions::new(home.to_owned(), ticket, name.parse().unwrap())).await.is_ok() {
                return;
            }
            let _ = fs::remove_dir_all(home);
        }
    })
    .await;
}

fn leaf(home: &Path) -> Hash {
    Hash::of(home::load(home, None).unwrap().membership.leaf_der())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn every_member_audits_the_log_and_a_bundle_of_it_is_audited_without_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let mut nodes = Vec::new();
    for name in ["bob", "carol"] {
        let mut events = alice.events();
        let node = build(&joined(&alice, dir.path(), name).await, config()).await;
        reached(&mut events, node.member().node_id).await;
        nodes.push(node);
    }
    let status = witnessed(&alice, 2).await;
    assert!(status.size >= 6, "{status:?}");
    for node in [&alice, &nodes[0], &nodes[1]] {
        let info = audited(node, 2).await;
        assert!(info.ok, "{info:?}");
        assert_eq!((info.certificates, info.logs.len()), (3, 1), "{info:?}");
        assert!(info.logs[0].fetched && info.entries >= 6, "{info:?}");
        assert_eq!(info.logs[0].issuer, alice.member().node_id.to_string());
    }
    // Members follow without being told to.
    for node in &nodes {
        assert_eq!(witnessed(node, 2).await, log_status(&alice).await);
    }

    let (bundle, now) = (dir.path().join("bundle"), UnixMillis::now());
    write_bundle(&dir.path().join("bob"), &bundle).unwrap();
    assert!(matches!(write_bundle(&dir.path().join("bob"), &bundle), Err(BundleError::NotEmpty { .. })));
    let (mesh, info) = audit_bundle(&bundle, None, 2, now).unwrap();
    assert!(info.ok, "{info:?}");
    assert_eq!((info.certificates, info.witnesses), (3, 2));
    assert!(!audit_bundle(&bundle, Some(mesh), 3, now).unwrap().1.ok, "there are only two");
    let other = meshara_identity::MeshId([0; 32]);
    let refused = audit_bundle(&bundle, Some(other), 2, now);
    assert!(matches!(refused, Err(BundleError::OtherMesh { .. })), "{refused:?}");
    // The issuer's own directory makes the same bundle.
    let own = dir.path().join("own");
    write_bundle(&dir.path().join("alice"), &own).unwrap();
    assert!(audit_bundle(&own, Some(mesh), 2, now).unwrap().1.ok);

    // A bundle that was tampered with says so.
    let log = bundle.join("logs").join(alice.member().node_id.to_string());
    let entries = log.join("tile/entries/000.p");
    let path = fs::read_dir(&entries).unwrap().next().unwrap().unwrap().path();
    let sound = fs::read(&path).unwrap();
    let mut altered = sound.clone();
    altered[20] ^= 1;
    fs::write(&path, &altered).unwrap();
    let (_, info) = audit_bundle(&bundle, None, 0, now).unwrap();
    assert!(!info.ok && info.problems[0].contains("entries"), "{info:?}");
    fs::write(&path, sound).unwrap();
    let keys = log.join("keys");
    let mut altered = fs::read(&keys).unwrap();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&keys, altered).unwrap();
    assert!(matches!(audit_bundle(&bundle, None, 0, now), Err(BundleError::Keys { .. })));

    for node in nodes {
        node.shutdown().await;
    }
    alice.shutdown().await;
}

/// On one thread, as the command runs it: what waits for the disk or for others there waits for ever.
#[test]
fn a_member_tells_its_status_while_it_copies_a_log() {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let alice = first(dir.path(), config()).await;
            let mut events = alice.events();
            let bob = build(&joined(&alice, dir.path(), "bob").await, config()).await;
            reached(&mut events, bob.member().node_id).await;
            witnessed(&bob, 1).await;
            let control = bob.control();
            let mut audit = std::pin::pin!(control.trust_audit());
            let mut told = 0;
            let info = loop {
                tokio::select! {
                    biased;
                    info = &mut audit => break info.unwrap(),
                    () = tokio::task::yield_now() => {
                        assert!(log_status(&bob).await.size > 0);
                        told += 1;
                    }
                }
            };
            assert!(info.logs[0].fetched && told > 10, "{told}: {info:?}");
            bob.shutdown().await;
            alice.shutdown().await;
        });
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(120)).unwrap();
}

#[tokio::test]
async fn joins_that_come_together_are_all_logged_with_a_promise() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let ticket = alice.control().invite(Duration::from_secs(60), 16).await.unwrap().ticket;
    let mut joins = tokio::task::JoinSet::new();
    for number in 0..16 {
        let name = format!("n{number}");
        let options = JoinOptions::new(dir.path().join(&name), ticket.clone(), name.parse().unwrap());
        joins.spawn(join(options));
    }
    let mut given = Vec::new();
    while let Some(joined) = joins.join_next().await {
        given.push(joined.unwrap().unwrap().identity.membership);
    }
    let keys = fs::read(dir.path().join("alice/log/keys")).unwrap();
    let statement = LogStatement::decode(&keys).unwrap();
    let now = UnixMillis::now();
    for membership in &given {
        let (issuer, public) = statement.verify(membership.anchors()).unwrap();
        assert_eq!(issuer, alice.member().node_id);
        let promise = Promise::decode(membership.promise()).unwrap();
        let certificate = Certificate::of(membership.member(), membership.leaf_der()).unwrap();
        assert_eq!(verify_certificate_promise(public, &certificate, &promise, now), Ok(()));
    }
    let info = alice.control().trust_audit().await.unwrap();
    assert!(info.ok, "{info:?}");
    alice.shutdown().await;
    // Published entries alone: the rest is in the write-ahead file, and published by the next start.
    let alice = build(&dir.path().join("alice"), config()).await;
    let info = soon(async {
        loop {
            let info = alice.control().trust_audit().await.unwrap();
            if info.certificates >= 17 {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let info = info.await;
    assert!(info.ok, "{info:?}");
    let (leaves, _) = logged(&dir.path().join("alice"));
    for membership in &given {
        assert!(leaves.contains(&Hash::of(membership.leaf_der())), "{}", membership.member().name);
    }
    assert!(leaves.contains(&leaf(&dir.path().join("alice"))), "the issuer's own");
    alice.shutdown().await;
}

#[tokio::test]
async fn an_old_copy_of_the_log_that_a_member_knows_better_does_not_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    let (log, old, new) = (home.join("log"), dir.path().join("old"), dir.path().join("new"));
    let alice = first(dir.path(), config()).await;
    let mut events = alice.events();
    let bob = build(&joined(&alice, dir.path(), "bob").await, config()).await;
    reached(&mut events, bob.member().node_id).await;
    let before = witnessed(&alice, 1).await;
    alice.shutdown().await;
    copy(&log, &old);

    let alice = build(&home, config()).await;
    joined(&alice, dir.path(), "carol").await;
    soon(async {
        while log_status(&bob).await.size <= before.size {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    alice.shutdown().await;
    copy(&log, &new);

    let restore = |from: &Path| {
        fs::remove_dir_all(&log).unwrap();
        copy(from, &log);
    };
    restore(&old);
    let alice = build(&home, config()).await;
    let mut events = alice.events();
    reached(&mut events, bob.member().node_id).await;
    let dave = async |alice: &Node| {
        let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
        let options = JoinOptions::new(dir.path().join("dave"), ticket, "dave".parse().unwrap());
        soon(join(options)).await
    };
    // Whoever asks in the first moments waits until bob was heard.
    let refused = dave(&alice).await.unwrap_err();
    let internal = Refused::Refused { refusal: Refusal::Internal, authentic: true };
    assert!(matches!(&refused, JoinError::Join(error) if *error == internal), "{refused:?}");
    alice.shutdown().await;

    restore(&new);
    let alice = build(&home, config()).await;
    // Its port is another one, and so is the ticket.
    dave(&alice).await.unwrap();
    let mut events = alice.events();
    if alice.control().status().await.unwrap().nodes_known == 0 {
        reached(&mut events, bob.member().node_id).await;
    }
    assert!(audited(&alice, 1).await.ok);
    assert!(audited(&bob, 1).await.ok);
    bob.shutdown().await;
    alice.shutdown().await;
}

/// One whose certificate the CA key signed behind the log's back: a copy of the issuer's files in the wrong hands.
async fn unlogged(dir: &Path, config: meshara::config::Config) -> Node {
    let stolen = dir.join("stolen");
    fs::create_dir_all(&stolen).unwrap();
    for file in [home::KEYSTORE, home::MEMBERSHIP, home::ISSUER_KEY, home::ISSUER_STATE] {
        fs::copy(dir.join("alice").join(file), stolen.join(file)).unwrap();
    }
    let (alice, now) = (home::load(&stolen, None).unwrap(), UnixMillis::now());
    let issuer = home::open_issuer(&stolen, alice.membership.anchors(), None).unwrap().unwrap();
    let ticket = issuer.invite(Duration::from_secs(60), 1, Vec::new(), now).unwrap().ticket;
    let mallory = dir.join("mallory");
    let (client, node, routing) =
        home::begin_join(&mallory, ticket, "mallory".parse().unwrap(), None, now).unwrap();
    let reply = issuer.handle_join(client.request(), now).reply;
    let membership = client.open_reply(&reply, now).unwrap();
    home::finish(&mallory, node, routing, membership, None).unwrap();
    build(&mallory, config).await
}

#[tokio::test]
async fn a_certificate_that_is_in_no_log_is_found_and_shut_out_by_who_wants_proof() {
    let dir = tempfile::tempdir().unwrap();
    // The issuer's files are copied before the node has them open.
    let name = "alice".parse().unwrap();
    meshara::create_mesh(&dir.path().join("alice"), &"test".parse().unwrap(), &name, None, UnixMillis::now())
        .unwrap();
    let strict = meshara::config::Config { require_logged: true, ..config() };
    let alice = {
        let stolen = dir.path().to_owned();
        copy(&stolen.join("alice"), &stolen.join("original"));
        build(&stolen.join("alice"), config()).await
    };
    let mut events = alice.events();
    let bob = build(&joined(&alice, dir.path(), "bob").await, strict).await;
    reached(&mut events, bob.member().node_id).await;
    let peers = vec![bob.local_addr().into(), alice.local_addr().into()];
    let mut events = bob.events();
    let mallory = {
        let from = dir.path().join("theft");
        fs::create_dir_all(&from).unwrap();
        copy(&dir.path().join("original"), &from.join("alice"));
        unlogged(&from, meshara::config::Config { peers, ..config() }).await
    };
    reached(&mut events, mallory.member().node_id).await;
    let linked = async |node: &Node| {
        let peers = node.control().peers().await.unwrap();
        peers.iter().any(|peer| peer.name == "mallory" && peer.state == meshara::api::PeerState::Up)
    };
    // Any audit finds it.
    let info = soon(async {
        loop {
            let info = alice.control().trust_audit().await.unwrap();
            if !info.ok {
                return info;
            }
        }
    })
    .await;
    assert!(info.problems.iter().any(|problem| problem.contains("mallory")), "{info:?}");
    // Bob, who wants proof, gives it its time and then lets it go; alice doesn't ask for proof.
    soon(async {
        while linked(&bob).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let to_bob = bob.control().peers().await.unwrap();
    assert!(to_bob.iter().any(|peer| peer.name == "alice"), "{to_bob:?}");
    mallory.shutdown().await;
    bob.shutdown().await;
    alice.shutdown().await;
}

#[tokio::test]
async fn the_log_says_what_its_issuer_goes_by_and_the_name_of_a_revoked_node_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    let alice = first(dir.path(), config()).await;
    // Root document, phase and the issuer's own grant.
    stated_as(&home, [1, 1, 1, 0, 0, 0]).await;
    let mut events = alice.events();
    let bob = build(&joined(&alice, dir.path(), "bob").await, config()).await;
    reached(&mut events, bob.member().node_id).await;
    let request = RevokeRequest { node: "bob".into(), reason: "laptop stolen".into(), force: false };
    let revoked = alice.control().trust_revoke(request).await.unwrap();
    stated_as(&home, [1, 1, 1, 1, 0, 1]).await;
    let said = entries(&home);
    let ended = said.iter().find_map(|entry| match entry {
        Entry::Ended(ended) => Some((ended.node, ended.by)),
        _ => None,
    });
    assert_eq!(ended, Some((bob.member().node_id, revoked.number)));
    // Its name goes to another node.
    let_in(&alice, &dir.path().join("bob-2"), "bob").await;
    let info = alice.control().trust_audit().await.unwrap();
    assert!(info.ok, "{info:?}");
    bob.shutdown().await;
    alice.shutdown().await;
    // A later life says nothing twice.
    let alice = build(&home, config()).await;
    let before = entries(&home).len();
    joined(&alice, dir.path(), "carol").await;
    soon(async {
        while entries(&home).len() < before + 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let request = RevokeRequest { node: "carol".into(), reason: String::new(), force: false };
    alice.control().trust_revoke(request).await.unwrap();
    stated_as(&home, [1, 1, 1, 2, 0, 2]).await;
    assert!(alice.control().trust_audit().await.unwrap().ok);
    alice.shutdown().await;
}

#[tokio::test]
async fn two_issuers_write_a_log_each_and_read_each_others_names() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let mut events = alice.events();
    let bob = build(&joined(&alice, dir.path(), "bob").await, config()).await;
    reached(&mut events, bob.member().node_id).await;
    soon(async { while alice.control().trust_issuer_add(IssuerRequest::new("bob")).await.is_err() {} }).await;
    let dave = joined(&bob, dir.path(), "dave").await;
    let given = home::load(&dave, None).unwrap().membership;
    assert_eq!(given.anchors().issuer_of(given.leaf_der()), Some(bob.member().node_id));
    // Each says of both grants.
    for name in ["alice", "bob"] {
        stated_as(&dir.path().join(name), [1, 1, 2, 0, 0, 0]).await;
    }
    for node in [&alice, &bob] {
        let info = soon(async {
            loop {
                let info = node.control().trust_audit().await.unwrap();
                if info.ok && info.logs.len() == 2 && info.witnesses == 1 {
                    return info;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let info = info.await;
        assert!(info.logs.iter().all(|log| log.fetched), "{info:?}");
    }
    // Alice has read bob's log now: nobody gets the name of whom he enrolled.
    let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
    let options = JoinOptions::new(dir.path().join("other"), ticket, "dave".parse().unwrap());
    let refused = soon(join(options)).await.unwrap_err();
    let taken = Refusal::NameTaken { name: "dave".parse().unwrap() };
    assert!(
        matches!(&refused, JoinError::Join(Refused::Refused { refusal, .. }) if *refusal == taken),
        "{refused:?}"
    );
    bob.shutdown().await;
    alice.shutdown().await;
}

/// Waits until the node says that alice's log forked.
async fn accuses(node: &Node) {
    soon(async {
        while !node.control().trust_status().await.unwrap().issuers.iter().any(|issuer| issuer.log_forked) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let info = node.control().trust_audit().await.unwrap();
    assert!(!info.ok && info.problems.iter().any(|problem| problem.contains("forked")), "{info:?}");
}

#[tokio::test]
async fn an_issuer_that_shows_two_heads_is_named_by_two_members() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    let (log, old) = (home.join("log"), dir.path().join("old"));
    let alice = first(dir.path(), config()).await;
    let mut members = Vec::new();
    for name in ["bob", "carol"] {
        let mut events = alice.events();
        let node = build(&joined(&alice, dir.path(), name).await, config()).await;
        reached(&mut events, node.member().node_id).await;
        members.push(node);
    }
    let before = witnessed(&alice, 2).await;
    alice.shutdown().await;
    copy(&log, &old);
    let peers = members.iter().map(|node| node.local_addr().into()).collect();
    let alice = build(&home, meshara::config::Config { peers, ..config() }).await;
    joined(&alice, dir.path(), "dave").await;
    for node in &members {
        soon(async {
            while log_status(node).await.size < before.size + 2 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    alice.shutdown().await;
    let mut signed = 0;
    for node in members {
        signed = signed.max(log_status(&node).await.size);
        node.shutdown().await;
    }
    // Alone, with an old copy, nobody tells her better: she goes on with another past.
    fs::remove_dir_all(&log).unwrap();
    copy(&old, &log);
    let alice = build(&home, config()).await;
    for number in 0.. {
        if log_status(&alice).await.size > signed {
            break;
        }
        let_in(&alice, &dir.path().join(format!("eve-{number}")), &format!("eve-{number}")).await;
    }
    alice.shutdown().await;
    // Each of the two who saw the first past finds the second one in contradiction to it.
    let bob = build(&dir.path().join("bob"), config()).await;
    let carol = build(&dir.path().join("carol"), config()).await;
    let peers = vec![bob.local_addr().into(), carol.local_addr().into()];
    let alice = build(&home, meshara::config::Config { peers, ..config() }).await;
    for node in [&bob, &carol] {
        accuses(node).await;
    }
    // She issues nothing any more, now that members told her.
    let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
    let options = JoinOptions::new(dir.path().join("frank"), ticket, "frank".parse().unwrap());
    assert!(soon(join(options)).await.is_err());
    alice.shutdown().await;
    carol.shutdown().await;
    bob.shutdown().await;
    // The evidence is kept.
    let bob = build(&dir.path().join("bob"), config()).await;
    accuses(&bob).await;
    bob.shutdown().await;
}
