//! The names of the mesh, from the certificates that members show each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::{NodeName, SpiffeId};
use meshara_interface::{Name, Zone};
use tokio::sync::Mutex;

use super::Inner;
use super::control::NodeControl;
use crate::api::{InterfaceControl, NameInfo, Result, TunInfo};

/// How old the names may be that a query is answered from: gathering them takes a few milliseconds in a mesh of 10,000.
const AGE: Duration = Duration::from_secs(1);

/// All names that are known, in order. Members who have left keep theirs until their records end.
fn gather(inner: &Inner) -> Vec<Name> {
    let me = &inner.member;
    let mut names = inner.overlay.view(|core| {
        let others = core.nodes().filter(|node| node.node != me.node_id);
        let named = others.filter_map(|node| {
            // Certificates are checked before; what could not be a name is none.
            let name = node.name?.parse::<NodeName>().ok()?;
            let spiffe_id = SpiffeId::node(&inner.mesh, &name);
            Some(Name { name, address: node.address, node: node.node, spiffe_id, reachable: node.reachable })
        });
        named.collect::<Vec<_>>()
    });
    names.push(Name {
        name: me.name.clone(),
        address: me.address,
        node: me.node_id,
        spiffe_id: me.spiffe_id.clone(),
        reachable: true,
    });
    names.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
    names
}

/// The names as DNS answers them, gathered again when they are too old.
#[derive(Debug)]
pub(super) struct Zones {
    latest: Mutex<Option<(Instant, Arc<Zone>)>>,
}

impl Zones {
    pub(super) fn new() -> Self {
        Self { latest: Mutex::new(None) }
    }

    pub(super) async fn now(&self, inner: &Inner) -> Arc<Zone> {
        let mut latest = self.latest.lock().await;
        if let Some((made, zone)) = &*latest
            && made.elapsed() < AGE
        {
            return zone.clone();
        }
        let zone = Arc::new(Zone::new(&inner.mesh, &inner.member.name, gather(inner)));
        *latest = Some((Instant::now(), zone.clone()));
        zone
    }
}

/// The interface as the status tells it.
pub(super) fn tun(inner: &Inner) -> Option<TunInfo> {
    #[cfg(target_os = "linux")]
    return inner.interface.as_ref().map(|interface| TunInfo {
        name: interface.name().to_owned(),
        address: inner.member.address.to_string(),
        mtu: interface.mtu(),
    });
    #[cfg(not(target_os = "linux"))]
    return None;
}

impl InterfaceControl for NodeControl {
    async fn names(&self) -> Result<Vec<NameInfo>> {
        let mesh = &self.0.mesh;
        let info = |name: Name| NameInfo {
            dns: format!("{}.{mesh}.mesh", name.name),
            name: name.name.to_string(),
            address: name.address.to_string(),
            node_id: name.node.to_string(),
            spiffe_id: name.spiffe_id.to_string(),
            reachable: name.reachable,
        };
        Ok(gather(&self.0).into_iter().map(info).collect())
    }
}
