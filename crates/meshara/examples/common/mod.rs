//! Two nodes of a new mesh in this process, as the examples need them. On two machines each would build its own.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use meshara::api::Control;
use meshara::config::Config;
use meshara::{Event, JoinOptions, Node, NodeId, UnixMillis, create_mesh, join};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Makes a mesh with alice, lets bob join, and waits until each has a route to the other. `dir` must be empty.
pub(crate) async fn pair(dir: &Path) -> Result<(Node, Node)> {
    let home = dir.join("alice");
    create_mesh(&home, &"example".parse()?, &"alice".parse()?, None, UnixMillis::now())?;
    let alice = Node::builder().home(home).config(on_loopback()).build().await?;
    let ticket = alice.control().invite(Duration::from_secs(60), 1).await?.ticket;

    let home = dir.join("bob");
    join(JoinOptions::new(home.clone(), ticket, "bob".parse()?)).await?;
    let bob = Node::builder().home(home).config(on_loopback()).build().await?;

    routed(&bob, alice.member().node_id).await?;
    routed(&alice, bob.member().node_id).await?;
    Ok((alice, bob))
}

/// Any free port of this machine, and no search on the LAN: examples keep to themselves.
fn on_loopback() -> Config {
    Config { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), multicast: false, ..Config::default() }
}

/// Waits until `node` has a route to `other`.
async fn routed(node: &Node, other: NodeId) -> Result<()> {
    let mut events = node.events();
    let dest = other.to_string();
    // Asked after the subscription, so that a route found in between is not missed.
    if node.control().routes().await?.iter().any(|route| route.dest == dest) {
        return Ok(());
    }
    let found = async {
        while events.recv().await? != Event::NodeReachable(other) {}
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), found).await?
}
