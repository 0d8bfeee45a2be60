//! Nodes on loopback in this process.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshara::api::Control;
use meshara::config::Config;
use meshara::{Event, JoinOptions, Lives, Node, NodeId, UnixMillis, create_mesh, create_mesh_with, join};
use meshara_identity::home;
use meshara_transport::tls::{Tls, TlsMaterial};

/// Nothing here takes as long, not even on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// The end of something that must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

/// On loopback and heard by nobody else.
pub(crate) fn config() -> Config {
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Config { listen, multicast: false, ..Config::default() }
}

pub(crate) async fn build(home: &Path, config: Config) -> Node {
    Node::builder().home(home).config(config).build().await.unwrap()
}

/// Alice, who makes the mesh, running with this configuration.
pub(crate) async fn first(dir: &Path, config: Config) -> Node {
    let home = dir.join("alice");
    create_mesh(&home, &"test".parse().unwrap(), &"alice".parse().unwrap(), None, UnixMillis::now()).unwrap();
    build(&home, config).await
}

/// Alice, who makes a mesh whose certificates live so long, running.
pub(crate) async fn first_with(dir: &Path, leaf_life: Duration) -> Node {
    let home = dir.join("alice");
    let lives = Lives::unlimited(Some(leaf_life), Duration::from_secs(90 * 24 * 3600));
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    create_mesh_with(&home, &mesh, &name, lives, None, UnixMillis::now()).unwrap();
    build(&home, config()).await
}

/// The home of one who joined at `member`, and doesn't run.
pub(crate) async fn joined(member: &Node, dir: &Path, name: &str) -> PathBuf {
    let home = dir.join(name);
    let ticket = member.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
    join(JoinOptions::new(home.clone(), ticket, name.parse().unwrap())).await.unwrap();
    home
}

/// What a member that doesn't run would prove itself with.
pub(crate) fn tls(home: &Path) -> Tls {
    let membership = home::load(home, None).unwrap().membership;
    Tls::new(&TlsMaterial::new(&membership).unwrap()).unwrap()
}

/// Waits until the node reaches `to`; `events` are from before that.
pub(crate) async fn reached(events: &mut tokio::sync::broadcast::Receiver<Event>, to: NodeId) {
    soon(async { while events.recv().await.unwrap() != Event::NodeReachable(to) {} }).await;
}
