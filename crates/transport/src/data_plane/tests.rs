//! What becomes of session packets that the kernel doesn't take at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use meshara_identity::UnixMillis;
use meshara_identity::home::Identity;
use meshara_overlay::LinkKind;

use super::*;
use crate::quic::CongestionControl;
use crate::reassembly::session_addr;
use crate::tls::{Expect, Tls, TlsMaterial};
use crate::{Accepted, Endpoints, Link};

#[path = "../../tests/common/mesh.rs"]
mod mesh;

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(10);

fn endpoints(identity: &Identity) -> Endpoints {
    let wire = Wire::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let (plane, mut events) = DataPlane::new(identity.membership.member().address, wire);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let tls = Tls::new(&TlsMaterial::new(&identity.membership).unwrap()).unwrap();
    Endpoints::new(plane, Arc::new(tls), CongestionControl::default(), &[7; 32]).unwrap()
}

/// Both halves of a link between two nodes.
async fn link(from: &Endpoints, to: &Endpoints) -> (Link, Link) {
    let address = to.plane().local_addr().unwrap();
    let dial = from.dial(address, Expect::AnyMember, LinkKind::Routing);
    let accept = async { to.accept(to.next_incoming().await.unwrap()).await.unwrap() };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let Accepted::Link(accepted) = accepted else { panic!("no link") };
    (dialled.unwrap(), *accepted)
}

fn packet(to: MeshAddress, contents: &[u8]) -> Transmit<'_> {
    Transmit { destination: session_addr(to), ecn: None, contents, segment_size: None, src_ip: None }
}

#[tokio::test]
async fn what_the_kernel_refused_is_sent_when_it_takes_data_again() {
    let mesh = mesh::Mesh::new(UnixMillis::now());
    let (alice, bob) = (endpoints(&mesh.alice), endpoints(&mesh.bob));
    let (out, _in) = link(&alice, &bob).await;
    let (plane, to) = (alice.plane(), bob.plane().me());
    let contents = vec![1; 5000];
    // More than once: the task ends when it is done, and the next refusal needs a new one.
    for round in 1..=3 {
        let complete = || bob.plane().reassembly_stats().complete;
        {
            let mut sender = plane.sender.lock().unwrap();
            plane.wire.refuse();
            let addresses = (plane.me(), to);
            sender.send(&plane.wire, &out.hop, addresses, u16::MAX, &packet(to, &contents), plane.counters());
            assert!(!sender.is_empty(), "nothing leaves a socket that refuses");
            plane.send_rest(&sender);
        }
        // QUIC is told to wait meanwhile, and its packets don't pile up here.
        let again = plane.send_session(&packet(to, &contents));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(plane.flushing.load(Relaxed));

        // Something arrives, so the kernel tells of the socket.
        let noise = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        noise.send_to(b"noise", plane.local_addr().unwrap()).await.unwrap();
        let sent = async {
            while complete() < round {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, sent).await.unwrap();
        assert!(plane.sender.lock().unwrap().is_empty());
        assert!(!plane.flushing.load(Relaxed));
    }
}
