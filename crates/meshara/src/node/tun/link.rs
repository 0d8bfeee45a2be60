//! The device as the kernel's routing sees it: address, MTU, and a route for each member.
//!
//! Mesh addresses share no prefix but `fd00::/8`, which is every unique local address there is (RFC 4193). A route for that would
//! take others' networks away, so each member has a route of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use meshara_identity::MeshAddress;
use meshara_interface::{MTU, SEGMENTS};
use meshara_overlay::Event;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::broadcast::error::RecvError;

use super::{Inner, Interface, TunError};

/// Members who have a route. A mesh of 10,000 fits; the kernel takes some 30 µs for each.
const MAX_ROUTES: usize = 20_000;
/// How often the routes are compared with the members, besides when one appears.
const COMPARE: Duration = Duration::from_secs(10);

/// The kernel's side of the device.
pub(super) struct Link {
    handle: Handle,
    index: u32,
    me: MeshAddress,
}

impl Link {
    /// Gives the device its MTU and address, and switches it on.
    pub(super) async fn set_up(name: &str, me: MeshAddress) -> Result<Self, TunError> {
        let failed = |error: String| TunError::Setup { name: name.to_owned(), error };
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| failed(error.to_string()))?;
        // Ends with the last handle.
        tokio::spawn(connection);
        let mut found = std::pin::pin!(handle.link().get().match_name(name.to_owned()).execute());
        let index = match found.next().await {
            Some(Ok(link)) => link.header.index,
            Some(Err(error)) => return Err(failed(error.to_string())),
            None => return Err(failed("it has vanished".to_owned())),
        };
        let up = LinkUnspec::new_with_index(index).mtu(MTU.into()).up().build();
        handle.link().change(up).execute().await.map_err(|error| failed(error.to_string()))?;
        let segments = LinkAttribute::GsoMaxSegs(SEGMENTS.into());
        let limit = LinkUnspec::new_with_index(index).append_extra_attribute(segments).build();
        if let Err(error) = handle.link().change(limit).execute().await {
            // Only slower: batches end with a datagram that isn't full.
            tracing::debug!(%error, "the kernel keeps its own number of segments");
        }
        let address = handle.address().add(index, IpAddr::V6(me.ipv6()), 128).replace();
        address.execute().await.map_err(|error| failed(error.to_string()))?;
        Ok(Self { handle, index, me })
    }

    fn route(&self, to: Ipv6Addr) -> RouteMessage {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128);
        route.output_interface(self.index).pref_source(self.me.ipv6()).build()
    }

    async fn add(&self, to: Ipv6Addr) -> bool {
        let added = self.handle.route().add(self.route(to)).replace().execute().await;
        if let Err(error) = &added {
            tracing::debug!(%error, %to, "no route");
        }
        added.is_ok()
    }

    async fn remove(&self, to: Ipv6Addr) {
        let _ = self.handle.route().del(self.route(to)).execute().await;
    }
}

/// Keeps a route for every member that is known, reachable or not: what is meant for one never leaves by another interface.
pub(super) async fn follow(inner: Arc<Inner>, interface: Arc<Interface>) {
    let link = &interface.link;
    let mut events = inner.overlay.subscribe();
    let mut routes = BTreeSet::new();
    loop {
        let members = inner.overlay.view(|core| {
            let others = core.nodes().filter(|node| node.address != interface.me);
            others.map(|node| node.address.ipv6()).take(MAX_ROUTES).collect::<BTreeSet<_>>()
        });
        for gone in routes.difference(&members) {
            link.remove(*gone).await;
        }
        let mut present: BTreeSet<Ipv6Addr> = routes.intersection(&members).copied().collect();
        for new in members.difference(&routes) {
            if link.add(*new).await {
                present.insert(*new);
            }
        }
        routes = present;
        let mut rest = std::pin::pin!(tokio::time::sleep(COMPARE));
        loop {
            tokio::select! {
                () = &mut rest => break,
                event = events.recv() => match event {
                    Ok(Event::NodeReachable(node)) if routes.len() < MAX_ROUTES => {
                        let address = inner.endpoints.address_of(&node).ipv6();
                        if !routes.contains(&address) && link.add(address).await {
                            routes.insert(address);
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}
