//! What tests and benchmarks of links are made of.

use std::net::SocketAddr;
use std::sync::Arc;

use meshara_identity::home::Identity;
use meshara_transport::quic::CongestionControl;
use meshara_transport::tls::{Tls, TlsMaterial};
use meshara_transport::{DataPlane, Endpoints, Wire};

mod mesh;

pub(crate) use mesh::Mesh;

/// The endpoints of a member. What its data plane tells is heard by nobody.
pub(crate) fn endpoints(identity: &Identity, at: SocketAddr) -> Endpoints {
    let (plane, mut events) = DataPlane::new(identity.membership.member().address, Wire::bind(at).unwrap());
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let tls = Tls::new(&TlsMaterial::new(&identity.membership).unwrap()).unwrap();
    Endpoints::new(plane, Arc::new(tls), CongestionControl::default(), &[7; 32]).unwrap()
}
