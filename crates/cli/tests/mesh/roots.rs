//! Several signers: root documents by file, approvals of revocations, phases; and who tries to count twice.

use std::path::{Path, PathBuf};

use meshara_identity::home;
use meshara_trust::root::{StandingGrant, Statement, StatementFile, decode_chain};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::world::*;

/// A passphrase file, and a signer's sealed keys.
fn signer(dir: &TempDir, name: &str) -> Signer {
    let pass = dir.path().join("passphrase");
    std::fs::write(&pass, "correct horse\n").unwrap();
    let file = dir.path().join(format!("{name}.key"));
    let made = object(&nowhere(dir), &["trust", "key", "new", text(&file), "--seal-with", text(&pass)]);
    assert_eq!((&made["sealed"], made["file"].as_str()), (&json!(true), Some(text(&file))));
    let public = made["public"].as_str().unwrap().to_owned();
    Signer { named: format!("{name}={public}"), file, pass, key: made["key"].as_str().unwrap().to_owned() }
}

struct Signer {
    named: String,
    file: PathBuf,
    pass: PathBuf,
    key: String,
}

impl Signer {
    /// Signs away from every node; the signature's file.
    fn sign(&self, statement: &str) -> String {
        let args = [
            "trust",
            "sign",
            statement,
            "--yes",
            "--key",
            text(&self.file),
            "--sealed-with",
            text(&self.pass),
        ];
        let signed = object(Path::new("/nonexistent"), &args);
        assert_eq!(signed["signature"]["key"], self.key.as_str());
        signed["signature"]["file"].as_str().unwrap().to_owned()
    }

    fn refuses(&self, statement: &str) -> (String, String) {
        let args = [
            "trust",
            "sign",
            statement,
            "--yes",
            "--key",
            text(&self.file),
            "--sealed-with",
            text(&self.pass),
        ];
        failure(Path::new("/nonexistent"), &args)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A home in which there is nothing.
fn nowhere(dir: &TempDir) -> PathBuf {
    dir.path().join("nowhere")
}

fn version(node: &Node) -> Value {
    node.object(&["trust", "root", "show"])["version"].clone()
}

#[test]
fn a_quorum_takes_over_the_root_and_approves_revocations() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob", "carol"]);
    let (alice, bob) = (&nodes[0], &nodes[1]);
    let mesh_id = alice.object(&["trust", "status"])["mesh_id"].as_str().unwrap().to_owned();
    let first = alice.object(&["trust", "root", "show"]);
    assert_eq!((&first["version"], &first["threshold"], &first["phase"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(first["signers"], json!([{"name": "founder", "key": mesh_id}]));
    assert_eq!(alice.object(&["trust", "revoke", &"ab".repeat(32), "--reason", "never seen"])["number"], 1);

    let [anna, bert, cora] = ["anna", "bert", "cora"].map(|name| signer(&dir, name));
    let (code, _) =
        failure(&nowhere(&dir), &["trust", "key", "new", text(&anna.file), "--seal-with", text(&anna.pass)]);
    assert_eq!(code, "already_initialised");

    // One key under two names makes no quorum, and neither does one signer for two.
    let twice = anna.named.replace("anna=", "annas-twin=");
    let rotate = ["trust", "root", "rotate", "--threshold", "2"];
    let (code, said) = alice.failure(&[&rotate[..], &["--signer", &anna.named, "--signer", &twice]].concat());
    assert!(code == "invalid_argument" && said.contains("share a key"), "{code}: {said}");
    let (code, said) = alice.failure(&[&rotate[..], &["--signer", &anna.named]].concat());
    assert!(code == "invalid_argument" && said.contains("distinct"), "{code}: {said}");

    // Root: two of anna, bert, cora. Authority: two of alice's and bob's nodes, and cora, who signs by file.
    for node in [alice, bob] {
        node.object(&["trust", "key", "new", "--node"]);
    }
    let own = |node: &Node| format!("{}={}", node.name, text(&node.home.join("authority.key.pub")));
    let two = text(&dir.path().join("root-2.statement")).to_owned();
    let signers = ["--signer", &anna.named, "--signer", &bert.named, "--signer", &cora.named];
    let (alices, bobs) = (own(alice), own(bob));
    let authority =
        ["--authority", &alices, "--authority", &bobs, "--authority", &cora.named, "--approvals", "2"];
    let proposed =
        alice.object(&[&rotate[..], &signers, &authority, &["--life", "300d", "--out", &two]].concat());
    assert_eq!((&proposed["kind"], &proposed["number"]), (&json!("root"), &json!(2)));
    assert_eq!(proposed["root"]["authority"]["threshold"], 2);
    // Anybody can look at it; the words name the signers.
    let shown = run(&nowhere(&dir), &["trust", "sign", &two, "--show"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("anna") && shown.contains(&cora.key) && shown.contains(&mesh_id), "{shown}");

    a_grant_that_is_smuggled_in_is_seen(&dir, alice, &two);
    // Nobody can be asked here, so nothing is signed without --yes, as a person types it or as a program does.
    let founders = alice.home.join("root.key");
    let unasked = ["trust", "sign", &two, "--key", text(&founders)];
    let output = run(&nowhere(&dir), &unasked);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nothing was signed") && said.contains("--yes"), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("anna"), "it was shown");
    let (code, said) = failure(&nowhere(&dir), &unasked);
    assert!(code == "usage" && said.contains("--yes"), "{code}: {said}");
    let signatures = || {
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_string_lossy().ends_with(".signature")).count()
    };
    assert_eq!(signatures(), 0);

    // The old signer alone is not enough; nor is one new signer, given twice.
    let founders = object(&nowhere(&dir), &["trust", "sign", &two, "--yes", "--key", text(&founders)]);
    let founders = founders["signature"]["file"].as_str().unwrap().to_owned();
    assert_eq!(bob.failure(&["trust", "publish", &two]).0, "needs_approvals");
    let annas = anna.sign(&two);
    let (code, said) = bob.failure(&["trust", "publish", &two, &founders, &annas, &annas]);
    assert!(code == "needs_approvals" && said.contains("1 of the 2"), "{code}: {said}");
    // Nor is a copy of the signature by another name.
    let copy = text(&dir.path().join("other.signature")).to_owned();
    std::fs::copy(&annas, &copy).unwrap();
    assert_eq!(bob.failure(&["trust", "publish", &two, &founders, &annas, &copy]).0, "needs_approvals");
    // An altered statement keeps no signature.
    let altered = text(&dir.path().join("altered.statement")).to_owned();
    alice.object(&[&rotate[..], &signers, &authority, &["--life", "301d", "--out", &altered]].concat());
    let (code, said) = bob.failure(&["trust", "publish", &altered, &founders, &annas]);
    assert!(code == "invalid_argument" && said.contains("another statement"), "{code}: {said}");
    // And whoever signed one version 2 signs no other.
    let (code, said) = anna.refuses(&altered);
    assert!(code == "invalid_argument" && said.contains("root 2 already"), "{code}: {said}");
    let mut bytes = std::fs::read(&two).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&altered, bytes).unwrap();
    assert_eq!(bert.refuses(&altered).0, "invalid_argument");
    assert_eq!(version(bob), 1);

    let berts = bert.sign(&two);
    let published = bob.object(&[
        "trust",
        "root",
        "rotate",
        "--statement",
        &two,
        "--signatures",
        &founders,
        &annas,
        &berts,
    ]);
    assert_eq!(published, json!({"kind": "root", "number": 2, "known": false}));
    for node in &nodes {
        until("the new root arrives", || (node.object(&["trust", "status"])["roots"] == 3).then_some(()));
    }
    let again = bob.object(&["trust", "publish", &two, &founders, &annas, &berts]);
    assert_eq!(again["known"], true);

    // What is exported verifies anywhere, and only as this mesh's.
    let chain = text(&dir.path().join("roots")).to_owned();
    until("it is on carol's disk", || (version(&nodes[2]) == 2).then_some(()));
    nodes[2].object(&["trust", "root", "export", &chain]);
    let offline =
        object(&nowhere(&dir), &["trust", "root", "show", "--chain", &chain, "--mesh-id", &mesh_id]);
    assert_eq!((&offline["version"], &offline["threshold"]), (&json!(2), &json!(2)));
    let other = "00".repeat(32);
    let (code, said) =
        failure(&nowhere(&dir), &["trust", "root", "show", "--chain", &chain, "--mesh-id", &other]);
    assert!(code == "invalid_argument" && said.contains("another mesh"), "{code}: {said}");
    // The first version again is a rollback, though its signer signs it again.
    let founder = home::load_root(&alice.home, None).unwrap();
    let versions = decode_chain(&std::fs::read(&chain).unwrap()).unwrap();
    let old = StatementFile::root(&versions[0].document).unwrap();
    let (one, signature) = (dir.path().join("root-1.statement"), dir.path().join("root-1.signature"));
    std::fs::write(&one, old.encode().unwrap()).unwrap();
    std::fs::write(&signature, old.sign(&founder).unwrap().encode().unwrap()).unwrap();
    let (code, said) = bob.failure(&["trust", "publish", text(&one), text(&signature)]);
    assert!(code == "invalid_argument" && said.contains("older than version 2"), "{code}: {said}");
    // The founder alone can't make a third.
    let third = text(&dir.path().join("root-3.statement")).to_owned();
    alice.object(&["trust", "root", "rotate", "--out", &third]);
    let (code, said) = {
        let founder = alice.home.join("root.key");
        object(&nowhere(&dir), &["trust", "sign", &third, "--yes", "--key", text(&founder)]);
        bob.failure(&["trust", "publish", &third])
    };
    assert!(code == "invalid_argument" && said.contains("no signer has the key"), "{code}: {said}");

    // The snapshot held was the founder's alone: alice's node wrote it down for the new signers.
    let reapproval = alice.home.join("proposals/revocations-1.statement");
    until("alice asks for new approvals", || reapproval.exists().then_some(()));
    // Revoking takes two now. Alice proposes, cora signs by file, bob publishes.
    let carol = nodes[2].id();
    let (code, said) = alice.failure(&["trust", "revoke", "carol", "--reason", "laptop stolen"]);
    assert!(code == "needs_approvals" && said.contains("2 signers must approve"), "{code}: {said}");
    let statement = alice.home.join("proposals/revocations-2.statement");
    let statement = text(&statement);
    assert_eq!(bob.failure(&["trust", "publish", statement]).0, "needs_approvals");
    assert_eq!(bob.object(&["trust", "status"])["revocations"], 1);
    let look = object(&nowhere(&dir), &["trust", "sign", statement, "--show"]);
    assert_eq!((&look["kind"], &look["revoked"]), (&json!("revocations"), &json!(2)));
    assert_eq!(look["revocations"][0]["node_id"], carol.as_str());
    assert_eq!(look["revocations"][0]["reason"], "laptop stolen");
    assert_eq!(look["revocations"][0].get("new"), None, "there is nothing to compare with");
    // Who holds the set before sees what the proposer adds, whenever he says that it was.
    let look = bob.object(&["trust", "sign", statement, "--show"]);
    let new = |at: usize| look["revocations"][at]["new"].clone();
    assert_eq!(
        (look["revocations"][0]["node_id"].as_str(), new(0), new(1)),
        (Some(carol.as_str()), json!(true), json!(false))
    );
    let said = String::from_utf8(bob.run(&["trust", "sign", statement, "--show"]).stdout).unwrap();
    assert!(
        said.contains("2 nodes revoked; 1 of them stand in the set that this home holds, 1 are new:"),
        "{said}"
    );
    // A signer of the root is none of the authority.
    let annas = anna.sign(statement);
    let (code, said) = bob.failure(&["trust", "publish", statement, &annas]);
    assert!(code == "invalid_argument" && said.contains("no signer has the key"), "{code}: {said}");
    std::fs::remove_file(&annas).unwrap();
    cora.sign(statement);
    let published = bob.object(&["trust", "publish", statement]);
    assert_eq!(published, json!({"kind": "revocations", "number": 2, "known": false}));
    for node in [alice, bob] {
        node.knows(1);
        assert_eq!(node.object(&["trust", "status"])["revocations"], 2);
    }

    // Policy likewise: bob's node signs with its own keys.
    let policy = text(&dir.path().join("policy.toml")).to_owned();
    let shown = alice.object(&["policy", "show"]);
    let deny =
        "\n[[rule]]\nname = \"no-pings\"\neffect = \"deny\"\nfrom = \"alice\"\nto = \"mesh:bob/ping\"\n";
    std::fs::write(&policy, format!("{}{deny}", shown["text"].as_str().unwrap())).unwrap();
    assert_eq!(alice.failure(&["policy", "apply", &policy]).0, "needs_approvals");
    let statement = alice.home.join("proposals/policy-1.statement");
    let look = bob.object(&["trust", "sign", text(&statement), "--yes"]);
    assert!(look["statement"]["policy"].as_str().unwrap().contains("no-pings"));
    alice.object(&["trust", "publish", text(&statement)]);
    until("bob holds the policy", || (bob.object(&["policy", "show"])["number"] == 1).then_some(()));

    // One that is given up leaves a gap, so that nobody contradicts himself.
    assert_eq!(alice.failure(&["policy", "apply", &policy]).0, "needs_approvals");
    assert_eq!(alice.failure(&["policy", "apply", &policy]).0, "needs_approvals");
    assert!(alice.home.join("proposals/policy-2.statement").exists());
    let skipped = alice.home.join("proposals/policy-4.statement");
    bob.object(&["trust", "sign", text(&skipped), "--yes"]);
    assert_eq!(bob.object(&["trust", "publish", text(&skipped)])["number"], 4);
    // A statement of another mesh.
    let other = Node::first(&dir, "zoe");
    let (code, said) = other.failure(&["trust", "publish", &two, &founders]);
    assert!(code == "invalid_argument" && said.contains("another mesh"), "{code}: {said}");
}

/// Who prepares a version and puts the hash of another grant behind a name is seen by each signer, and by whoever holds the grants.
fn a_grant_that_is_smuggled_in_is_seen(dir: &TempDir, member: &Node, statement: &str) {
    let file = StatementFile::decode(&std::fs::read(statement).unwrap()).unwrap();
    let Statement::Root(mut document) = file.statement().unwrap() else { panic!("no root document") };
    let mut names: Vec<StandingGrant> = document.grants.take().unwrap().into();
    names[0].hash[0] ^= 1;
    document.grants = Some(names.try_into().unwrap());
    let other = dir.path().join("smuggled.statement");
    std::fs::write(&other, StatementFile::root(&document).unwrap().encode().unwrap()).unwrap();
    let show = |home: &Path, file: &str| {
        object(home, &["trust", "sign", file, "--show"])["root"]["grants"][0].clone()
    };
    let (good, bad) = (show(&nowhere(dir), statement), show(&nowhere(dir), text(&other)));
    assert_eq!((&good["node_id"], &good["number"]), (&bad["node_id"], &bad["number"]));
    assert_ne!(good["hash"], bad["hash"]);
    assert_eq!((good.get("held"), good.get("ca")), (None, None), "there is nothing to compare with");
    let (good, bad) = (show(&member.home, statement), show(&member.home, text(&other)));
    assert_eq!((&good["held"], &bad["held"], bad.get("ca")), (&json!(true), &json!(false), None));
    let said = |file: &str| String::from_utf8(member.run(&["trust", "sign", file, "--show"]).stdout).unwrap();
    assert!(said(statement).contains(good["ca"].as_str().unwrap()), "{}", said(statement));
    assert!(!said(statement).contains("NOT HELD"), "{}", said(statement));
    assert!(said(text(&other)).contains("NOT HELD by this home"), "{}", said(text(&other)));
}

#[test]
fn phases_wait_for_their_gates() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let gate = |node: &Node| node.object(&["trust", "phase"]);
    let phase = gate(&alice);
    assert_eq!((&phase["phase"], &phase["next"], &phase["ready"]), (&json!(0), &json!(1), &json!(false)));
    let (code, said) = alice.failure(&["trust", "phase", "advance"]);
    assert!(code == "gate_closed" && said.contains("members in the mesh: 1"), "{code}: {said}");

    let ticket = alice.ticket(2);
    let bob = Node::beside(&dir, "bob", &alice, &ticket);
    let carol = Node::beside(&dir, "carol", &alice, &ticket);
    for node in [&alice, &bob, &carol] {
        node.knows(2);
    }
    until("the gate of phase 1 opens", || gate(&alice)["ready"].as_bool().unwrap().then_some(()));
    // Who can't sign writes a statement.
    assert_eq!(bob.failure(&["trust", "phase", "advance"]).0, "needs_approvals");
    assert_eq!(alice.object(&["trust", "phase", "advance"])["number"], 2);
    until("bob hears of it", || (bob.object(&["trust", "status"])["phase"] == 1).then_some(()));

    let (code, said) = alice.failure(&["trust", "phase", "advance"]);
    assert!(code == "gate_closed" && said.contains("issuers: 1, needed at least 2"), "{code}: {said}");
    alice.object(&["trust", "issuer", "add", "bob"]);
    until("the gate of phase 2 opens", || gate(&alice)["ready"].as_bool().unwrap().then_some(()));
    assert_eq!(alice.object(&["trust", "phase", "advance"])["number"], 3);

    let phase = gate(&alice);
    let missing: Vec<_> =
        phase["gate"].as_array().unwrap().iter().filter(|one| one["holds"] == false).collect();
    assert_eq!(missing.len(), 3, "{phase}");
    // Other signers, and no key of the founder's any more.
    let signers = ["anna", "bert", "cora"].map(|name| signer(&dir, name));
    bob.object(&["trust", "key", "new", "--node"]);
    let bobs = format!("bob={}", text(&bob.home.join("authority.key.pub")));
    let four = text(&dir.path().join("root-4.statement")).to_owned();
    let mut args = vec!["trust", "root", "rotate", "--threshold", "2", "--authority", &bobs, "--out", &four];
    for signer in &signers {
        args.extend(["--signer", &signer.named]);
    }
    alice.object(&args);
    alice.object(&["trust", "sign", &four, "--yes"]);
    signers[0].sign(&four);
    signers[1].sign(&four);
    assert_eq!(alice.object(&["trust", "publish", &four])["number"], 4);
    until("the gate of phase 3 opens", || gate(&bob)["ready"].as_bool().unwrap().then_some(()));
    let (code, said) = bob.failure(&["trust", "phase", "advance"]);
    assert!(code == "needs_approvals" && said.contains("root-5.statement"), "{code}: {said}");
    let five = bob.home.join("proposals/root-5.statement");
    signers[1].sign(text(&five));
    signers[2].sign(text(&five));
    assert_eq!(carol.object(&["trust", "publish", text(&five)])["number"], 5);
    for node in [&alice, &bob, &carol] {
        until("the last phase", || (node.object(&["trust", "status"])["phase"] == 3).then_some(()));
    }
    let last = gate(&alice);
    assert_eq!((&last["next"], &last["gate"]), (&Value::Null, &json!([])));
    assert_eq!(alice.failure(&["trust", "phase", "advance"]).0, "invalid_argument");
    // The founder's key signs nothing any more; bob's does.
    let (code, said) = alice.failure(&["trust", "issuer", "add", "carol"]);
    assert!(
        code == "needs_approvals" && said.contains("trust issuer add carol --out FILE"),
        "{code}: {said}"
    );
    let carol = a_quorum_adds_an_issuer(&dir, [&alice, &bob], carol, &signers);
    let stranger = "cd".repeat(32);
    assert_eq!(alice.failure(&["trust", "revoke", &stranger, "--reason", "x"]).0, "not_authority");
    assert_eq!(bob.object(&["trust", "revoke", &stranger, "--reason", "x"])["number"], 1);
    // What the mesh goes by outlives a restart.
    let mut carol = carol;
    carol.stop("-KILL");
    carol.up();
    assert_eq!(carol.object(&["trust", "status"])["phase"], 3);
}

/// Two of three root signers make carol an issuer, the founder's key being retired; what she issues the others accept. Gives her back.
fn a_quorum_adds_an_issuer(
    dir: &TempDir,
    [alice, bob]: [&Node; 2],
    mut carol: Node,
    signers: &[Signer; 3],
) -> Node {
    let grant = text(&dir.path().join("carol.statement")).to_owned();
    let asked = bob.object(&["trust", "issuer", "add", "carol", "--out", &grant]);
    assert_eq!((&asked["node_id"], &asked["file"]), (&json!(carol.id()), &json!(grant)));
    assert!(carol.home.join("issuer.pending").exists());
    let shown = object(&nowhere(dir), &["trust", "sign", &grant, "--show"]);
    assert_eq!((&shown["kind"], &shown["grant"]["node_id"]), (&json!("grant"), &json!(carol.id())));
    assert_eq!(
        (shown["grant"].get("leaf_s"), &shown["grant"]["enrolment_s"]),
        (None, &json!(90 * 24 * 3600))
    );
    let said = run(&nowhere(dir), &["trust", "sign", &grant, "--show"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("its certificates last 1 h"), "{said}");
    // The founder, who is root no more, and one signer, given twice, are not enough.
    let founder = object(
        &nowhere(dir),
        &[
            "trust",
            "sign",
            &grant,
            "--yes",
            "--key",
            text(&alice.home.join("root.key")),
            "--out",
            text(&dir.path().join("f")),
        ],
    );
    let founder = founder["signature"]["file"].as_str().unwrap();
    let annas = signers[0].sign(&grant);
    let (code, said) = alice.failure(&["trust", "publish", &grant, founder, &annas]);
    assert!(code == "invalid_argument" && said.contains("no signer has the key"), "{code}: {said}");
    let (code, said) = alice.failure(&["trust", "publish", &grant, &annas, &annas]);
    assert!(code == "needs_approvals" && said.contains("1 of the 2"), "{code}: {said}");
    // She was away when it was signed and published, and begins when she hears of it.
    carol.stop("-KILL");
    signers[2].sign(&grant);
    let published = alice.object(&["trust", "publish", &grant]);
    assert_eq!((&published["kind"], &published["known"]), (&json!("grant"), &json!(false)));
    assert_eq!(alice.object(&["trust", "publish", &grant])["known"], true);
    carol.up();
    let issuers = |node: &Node| node.object(&["trust", "status"])["issuers"].as_array().unwrap().len();
    for node in [alice, bob, &carol] {
        until("carol's grant counts", || (issuers(node) == 3).then_some(()));
    }
    let ticket = until("carol issues", || {
        let made = carol.run(&["invite", "--json"]);
        made.status.success().then(|| serde_json::from_slice::<Value>(&made.stdout).unwrap())
    });
    assert!(!carol.home.join("issuer.pending").exists());
    // Whoever she admits is a member for all, and was shown the root documents from the mesh's id down.
    let dave = Node::beside(dir, "dave", &carol, ticket["ticket"].as_str().unwrap());
    assert_eq!(dave.object(&["trust", "status"])["certificate"]["issuer"], carol.id().as_str());
    for node in [alice, bob] {
        until("dave's certificate counts", || {
            node.run(&["ping", "dave", "--count", "1", "--json"]).status.success().then_some(())
        });
    }
    assert_eq!(dave.object(&["trust", "root", "show"])["version"], 5);
    // A root document that was written before her grant would end it: it is refused, and proposed anew it names her.
    let late = text(&dir.path().join("late.statement")).to_owned();
    let proposed = alice.object(&["trust", "root", "rotate", "--out", &late]);
    assert_eq!(proposed["root"]["grants"].as_array().unwrap().len(), 3);
    // Everybody's trail says who issues, and by which root; the refused statements are in alice's.
    let trail = |node: &Node| {
        let lines = node.run(&["trust", "audit", "--trail", "--export", "-"]);
        String::from_utf8(lines.stdout).unwrap()
    };
    for node in [alice, bob, &carol] {
        let lines = trail(node);
        assert!(lines.contains(&format!("\"kind\":\"grant\",\"issuer\":\"{}\"", carol.id())), "{lines}");
        assert!(lines.contains("\"kind\":\"root\",\"version\":5,\"phase\":3"), "{lines}");
    }
    assert!(trail(alice).contains("\"kind\":\"publication\",\"statement\":\"grant\""), "{}", trail(alice));
    assert!(trail(&carol).contains("\"kind\":\"ticket\""));
    carol
}
