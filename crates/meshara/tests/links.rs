//! A neighbour that asks and asks, and never reads the answers.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use meshara::api::Control;
use meshara::config::Config;
use meshara::{CongestionControl, Node};
use meshara_identity::home;
use meshara_overlay::LinkKind;
use meshara_overlay::control::Message;
use meshara_overlay::record::Kind;
use meshara_transport::tls::Expect;
use meshara_transport::{DataPlane, Endpoints, Link, Wire};
use quinn::ConnectionError;

use common::{config, first, joined, soon};

mod common;

/// Close code of a link whose other end doesn't read its control stream.
const STUCK: u32 = 0x100;

/// The endpoints of a member that runs nothing above them.
fn bare(home: &Path) -> Endpoints {
    let address = home::load(home, None).unwrap().membership.member().address;
    let wire = Wire::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let (plane, mut events) = DataPlane::new(address, wire);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let tls = Arc::new(common::tls(home));
    Endpoints::new(plane, tls, CongestionControl::default(), &[7; 32]).unwrap()
}

async fn dial(endpoints: &Endpoints, node: &Node) -> Link {
    soon(endpoints.dial(node.local_addr(), Expect::AnyMember, LinkKind::Routing)).await.unwrap()
}

#[tokio::test]
async fn a_neighbour_that_does_not_read_its_control_stream_loses_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), Config { auto: false, ..config() }).await;
    let bob = bare(&joined(&alice, dir.path(), "bob").await);
    let wanted = Kind::ALL.map(|kind| (alice.member().node_id, kind));
    let request = Message::Request(wanted.to_vec()).encode();

    let link = dial(&bob, &alice).await;
    let connection = link.hop.connection().clone();
    let (mut sender, _receiver) = link.claim();
    soon(async { while sender.send(&request).await.is_ok() {} }).await;
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, STUCK.into()),
        other => panic!("{other:?}"),
    }

    // Nobody else suffers from it, and whoever reads is answered.
    alice.control().status().await.unwrap();
    let (mut sender, mut receiver) = dial(&bob, &alice).await.claim();
    sender.send(&request).await.unwrap();
    let answer = async {
        loop {
            if let Message::Records(records) = Message::decode(&receiver.receive().await.unwrap()).unwrap() {
                break records;
            }
        }
    };
    assert!(soon(answer).await.iter().all(|aged| aged.record.origin == alice.member().node_id));
    alice.shutdown().await;
}
