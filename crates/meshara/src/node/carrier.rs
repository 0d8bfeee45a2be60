//! Interfaces that are switched off or lose their carrier: their addresses stay, so the watch of addresses doesn't notice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkFlags;
use rtnetlink::{Handle, MulticastGroup};

use super::Inner;
use super::network::{changed, unusable};

/// Interfaces that are followed. A machine with more (of containers, mostly) has the rest noticed by probes.
const MAX_INTERFACES: usize = 4096;
/// Addresses of one interface that are looked at.
const MAX_ADDRESSES: usize = 64;

/// What a message about an interface means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Lost,
    Back,
}

/// Whether each interface worked when it was last heard of.
#[derive(Debug, Default)]
struct Interfaces(HashMap<u32, bool>);

impl Interfaces {
    /// An interface is heard of. A first message that says that it works is no news.
    fn heard(&mut self, index: u32, works: bool) -> Option<Turn> {
        if self.0.len() >= MAX_INTERFACES && !self.0.contains_key(&index) {
            return None;
        }
        match (self.0.insert(index, works), works) {
            (None | Some(true), false) => Some(Turn::Lost),
            (Some(false), true) => Some(Turn::Back),
            (None | Some(true), true) | (Some(false), false) => None,
        }
    }

    fn gone(&mut self, index: u32) {
        self.0.remove(&index);
    }
}

/// Follows the interfaces, for ever.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let (connection, handle, mut messages) =
        match rtnetlink::new_multicast_connection(&[MulticastGroup::Link]) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(%error, "lost carriers will be noticed by timeouts only");
                return;
            }
        };
    inner.spawn(connection);
    let mut interfaces = Interfaces::default();
    while let Some((message, _)) = messages.next().await {
        let turn = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                let works = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
                interfaces.heard(link.header.index, works).map(|turn| (turn, link.header.index))
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                interfaces.gone(link.header.index); // its addresses go, too, and are noticed by that
                None
            }
            _ => None,
        };
        match turn {
            Some((Turn::Lost, index)) => {
                let addrs = addresses(&handle, index).await;
                if !addrs.is_empty() {
                    tracing::info!(?addrs, "interface down");
                }
                unusable(&inner, &addrs);
            }
            Some((Turn::Back, index)) => {
                tracing::info!(index, "interface up");
                changed(&inner);
            }
            None => {}
        }
    }
}

async fn addresses(handle: &Handle, index: u32) -> Vec<IpAddr> {
    let answers = handle.address().get().set_link_index_filter(index).execute().take(MAX_ADDRESSES);
    let mut found = Vec::new();
    let mut answers = std::pin::pin!(answers);
    while let Some(Ok(message)) = answers.next().await {
        // On a point-to-point interface `Address` is the other end's.
        found.extend(message.attributes.into_iter().filter_map(|attribute| match attribute {
            AddressAttribute::Local(addr) => Some(addr),
            AddressAttribute::Address(addr @ IpAddr::V6(_)) => Some(addr),
            _ => None,
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_turns_are_news() {
        let mut interfaces = Interfaces::default();
        assert_eq!(interfaces.heard(1, true), None, "it worked before, as far as anyone knows");
        assert_eq!(interfaces.heard(1, false), Some(Turn::Lost));
        assert_eq!(interfaces.heard(1, false), None);
        assert_eq!(interfaces.heard(1, true), Some(Turn::Back));
        assert_eq!(interfaces.heard(2, false), Some(Turn::Lost), "it may have carried links");
        interfaces.gone(2);
        assert_eq!(interfaces.heard(2, true), None);
    }

    #[test]
    fn interfaces_are_bounded() {
        let mut interfaces = Interfaces::default();
        for index in 0..10_000 {
            interfaces.heard(index, true);
        }
        assert_eq!(interfaces.0.len(), MAX_INTERFACES);
        assert_eq!(interfaces.heard(0, false), Some(Turn::Lost));
    }
}
