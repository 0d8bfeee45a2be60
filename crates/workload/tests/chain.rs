//! What is issued holds before verifiers that no one here wrote: rustls and OpenSSL.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use common::*;
use data_encoding::BASE64_MIME;
use meshara_identity::UnixMillis;
use meshara_workload::Lives;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};

/// As SPIFFE clients verify servers: the chain, not a host's name.
#[derive(Debug)]
struct Chain {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Chain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    roots: Vec<CertificateDer<'static>>,
}

async fn material(api: &Api) -> Material {
    let context = soon(api.client().await.fetch_x509_context()).await.unwrap();
    let svid = context.default_svid().unwrap();
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).unwrap();
    let der = |certificate: &spiffe::Certificate| CertificateDer::from(certificate.as_bytes().to_vec());
    Material {
        chain: svid.cert_chain().iter().map(der).collect(),
        key: svid.private_key().as_bytes().to_vec(),
        roots: bundle.authorities().iter().map(der).collect(),
    }
}

/// A mutual handshake of `client` and `server` under `roots`.
fn handshake(client: &Material, server: &Material, roots: &Material) -> Result<(), Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in &roots.roots {
        store.add(root.clone()).unwrap();
    }
    let store = Arc::new(store);
    let key = |material: &Material| PrivateKeyDer::from(PrivatePkcs8KeyDer::from(material.key.clone()));
    let verifier =
        WebPkiClientVerifier::builder_with_provider(store.clone(), provider.clone()).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.chain.clone(), key(server))
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Chain { roots: store, provider }))
        .with_client_auth_cert(client.chain.clone(), key(client))
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), "any.invalid".try_into().unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    client.writer().write_all(b"hello").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut wire.as_slice()).unwrap();
    server.process_new_packets()?;
    let mut heard = [0; 5];
    server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    Ok(())
}

#[tokio::test]
async fn a_stock_rustls_takes_both_sides_and_no_other_mesh() {
    let (ours, theirs) = (api(Lives::default(), own_uid()), api(Lives::default(), own_uid()));
    let (ours, theirs) = (material(&ours).await, material(&theirs).await);
    handshake(&ours, &ours, &ours).unwrap();
    // The other mesh has the same name.
    assert!(handshake(&theirs, &ours, &ours).is_err());
    assert!(handshake(&ours, &theirs, &ours).is_err());
}

fn pem(path: &Path, kind: &str, der: &[u8]) {
    let text = format!(
        "-----BEGIN {kind}-----\n{}-----END {kind}-----\n",
        BASE64_MIME.encode(der).replace('\r', "")
    );
    std::fs::write(path, text).unwrap();
}

fn openssl(dir: &Path, args: &[&str]) -> Output {
    Command::new("openssl").current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

#[tokio::test]
async fn openssl_takes_the_chain_and_a_handshake() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI must have openssl");
        println!("skipped: no openssl on this machine");
        return;
    }
    let (ours, theirs) = (api(Lives::default(), own_uid()), api(Lives::default(), own_uid()));
    let (material, foreign) = (material(&ours).await, material(&theirs).await);
    let dir = tempfile::tempdir().unwrap();
    pem(&dir.path().join("leaf.pem"), "CERTIFICATE", &material.chain[0]);
    pem(&dir.path().join("key.pem"), "PRIVATE KEY", &material.key);
    pem(&dir.path().join("roots.pem"), "CERTIFICATE", &material.roots[0]);
    pem(&dir.path().join("foreign.pem"), "CERTIFICATE", &foreign.chain[0]);
    for purpose in ["sslserver", "sslclient"] {
        let strict = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots.pem"];
        let verified = openssl(dir.path(), &[&strict[..], &["leaf.pem"]].concat());
        assert!(verified.status.success(), "{purpose}: {verified:?}");
        assert!(!openssl(dir.path(), &[&strict[..], &["foreign.pem"]].concat()).status.success());
    }
    let text = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in [
        "URI:spiffe://lab/workload/alice",
        "X509v3 Key Usage: critical",
        "Digital Signature",
        "CA:FALSE",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }

    let roots = ["-cert", "leaf.pem", "-key", "key.pem", "-CAfile", "roots.pem"];
    let port =
        std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
    let accept =
        ["s_server", "-accept", &port, "-Verify", "1", "-verify_return_error", "-naccept", "1", "-quiet"];
    let mut server = Command::new("openssl")
        .current_dir(dir.path())
        .args([&accept[..], &roots].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let target = format!("127.0.0.1:{port}");
    let connect = ["s_client", "-connect", &target, "-verify_return_error"];
    let connected = async {
        loop {
            let tried = openssl(dir.path(), &[&connect[..], &roots].concat());
            // Until it listens.
            if !String::from_utf8_lossy(&tried.stderr).contains("refused") {
                return tried;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let connected = soon(connected).await;
    server.kill().unwrap();
    server.wait().unwrap();
    let text = String::from_utf8_lossy(&connected.stdout).into_owned();
    assert!(
        text.contains("Verify return code: 0 (ok)"),
        "{text}\n{}",
        String::from_utf8_lossy(&connected.stderr)
    );
}

#[test]
fn a_certificate_ends_in_an_hour() {
    let mesh = mesh();
    let now = UnixMillis::now();
    let authority = mesh.authority(Lives::default(), now);
    assert_eq!(Lives::default().x509, std::time::Duration::from_secs(3600));
    let (_, end) = issued(&mesh, &authority, now);
    assert_eq!(end, now.seconds() + 3600);
}

/// A leaf and its end, seconds.
fn issued(mesh: &Mesh, authority: &meshara_workload::Authority, now: UnixMillis) -> (Vec<u8>, u64) {
    use meshara_workload::WorkloadId;
    use meshara_workload::keys::P256Key;
    use meshara_workload::wire::{Answer, Request, possession};
    use x509_parser::prelude::FromDer;
    let key = P256Key::generate().unwrap();
    let id = WorkloadId::new(mesh.anchors.mesh(), &mesh.me.name, None);
    let proof = key.sign(&possession(&mesh.anchors.mesh_id(), &mesh.me.node_id, &id, key.public())).unwrap();
    let request = Request::X509 { entry: None, key: key.public().clone(), proof };
    let Answer::X509(der) = authority.answer(&mesh.me, &request, now).answer else { panic!("refused") };
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap();
    (der, end)
}
