//! The profile `https_web`: a bundle is fetched from a host that proves its name under an authority that this machine trusts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at the first surprise")]

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use common::*;
use data_encoding::BASE64;
use meshara_identity::UnixMillis;
use meshara_workload::federation::{EndpointUrl, FetchError, ServerTrust, fetch};
use meshara_workload::{ForeignBundle, Lives};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Names the URL to the process that fetches: which authorities a process trusts is in its environment.
const URL: &str = "MESHARA_TEST_BUNDLE_URL";

/// An authority of the web.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let lines: Vec<String> = BASE64
            .encode(&der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn server(&self, host: &str) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap()
    }
}

/// Answers every request with a document; where it listens.
async fn serve(config: ServerConfig, document: Vec<u8>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, document) = (acceptor.clone(), document.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", document.len());
                let _ = stream.write_all(&[head.as_bytes(), &document].concat()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

/// Fetches in a process of its own, which trusts the authorities in `roots`.
async fn fetched(url: String, roots: &Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "fetches_what_the_environment_says", "--nocapture"]);
    command.env(URL, url).env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The other process. By itself it does nothing.
#[tokio::test]
async fn fetches_what_the_environment_says() {
    let Ok(url) = std::env::var(URL) else { return };
    let url: EndpointUrl = url.parse().unwrap();
    match fetch(&url, ServerTrust::Web).await {
        Ok(document) => {
            let bundle = ForeignBundle::parse("prod".parse().unwrap(), &document).unwrap();
            assert_eq!(bundle.sequence(), Some(7));
        }
        Err(error) => {
            assert!(matches!(error, FetchError::Tls(_)), "{error:?}");
            // Another exit than that of a failed test.
            std::process::exit(3);
        }
    }
}

#[tokio::test]
async fn a_host_proves_its_name_under_an_authority_that_the_machine_trusts() {
    let mesh = api_of(mesh_of("prod", UnixMillis::now()), Lives::default(), own_uid());
    let document = mesh.workloads.bundle().borrow().spiffe_json(7, UnixMillis::now()).to_string();
    let (ours, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let (trusted, strange) = (dir.path().join("ours.pem"), dir.path().join("other.pem"));
    std::fs::write(&trusted, &ours.pem).unwrap();
    std::fs::write(&strange, &other.pem).unwrap();

    let port = serve(ours.server("localhost"), document.clone().into_bytes()).await;
    let url = format!("https://localhost:{port}/bundle.json");
    let good = fetched(url.clone(), &trusted).await;
    assert!(good.status.success(), "{good:?}");
    // Under another authority; by another name.
    let refused = fetched(url, &strange).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let elsewhere = serve(ours.server("example.org"), document.into_bytes()).await;
    let refused = fetched(format!("https://localhost:{elsewhere}/bundle.json"), &trusted).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
}
