//! Two trust domains: programs of one verify those of the other, and bundles are fetched over HTTPS from who proves to be the other.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::sync::Arc;

use common::*;
use futures_util::StreamExt;
use meshara_identity::UnixMillis;
use meshara_workload::federation::{DOCUMENT_MAX, EndpointUrl, FetchError, ServerTrust, fetch, serve_bundle};
use meshara_workload::{ForeignBundle, Lives, Standing, TrustDomain};
use spiffe::WorkloadApiError;
use tokio::net::TcpListener;

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// What a mesh tells others.
fn document(api: &Api) -> Vec<u8> {
    api.workloads.bundle().borrow().spiffe_json(1, UnixMillis::now()).to_string().into_bytes()
}

fn foreign(api: &Api, name: &str) -> ForeignBundle {
    ForeignBundle::parse(domain(name), &document(api)).unwrap()
}

fn meshes() -> (Api, Api) {
    let now = UnixMillis::now();
    let other = api_of(mesh_of("prod", now), Lives::default(), own_uid());
    (api(Lives::default(), own_uid()), other)
}

#[tokio::test]
async fn foreign_bundles_reach_every_stream() {
    let (lab, prod) = meshes();
    let client = lab.client().await;
    let mut contexts = std::pin::pin!(soon(client.stream_x509_contexts()).await.unwrap());
    let mut tokens = std::pin::pin!(soon(client.stream_jwt_bundles()).await.unwrap());
    let name = spiffe::TrustDomain::new("prod").unwrap();
    assert!(soon(contexts.next()).await.unwrap().unwrap().bundle_set().get(&name).is_none());
    assert!(soon(tokens.next()).await.unwrap().unwrap().get(&name).is_none());

    lab.workloads.federate(foreign(&prod, "prod")).unwrap();
    let context = soon(contexts.next()).await.unwrap().unwrap();
    let theirs = soon(prod.client().await.fetch_x509_bundles()).await.unwrap();
    assert_eq!(context.bundle_set().get(&name), theirs.get(&name));
    assert_eq!(soon(client.fetch_x509_bundles()).await.unwrap().get(&name), theirs.get(&name));
    let keys = soon(tokens.next()).await.unwrap().unwrap();
    let token = soon(prod.client().await.fetch_jwt_svid(["reports"], None)).await.unwrap();
    assert!(keys.get(&name).unwrap().find_jwt_authority(token.key_id()).is_some());
    let valid = soon(client.validate_jwt_token("reports", token.token())).await.unwrap();
    assert_eq!(valid.spiffe_id().to_string(), "spiffe://prod/workload/alice");

    lab.workloads.unfederate(&domain("prod")).unwrap();
    assert!(soon(contexts.next()).await.unwrap().unwrap().bundle_set().get(&name).is_none());
    assert!(soon(tokens.next()).await.unwrap().unwrap().get(&name).is_none());
    let refused = soon(client.validate_jwt_token("reports", token.token())).await.unwrap_err();
    assert!(refused.is_invalid_argument(), "{refused}");
}

/// The adversary is a trust domain that we trust for its own names.
#[tokio::test]
async fn a_foreign_trust_domain_speaks_for_nobody_else() {
    let now = UnixMillis::now();
    let lab = api(Lives::default(), own_uid());
    // Its mesh is called as ours, so its keys sign our names.
    let impostor = api_of(mesh_of("lab", now), Lives::default(), own_uid());
    lab.workloads.federate(foreign(&impostor, "prod")).unwrap();
    let token = soon(impostor.client().await.fetch_jwt_svid(["x"], None)).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), "spiffe://lab/workload/alice");
    let refused = soon(lab.client().await.validate_jwt_token("x", token.token())).await.unwrap_err();
    assert!(refused.is_invalid_argument(), "{refused}");
    // Nor does ours speak for it.
    let own = soon(lab.client().await.fetch_jwt_svid(["x"], None)).await.unwrap();
    soon(lab.client().await.validate_jwt_token("x", own.token())).await.unwrap();
    let theirs = soon(impostor.client().await.validate_jwt_token("x", own.token())).await.unwrap_err();
    assert!(theirs.is_invalid_argument(), "{theirs}");
}

struct Endpoint {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `bytes` as a mesh's bundle.
async fn endpoint(api: &Api, bytes: Option<Vec<u8>>) -> Endpoint {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let document = move || std::future::ready(bytes.clone());
    let task = tokio::spawn(serve_bundle(listener, api.workloads.clone(), document, std::future::pending()));
    Endpoint { url, task }
}

fn url(text: &str) -> EndpointUrl {
    text.parse().unwrap()
}

fn proves(id: &str, bundle: &ForeignBundle) -> ServerTrust {
    ServerTrust::Spiffe { id: id.to_owned(), bundle: Arc::new(bundle.clone()) }
}

#[tokio::test]
async fn a_bundle_is_fetched_from_who_proves_to_be_the_endpoint() {
    let (lab, prod) = meshes();
    let bundle = foreign(&prod, "prod");
    let served = endpoint(&prod, Some(document(&prod))).await;
    let alice = "spiffe://prod/workload/alice";
    let fetched = soon(fetch(&url(&served.url), proves(alice, &bundle))).await.unwrap();
    assert_eq!(ForeignBundle::parse(domain("prod"), &fetched).unwrap(), bundle);

    let tls = |result: Result<Vec<u8>, FetchError>| {
        assert!(matches!(result, Err(FetchError::Tls(_))), "{result:?}");
    };
    // Another identity of the same mesh; another mesh's roots; the web's authorities.
    tls(soon(fetch(&url(&served.url), proves("spiffe://prod/workload/bob", &bundle))).await);
    tls(soon(fetch(&url(&served.url), proves(alice, &foreign(&lab, "lab")))).await);
    let web = soon(fetch(&url(&served.url), ServerTrust::Web)).await;
    assert!(matches!(web, Err(FetchError::Tls(_) | FetchError::NoAuthorities)), "{web:?}");

    let elsewhere = url(&format!("{}elsewhere", served.url));
    assert_eq!(soon(fetch(&elsewhere, proves(alice, &bundle))).await, Err(FetchError::Status(404)));
    let large = endpoint(&prod, Some(vec![b' '; DOCUMENT_MAX + 1])).await;
    assert_eq!(soon(fetch(&url(&large.url), proves(alice, &bundle))).await, Err(FetchError::TooLarge));
    let silent = endpoint(&prod, None).await;
    tls(soon(fetch(&url(&silent.url), proves(alice, &bundle))).await);
    drop(served);
    let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let nobody = soon(fetch(&url(&format!("https://{port}/")), proves(alice, &bundle))).await;
    assert_eq!(nobody, Err(FetchError::Connect(std::io::ErrorKind::ConnectionRefused)));
}

#[tokio::test]
async fn a_node_without_standing_serves_no_bundle() {
    let (_lab, prod) = meshes();
    let bundle = foreign(&prod, "prod");
    let served = endpoint(&prod, Some(document(&prod))).await;
    prod.workloads.reconsider(Standing::Revoked, UnixMillis::now());
    let refused = soon(fetch(&url(&served.url), proves("spiffe://prod/workload/alice", &bundle))).await;
    assert!(matches!(refused, Err(FetchError::Tls(_))), "{refused:?}");
}

/// A stock consumer. Its answer to a name that isn't the certificate's is to be told of the SPIFFE profile, which curl doesn't know.
#[tokio::test]
async fn curl_fetches_the_bundle() {
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: no curl on this machine");
        return;
    }
    let (_lab, prod) = meshes();
    let served = endpoint(&prod, Some(document(&prod))).await;
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--include"]).arg(&served.url);
    let output =
        soon(async { tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap() }).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("application/json"), "{text}");
    assert!(text.ends_with(std::str::from_utf8(&document(&prod)).unwrap()), "{text}");
}

#[tokio::test]
async fn revoked_issuers_leave_the_bundle_at_once() {
    let lab = api(Lives::default(), own_uid());
    let client = lab.client().await;
    let mut bundles = std::pin::pin!(soon(client.stream_x509_bundles()).await.unwrap());
    let mut svids = std::pin::pin!(soon(client.stream_x509_svids()).await.unwrap());
    soon(bundles.next()).await.unwrap().unwrap();
    soon(svids.next()).await.unwrap().unwrap();
    let token = soon(client.fetch_jwt_svid(["x"], None)).await.unwrap();
    lab.revoked.lock().unwrap().insert(lab.mesh.me.node_id);
    lab.workloads.reconsider(Standing::Good, UnixMillis::now());
    assert!(lab.workloads.bundle().borrow().is_empty_at(UnixMillis::now()));
    // It was the only issuer: nothing is left to trust, and what it signed counts no more.
    let ended = soon(bundles.next()).await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("roots"), "{ended}");
    let ended = soon(svids.next()).await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("revoked"), "{ended}");
    let refused = soon(client.validate_jwt_token("x", token.token())).await.unwrap_err();
    assert!(refused.is_invalid_argument(), "{refused}");
    // Nor is it believed again.
    let issuer = lab.mesh.me.node_id;
    let learnt = lab.workloads.learn(lab.authority.signed(), UnixMillis::now());
    assert_eq!(learnt, Err(meshara_workload::RootsError::Revoked { issuer }));
    lab.revoked.lock().unwrap().clear();
    assert_eq!(lab.workloads.learn(lab.authority.signed(), UnixMillis::now()), Ok(true));
}

#[tokio::test]
async fn a_node_that_may_not_speak_issues_nothing() {
    let lab = api(Lives::default(), own_uid());
    let client = lab.client().await;
    let mut svids = std::pin::pin!(soon(client.stream_x509_svids()).await.unwrap());
    soon(svids.next()).await.unwrap().unwrap();
    lab.workloads.reconsider(Standing::Ended, UnixMillis::now());
    let ended = soon(svids.next()).await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("certificate has ended"), "{ended}");
    let refused = soon(client.fetch_jwt_svid(["x"], None)).await.unwrap_err();
    assert!(refused.to_string().contains("certificate has ended"), "{refused}");
    // It has another.
    lab.workloads.reconsider(Standing::Good, UnixMillis::now());
    let mut svids = std::pin::pin!(soon(client.stream_x509_svids()).await.unwrap());
    soon(svids.next()).await.unwrap().unwrap();
    lab.workloads.reconsider(Standing::Revoked, UnixMillis::now());
    let ended = soon(svids.next()).await.unwrap().unwrap_err();
    assert!(matches!(ended, WorkloadApiError::NoIdentityIssued), "{ended}");
    let refused = soon(client.fetch_x509_bundles()).await.unwrap_err();
    assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused}");
}
