//! `serve` at one node and `connect` at another: TCP through the mesh.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::node::Node;

/// `connect` promises to listen within 0.5 s; the rest is for a loaded machine.
const LISTEN_WAIT: Duration = Duration::from_secs(3);

/// A listener of a node that leads to a service of another; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Tunnel {
    child: Child,
    /// Where it listens, in the namespace of the node.
    pub(crate) address: SocketAddr,
}

impl Tunnel {
    /// Offers local port `target` of `to` as a service, and listens on local port `listen` of `from`.
    pub(crate) fn open(from: &Node, to: &Node, service: &str, target: u16, listen: u16) -> Result<Self> {
        to.run(&["serve", service, "--tcp", &format!("127.0.0.1:{target}")])?;
        let address = SocketAddr::from(([127, 0, 0, 1], listen));
        let child = from
            .command(&["connect", &format!("{}/{service}", to.name), "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start connect")?;
        let tunnel = Self { child, address };
        tunnel.listens(from)?;
        Ok(tunnel)
    }

    /// Waits until the port is taken: binding it fails then, and unlike a connection leaves no trace at the service.
    fn listens(&self, from: &Node) -> Result<()> {
        let begun = Instant::now();
        let address = self.address;
        while from.host.within(move || TcpListener::bind(address).is_ok())? {
            if begun.elapsed() > LISTEN_WAIT {
                bail!("`connect` does not listen on {address} within {LISTEN_WAIT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
