//! Faults: what is broken, how, and how it is undone.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rand::Rng;
use rand::rngs::SmallRng;
use rustix::process::Signal;
use serde::Serialize;

use super::form::Mesh;
use crate::net::drops::{self, Way};

/// What happens to the node or link that carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The node stops without a word and later goes on (SIGSTOP, SIGCONT).
    Sigstop,
    /// The node dies at once and is later started again.
    Sigkill,
    /// An interface goes down; both ends can see it.
    LinkDown,
    /// Packets of one direction of a link vanish.
    OneWay,
    /// Every packet of the node vanishes; its process goes on.
    Blackhole,
    /// The node ends on SIGTERM and is started again at once.
    Restart,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 6] =
        [Self::Sigstop, Self::Sigkill, Self::LinkDown, Self::OneWay, Self::Blackhole, Self::Restart];

    /// The name in reports and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sigstop => "sigstop",
            Self::Sigkill => "sigkill",
            Self::LinkDown => "link-down",
            Self::OneWay => "one-way",
            Self::Blackhole => "blackhole",
            Self::Restart => "restart",
        }
    }
}

/// A fault that is planned: a place is chosen, nothing is broken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Node {
        kind: Kind,
        node: usize,
    },
    /// At the end of the link that belongs to `node`.
    Link {
        kind: Kind,
        node: usize,
        peer: usize,
        device: String,
    },
}

impl Fault {
    /// Chooses an inner node or a link of the path at random.
    pub(crate) fn plan(kind: Kind, mesh: &Mesh, path: &[usize], rng: &mut SmallRng) -> Result<Self> {
        if !matches!(kind, Kind::LinkDown | Kind::OneWay) {
            let inner = path.get(1..path.len().saturating_sub(1)).filter(|inner| !inner.is_empty());
            let inner = inner.context("no inner node on the path")?;
            let node =
                inner.get(rng.random_range(0..inner.len())).copied().context("no inner node on the path")?;
            return Ok(Self::Node { kind, node });
        }
        let hops: Vec<_> = path.windows(2).collect();
        let hop = hops.get(rng.random_range(0..hops.len().max(1))).copied().context("no link on the path")?;
        let [mut node, mut peer] = *hop else { anyhow::bail!("a link of more than two nodes") };
        if rng.random_bool(0.5) {
            (node, peer) = (peer, node);
        }
        let device = mesh.network.device(node, peer)?;
        Ok(Self::Link { kind, node, peer, device })
    }

    /// What is hit, for people.
    pub(crate) fn target(&self) -> String {
        match self {
            Self::Node { node, .. } => format!("n{node}"),
            Self::Link { kind: Kind::OneWay, node, peer, .. } => format!("n{peer}→n{node}"),
            Self::Link { node, peer, .. } => format!("n{node}–n{peer}"),
        }
    }

    /// Breaks it. Signals act at once; the other tools within some 10 ms.
    pub(crate) fn inject(&self, mesh: &mut Mesh) -> Result<()> {
        match self {
            Self::Node { kind: Kind::Sigstop, node } => mesh.node(*node)?.signal(Signal::STOP),
            Self::Node { kind: Kind::Sigkill, node } => {
                let node = mesh.node_mut(*node)?;
                node.signal(Signal::KILL)?;
                node.reap().map(drop)
            }
            Self::Node { kind: Kind::Restart, node } => {
                let node = mesh.node_mut(*node)?;
                node.signal(Signal::TERM)?;
                node.reap()?;
                node.start()
            }
            Self::Node { node, .. } => {
                let devices = mesh
                    .network
                    .links_of(*node)
                    .filter_map(|link| link.at(*node))
                    .flat_map(|end| [(end.device.as_str(), Way::In), (end.device.as_str(), Way::Out)])
                    .collect::<Vec<_>>();
                drops::begin(mesh.network.host(*node)?, &devices)
            }
            Self::Link { kind: Kind::OneWay, node, device, .. } => {
                drops::begin(mesh.network.host(*node)?, &[(device, Way::In)])
            }
            Self::Link { node, device, .. } => {
                mesh.network.host(*node)?.ip(&["link", "set", "dev", device, "down"]).map(drop)
            }
        }
    }

    /// Mends it.
    pub(crate) fn undo(&self, mesh: &mut Mesh) -> Result<()> {
        match self {
            Self::Node { kind: Kind::Sigstop, node } => mesh.node(*node)?.signal(Signal::CONT),
            Self::Node { kind: Kind::Sigkill, node } => mesh.node_mut(*node)?.start(),
            Self::Node { kind: Kind::Restart, .. } => Ok(()),
            Self::Node { node, .. } | Self::Link { kind: Kind::OneWay, node, .. } => {
                drops::end(mesh.network.host(*node)?)
            }
            Self::Link { node, device, .. } => {
                mesh.network.host(*node)?.ip(&["link", "set", "dev", device, "up"]).map(drop)
            }
        }
    }

    /// Waits until a process that was started again answers.
    pub(crate) fn settle(&self, mesh: &mut Mesh) -> Result<()> {
        match self {
            Self::Node { kind: Kind::Sigkill | Kind::Restart, node } => mesh.node_mut(*node)?.answers(),
            _ => Ok(()),
        }
    }
}

/// How long a fault lasts before it is undone: past *dead* (1 to 1.6 s), so that detection and flooding are over.
pub(crate) const HOLD: Duration = Duration::from_millis(1800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for kind in Kind::ALL {
            let value = kind.to_possible_value().unwrap();
            assert_eq!(value.get_name(), kind.name());
        }
    }

    #[test]
    fn a_target_says_which_way_packets_vanish() {
        let link = |kind| Fault::Link { kind, node: 2, peer: 1, device: "e0".into() };
        assert_eq!(link(Kind::OneWay).target(), "n1→n2");
        assert_eq!(link(Kind::LinkDown).target(), "n2–n1");
    }
}
