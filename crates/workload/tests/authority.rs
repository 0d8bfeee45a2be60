//! The issuer's side: whose identities it signs, its roots over time, and the forms that are kept.
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
use meshara_identity::sealed::{self, FileKind};
use meshara_identity::{FixedBytes, NodeId, UnixMillis};
use meshara_workload::authority::{ContentError, ROOT_LIFE, Requester};
use meshara_workload::keys::P256Key;
use meshara_workload::roots::{RootsError, RootsStatement, SignedRoots};
use meshara_workload::wire::{Answer, Refusal, Reply, Request, possession};
use meshara_workload::{Authority, AuthorityError, Bundle, Lives, WorkloadId};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn bob() -> Requester {
    Requester { node_id: NodeId([7; 32]), name: "bob".parse().unwrap() }
}

fn ask(mesh: &Mesh, from: &Requester, key: &P256Key, entry: Option<&str>) -> Request {
    let entry = entry.map(|entry| entry.parse().unwrap());
    let id = WorkloadId::new(mesh.anchors.mesh(), &from.name, entry.as_ref());
    let proof = key.sign(&possession(&mesh.anchors.mesh_id(), &from.node_id, &id, key.public())).unwrap();
    Request::X509 { entry, key: key.public().clone(), proof }
}

fn uri(der: &[u8]) -> String {
    use x509_parser::prelude::FromDer;
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(der).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names.len(), 1);
    names[0].to_string()
}

#[test]
fn a_node_gets_identities_below_its_own_name_only() {
    let mesh = mesh();
    let now = UnixMillis::now();
    let authority = mesh.authority(Lives::default(), now);
    let key = P256Key::generate().unwrap();
    for (entry, id) in [(None, "spiffe://lab/workload/bob"), (Some("db"), "spiffe://lab/workload/bob/db")] {
        let Answer::X509(der) = authority.answer(&bob(), &ask(&mesh, &bob(), &key, entry), now).answer else {
            panic!("refused")
        };
        assert!(uri(&der).contains(id), "{}", uri(&der));
    }
    // What alice's key signed for alice's identity is no proof for bob's.
    let stolen = ask(&mesh, &mesh.me, &key, None);
    assert_eq!(authority.answer(&bob(), &stolen, now).answer, Answer::Refused(Refusal::BadProof));
    let other = P256Key::generate().unwrap();
    let Request::X509 { proof, .. } = ask(&mesh, &bob(), &other, None) else { unreachable!() };
    let foreign = Request::X509 { entry: None, key: key.public().clone(), proof };
    assert_eq!(authority.answer(&bob(), &foreign, now).answer, Answer::Refused(Refusal::BadProof));
}

#[test]
fn audiences_are_bounded() {
    let mesh = mesh();
    let authority = mesh.authority(Lives::default(), UnixMillis::now());
    for audience in [vec![], vec![String::new()], vec!["x".repeat(513)], vec!["x".to_owned(); 17]] {
        let request = Request::Jwt { entry: None, audience };
        let answer = authority.answer(&bob(), &request, UnixMillis::now()).answer;
        assert_eq!(answer, Answer::Refused(Refusal::BadAudience));
    }
    let request = Request::Jwt { entry: None, audience: vec!["x".repeat(512); 16] };
    let Answer::Jwt(token) = authority.answer(&bob(), &request, UnixMillis::now()).answer else { panic!() };
    assert!(token.len() < 16 * 1024);
    assert_eq!(format!("{:?}", Answer::Jwt(token)), "Jwt(secret)");
}

/// Whether what the authority signs at `now` holds before a verifier that has heard of its roots.
fn holds(mesh: &Mesh, authority: &Authority, bundle: &Bundle, now: UnixMillis) -> bool {
    use rustls::pki_types::CertificateDer;
    let key = P256Key::generate().unwrap();
    let answer = authority.answer(&mesh.me, &ask(mesh, &mesh.me, &key, None), now).answer;
    let Answer::X509(der) = answer else { panic!("refused") };
    let leaf = CertificateDer::from(der);
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let mut roots = Vec::new();
    let bytes = bundle.x509_der(now);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        use x509_parser::prelude::FromDer;
        let (after, _) = x509_parser::certificate::X509Certificate::from_der(rest).unwrap();
        roots.push(CertificateDer::from(rest[..rest.len() - after.len()].to_vec()));
        rest = after;
    }
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let time = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.seconds()));
    let algorithms = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];
    leaf.verify_for_usage(algorithms, &anchors, &[], time, webpki::KeyUsage::server_auth(), None, None)
        .is_ok()
}

#[test]
fn roots_are_replaced_before_they_end_and_told_before_they_sign() {
    let start = UnixMillis::now();
    let mesh = mesh_of("lab", start);
    let authority = mesh.authority(Lives::default(), start);
    let mut bundle = Bundle::new(mesh.anchors.mesh().clone());
    let learn = |bundle: &mut Bundle, now| bundle.accept(&mesh.anchors, authority.signed(), now);
    assert_eq!(learn(&mut bundle, start), Ok(true));
    assert_eq!(learn(&mut bundle, start), Ok(false), "known");
    assert!(!authority.refresh(start.plus(ROOT_LIFE / 2 - DAY)).unwrap());

    let half = start.plus(ROOT_LIFE / 2 + DAY);
    assert!(authority.refresh(half).unwrap());
    assert!(!authority.refresh(half).unwrap());
    assert_eq!(authority.signed().statement.roots.len(), 2);
    // Whoever hasn't heard of the new root yet loses nothing for a day.
    assert!(holds(&mesh, &authority, &bundle, half.plus(DAY / 2)));
    assert!(!holds(&mesh, &authority, &bundle, half.plus(DAY)), "the new one signs");
    assert_eq!(learn(&mut bundle, half), Ok(true));
    assert!(holds(&mesh, &authority, &bundle, half.plus(DAY)));

    // The first has ended; a later life of the node continues.
    let end = start.plus(ROOT_LIFE + DAY * 2);
    drop(authority);
    let authority = mesh.authority(Lives::default(), end);
    let numbers: Vec<_> = authority.signed().statement.roots.iter().map(|root| root.number).collect();
    assert_eq!(numbers, [2, 3]);
    assert!(holds(&mesh, &authority, &bundle, end), "the second is known, the third doesn't sign yet");
}

#[test]
fn statements_are_checked() {
    let now = UnixMillis::now();
    let (ours, theirs) = (mesh_of("lab", now), mesh_of("lab", now));
    let authority = ours.authority(Lives::default(), now);
    let mut bundle = Bundle::new(ours.anchors.mesh().clone());
    let old = authority.signed();
    bundle.accept(&ours.anchors, old.clone(), now).unwrap();
    let issuer = ours.me.node_id;

    let foreign = theirs.authority(Lives::default(), now).signed();
    assert_eq!(bundle.accept(&ours.anchors, foreign.clone(), now), Err(RootsError::WrongMesh));
    // The other mesh's issuer speaks for ours.
    let statement = RootsStatement { mesh: ours.anchors.mesh_id(), number: u64::MAX, ..foreign.statement };
    let forged = SignedRoots::sign(statement.clone(), &theirs.issuer).unwrap();
    let nobody = theirs.me.node_id;
    assert_eq!(bundle.accept(&ours.anchors, forged, now), Err(RootsError::NotSigned { issuer: nobody }));
    let forged = SignedRoots::sign(RootsStatement { issuer, ..statement.clone() }, &theirs.issuer).unwrap();
    assert_eq!(bundle.accept(&ours.anchors, forged, now), Err(RootsError::NotSigned { issuer }));
    // Signed, but the roots are no good.
    let mut bad = RootsStatement { number: old.statement.number + 1, ..old.statement.clone() };
    bad.roots[0].not_after = bad.roots[0].not_after.plus(DAY);
    let bad = SignedRoots::sign(bad, &ours.issuer).unwrap();
    assert_eq!(bundle.accept(&ours.anchors, bad, now), Err(RootsError::BadRoot { issuer }));
    let many = vec![old.statement.roots[0].clone(); 5];
    let many = RootsStatement { number: old.statement.number + 1, roots: many, ..old.statement.clone() };
    let many = SignedRoots::sign(many, &ours.issuer).unwrap();
    assert_eq!(bundle.accept(&ours.anchors, many, now), Err(RootsError::BadRoot { issuer }));

    let number = old.statement.number;
    let withdrawn = RootsStatement { number, roots: Vec::new(), ..old.statement.clone() };
    let twice = SignedRoots::sign(withdrawn.clone(), &ours.issuer).unwrap();
    assert_eq!(bundle.accept(&ours.anchors, twice, now), Err(RootsError::Contradiction { issuer, number }));
    let withdrawn = RootsStatement { number: number + 1, ..withdrawn };
    assert_eq!(
        bundle.accept(&ours.anchors, SignedRoots::sign(withdrawn, &ours.issuer).unwrap(), now),
        Ok(true)
    );
    assert!(bundle.is_empty_at(now), "no root, no trust");
    let stale = RootsError::Stale { issuer, found: number, held: number + 1 };
    assert_eq!(bundle.accept(&ours.anchors, old, now), Err(stale));
}

#[test]
fn a_damaged_or_foreign_file_is_never_replaced() {
    let now = UnixMillis::now();
    let (ours, theirs) = (mesh_of("lab", now), mesh_of("lab", now));
    let open = || {
        let opened = Authority::open(
            ours.home.path(),
            None,
            ours.issuer.clone(),
            ours.me.node_id,
            Lives::default(),
            now,
        );
        opened.map(|authority| authority.signed().statement)
    };
    let first = open().unwrap();
    assert_eq!(open().unwrap(), first, "the same roots again");
    let path = ours.home.path().join("workload.key");
    theirs.authority(Lives::default(), now);
    let foreign = std::fs::read(theirs.home.path().join("workload.key")).unwrap();
    std::fs::write(&path, &foreign).unwrap();
    let error = AuthorityError::Content { path: path.clone(), error: ContentError::Foreign };
    assert_eq!(open().unwrap_err(), error);
    std::fs::write(&path, &foreign[..foreign.len() / 2]).unwrap();
    assert!(matches!(open().unwrap_err(), AuthorityError::File(_)));
    assert_eq!(std::fs::read(&path).unwrap().len(), foreign.len() / 2);
    std::fs::remove_file(&path).unwrap();
    assert!(open().unwrap().number >= first.number, "new roots are believed over lost ones");
}

/// Forms that were written once and must be read for ever. `MESHARA_FREEZE=1 cargo test -p meshara-workload --test authority` writes them anew.
fn frozen(name: &str, made: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if std::env::var_os("MESHARA_FREEZE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    std::fs::read(path).unwrap()
}

#[test]
fn the_forms_are_frozen() {
    let mesh = mesh();
    let authority = mesh.authority(Lives::default(), UnixMillis::now());
    let path = mesh.home.path().join("workload.key");
    let content = frozen("workload.key", &sealed::read(&path, FileKind::Workload, None).unwrap());
    assert!(meshara_workload::authority::decodes(&content));
    assert!(!meshara_workload::authority::decodes(&[&content[..], &[0]].concat()));

    let roots = frozen("roots.bin", &authority.signed().encode().unwrap());
    let roots = SignedRoots::decode(&roots).unwrap();
    let key = FixedBytes::from([4; 65]);
    let entry = Some("db".parse().unwrap());
    let requests = [
        ("request-roots.bin", Request::Roots),
        ("request-x509.bin", Request::X509 { entry: entry.clone(), key, proof: FixedBytes::from([9; 64]) }),
        ("request-jwt.bin", Request::Jwt { entry, audience: vec!["a".into(), "b".into()] }),
    ];
    for (name, request) in requests {
        let bytes = request.encode().unwrap();
        assert_eq!(frozen(name, &bytes), bytes);
        assert_eq!(Request::decode(&bytes), Ok(request));
    }
    let answers = [
        ("reply-roots.bin", Answer::Roots),
        ("reply-x509.bin", Answer::X509(vec![0x30, 0])),
        ("reply-jwt.bin", Answer::Jwt("a.b.c".into())),
        ("reply-refused.bin", Answer::Refused(Refusal::Internal)),
    ];
    for (name, answer) in answers {
        let reply = Reply { roots: roots.clone(), answer };
        let bytes = reply.encode().unwrap();
        assert_eq!(frozen(name, &bytes), bytes);
        assert_eq!(Reply::decode(&bytes), Ok(reply));
        assert!(Reply::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}

proptest! {
    #[test]
    fn requests_round_trip(entry in prop::option::of("[a-z0-9]{1,63}"), audience in prop::collection::vec(".{0,64}", 0..20)) {
        let request = Request::Jwt { entry: entry.map(|entry| entry.parse().unwrap()), audience };
        let bytes = request.encode().unwrap();
        prop_assert_eq!(Request::decode(&bytes), Ok(request));
        prop_assert!(Request::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
        let _ = SignedRoots::decode(&bytes);
        meshara_workload::authority::decodes(&bytes);
    }
}
