//! Forms that were written once and must be read for ever. For a new version, `MESHARA_FREEZE=1 cargo test -p meshara-trust --test frozen`
//! writes them anew. Signatures have chance in them, so a signed form is read, verified, and compared without them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::*;
use meshara_trust::policy::{Compiled, STARTER, parse};
use meshara_trust::revocation::Revocations;
use meshara_trust::root::{
    DetachedSignature, Journal, RootDocument, SignedRoot, StatementFile, TrustedRoot, decode_chain,
    decode_public_key, encode_chain, encode_public_key,
};
use meshara_trust::sets::*;

fn frozen(name: &str, made: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if std::env::var_os("MESHARA_FREEZE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    std::fs::read(path).unwrap()
}

fn revocations() -> Revocations {
    let mut revocations = Revocations::default();
    revocations.revoke(node(3), NOW, "laptop stolen".parse().unwrap()).unwrap();
    revocations.revoke(node(1), NOW, "".parse().unwrap()).unwrap();
    revocations.reinstate(node(1), NOW.plus(Duration::from_secs(1)), "found".parse().unwrap()).unwrap();
    revocations
}

#[test]
fn bodies() {
    let body = revocations().encode().unwrap();
    assert_eq!(frozen("revocations.bin", &body), body);
    assert_eq!(Revocations::decode(&body), Ok(revocations()));
    let text = format!(
        "{STARTER}\n[[rule]]\nname = \"all\"\neffect = \"deny\"\nfrom = [\"a*\", \"role:x\", \"spiffe://lab/node/b\"]\n\
         to = [\"tun:*:1-9\", \"topic:t\", \"control:*\"]\n[[rule]]\nname = \"rated\"\neffect = \"allow\"\nfrom = \"c\"\nto = \"topic:t\"\n\
         days = [\"mon\", \"sun\"]\nhours = \"22:00-06:00\"\nrate = \"10/min\"\nburst = 2\n"
    );
    let policy = parse(&text).unwrap();
    let body = policy.policy().encode().unwrap();
    assert_eq!(frozen("policy.bin", &body), body);
    assert_eq!(Compiled::decode(&body).unwrap().policy(), policy.policy());
}

#[test]
fn sets_freshness_and_evidence() {
    let quorum = quorum(2, &[("alice", 0), ("bob", 1)]);
    let mesh = key(0).public().fingerprint();
    let made = set(None, SetKind::Revocations, revocations().encode().unwrap(), NOW, &[0, 1]);
    let read = SignedSet::decode(&frozen("set.bin", &made.encode().unwrap())).unwrap();
    assert_eq!((&read.signed.head, &read.body), (&made.signed.head, &made.body));
    let mut holder: Holder<Revocations> = Holder::new(mesh, SILENCE_LIMIT);
    assert_eq!(holder.offer(read.clone(), &quorum), Ok(Offered::Accepted));

    let newest = HeadRef::of(&made.signed.head).unwrap();
    let statement = Freshness { mesh, at: NOW, revocations: newest, policy: HeadRef::NONE };
    let signed = statement.clone().sign(key(1)).unwrap();
    let heard = SignedFreshness::decode(&frozen("freshness.bin", &signed.encode().unwrap())).unwrap();
    assert_eq!(heard.statement, statement);
    assert_eq!(holder.hear(&heard, &quorum, NOW), Ok(Heard::Newest));

    let other = set(None, SetKind::Revocations, Revocations::default().encode().unwrap(), NOW, &[1]);
    let evidence = ForkEvidence { one: Claim::Head(other.signed), other: Claim::Freshness(signed) };
    let read = ForkEvidence::decode(&frozen("fork-evidence.bin", &evidence.encode().unwrap())).unwrap();
    let bob = vec!["bob".parse().unwrap()];
    let fork = Fork { kind: SetKind::Revocations, number: 1, signers: bob };
    assert_eq!(read.verify(&mesh, &quorum), Ok(fork));
}

#[test]
fn root_documents_and_offline_files() {
    let authority = quorum(1, &[("alice", 4)]);
    let life = Duration::from_secs(365 * 24 * 3600);
    let document = RootDocument::founding(key(0), "alice".parse().unwrap(), authority, NOW, life).unwrap();
    let mut signed = SignedRoot::new(document.clone());
    signed.approve(key(0)).unwrap();
    let read = SignedRoot::decode(&frozen("root.bin", &signed.encode().unwrap())).unwrap();
    assert_eq!(read.document, document);
    TrustedRoot::first(&document.mesh, read, NOW).unwrap();

    let statement = StatementFile::root(&document).unwrap();
    let bytes = statement.encode().unwrap();
    assert_eq!(frozen("statement", &bytes), bytes);
    assert_eq!(StatementFile::decode(&bytes), Ok(statement.clone()));
    let made = statement.sign(key(0)).unwrap().encode().unwrap();
    let signature = DetachedSignature::decode(&frozen("signature", &made)).unwrap();
    let mut approvals = Approvals::default();
    statement.join(signature, &[&document.root], &mut approvals).unwrap();

    let made = set(None, SetKind::Revocations, revocations().encode().unwrap(), NOW, &[]);
    let statement = StatementFile::set(&made.signed.head, made.body).unwrap();
    let bytes = statement.encode().unwrap();
    assert_eq!(frozen("statement-set", &bytes), bytes);
    assert_eq!(StatementFile::decode(&bytes), Ok(statement.clone()));

    let bytes = encode_public_key(key(0).public()).unwrap();
    assert_eq!(frozen("public-key", &bytes), bytes);
    assert_eq!(decode_public_key(&bytes).as_ref(), Ok(key(0).public()));
    let chain = decode_chain(&frozen("roots", &encode_chain(&[signed]).unwrap())).unwrap();
    assert_eq!(TrustedRoot::walk(&document.mesh, chain, NOW).unwrap().document(), &document);

    let mut journal = Journal::default();
    let key_id = KeyId::of(key(0).public());
    journal.note(key_id, &StatementFile::root(&document).unwrap(), false).unwrap();
    journal.note(key_id, &statement, false).unwrap();
    let bytes = journal.encode().unwrap();
    assert_eq!(frozen("journal.bin", &bytes), bytes);
    assert_eq!(Journal::decode(&bytes), Ok(journal));
}
