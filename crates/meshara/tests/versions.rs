//! A peer of a newer version: it is told so at once, and the node goes on.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::Ipv4Addr;
use std::path::Path;

use meshara::Node;
use meshara::api::Control;
use meshara::config::Config;
use meshara_transport::tls::{self, Expect, Tls};
use quinn::{ConnectionError, Endpoint, ReadExactError, TransportErrorCode};

use common::{config, first, joined, soon};

mod common;

/// TLS alert `no_application_protocol` (RFC 7301).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// A running node, and the TLS of another member that does not run: what a newer version would speak with.
async fn node_and_stranger(dir: &Path) -> (Node, Tls) {
    let alice = first(dir, Config { auto: false, ..config() }).await;
    let bob = joined(&alice, dir, "bob").await;
    (alice, common::tls(&bob))
}

fn endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

#[tokio::test]
async fn a_newer_link_protocol_ends_in_an_alert() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, tls) = node_and_stranger(dir.path()).await;
    let endpoint = endpoint();
    let config = tls.client_config(b"meshara-link/2", Expect::AnyMember);
    let dial = endpoint.connect_with(config, alice.local_addr(), tls::SERVER_NAME).unwrap();
    let error = soon(dial).await.unwrap_err();
    let ConnectionError::ConnectionClosed(close) = &error else { panic!("{error:?}") };
    assert_eq!(close.error_code, TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL));
    alice.control().status().await.unwrap();
}

#[tokio::test]
async fn a_newer_hello_closes_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, tls) = node_and_stranger(dir.path()).await;
    let endpoint = endpoint();
    let config = tls.client_config(tls::ALPN_LINK, Expect::AnyMember);
    let dial = endpoint.connect_with(config, alice.local_addr(), tls::SERVER_NAME).unwrap();
    let connection = soon(dial).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[0, 0, 0, 3, 2, 1, 1]).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else { panic!() };
    let reason = String::from_utf8(close.reason.to_vec()).unwrap();
    assert!(reason.contains("version 2") && reason.contains("version 1"), "{reason}");
    assert!(reason.contains("update"), "{reason}");
    assert_eq!(close.error_code.into_inner(), 0x102);
    assert_eq!(alice.control().status().await.unwrap().neighbours, 0);
}

#[tokio::test]
async fn a_newcomer_of_a_newer_version_is_told_to_update() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, _) = node_and_stranger(dir.path()).await;
    let endpoint = endpoint();
    let config = tls::join_client_config().unwrap();
    let dial = endpoint.connect_with(config, alice.local_addr(), tls::SERVER_NAME).unwrap();
    let connection = soon(dial).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[2]).await.unwrap();
    let error = soon(receive.read_exact(&mut [0])).await.unwrap_err();
    assert!(matches!(error, ReadExactError::ReadError(_)), "{error:?}");
    let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else { panic!() };
    let reason = String::from_utf8(close.reason.to_vec()).unwrap();
    assert!(reason.contains("version 1") && reason.contains("update"), "{reason}");
}
