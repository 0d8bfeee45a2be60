//! What breaks and what is repaired.

use meshara_overlay::{Hint, LinkId};

use rand::Rng;

use super::World;
use super::node::{Due, Node, What};
use crate::scenario::{Action, ScenarioError};

impl World<'_> {
    /// Whether an action names nodes and links that exist, and makes of a link what a link can be.
    pub(super) fn validate(&mut self, action: &Action) -> Result<(), ScenarioError> {
        let node = |at: usize| {
            if at < self.nodes.len() { Ok(()) } else { Err(ScenarioError::NoSuchNode(at)) }
        };
        if let Action::Change { link, .. } = action {
            link.check()?;
        }
        if matches!(action, Action::Revoke { .. } | Action::Replay { .. } | Action::Rotate) {
            let why = "revoke, replay and rotate need a `trust` that says who signs";
            let authority = self.shared.trust.ok_or(ScenarioError::OutOfRange(why))?.authority;
            if *action == (Action::Revoke { node: Some(authority) }) {
                return Err(ScenarioError::OutOfRange("the authority can't revoke itself"));
            }
        }
        match action {
            Action::Stop { node: at }
            | Action::Resume { node: at }
            | Action::Crash { node: at }
            | Action::Start { node: at }
            | Action::Isolate { node: at }
            | Action::Rejoin { node: at }
            | Action::Replay { node: at }
            | Action::Leave { node: at } => node(*at),
            Action::Revoke { node: Some(at) } => node(*at),
            Action::Revoke { node: None } | Action::Rotate => Ok(()),
            Action::Cut { a, b }
            | Action::LinkDown { a, b }
            | Action::CutOneWay { a, b }
            | Action::Restore { a, b }
            | Action::Change { a, b, .. } => {
                node(*a)?;
                node(*b)?;
                self.net.between(*a, *b).map(|_| ()).ok_or(ScenarioError::NoSuchLink(*a, *b))
            }
        }
    }

    /// Breaks or repairs something now.
    pub(crate) fn apply(&mut self, action: &Action) {
        let now = self.now;
        if !matches!(action, Action::Revoke { node: None } | Action::Replay { .. } | Action::Rotate) {
            self.check.disturb(now);
            self.look_for_overdue();
            if let Some(spread) = self.spread.as_mut() {
                spread.disturb(now);
            }
        }
        match action {
            Action::Stop { node } => {
                if let Some(node) = self.nodes.get_mut(*node) {
                    node.stopped = true;
                }
            }
            Action::Resume { node: at } => self.resume(*at),
            Action::Crash { node: at } => {
                self.crash_disk(*at);
                if let Some(node) = self.nodes.get_mut(*at) {
                    node.end();
                }
            }
            Action::Start { node: at } => {
                let ended = self.nodes.get(*at).filter(|node| node.core.is_none() || node.left);
                if let Some(left) = ended.map(|node| node.left) {
                    if left {
                        // What was not committed when the process ended is gone.
                        self.crash_disk(*at);
                    }
                    self.start(*at);
                }
            }
            Action::Leave { node: at } => {
                let Some(node) = self.nodes.get_mut(*at) else { return };
                if let Some(core) = node.core.as_mut() {
                    core.leave(now);
                    node.drain(&self.shared, now);
                }
                node.left = true;
                self.settle(*at);
            }
            Action::Cut { a, b } => {
                self.set_way(*a, *b, false);
                self.set_way(*b, *a, false);
            }
            Action::LinkDown { a, b } => {
                self.set_way(*a, *b, false);
                self.set_way(*b, *a, false);
                self.hint(*a, *b);
                self.hint(*b, *a);
            }
            Action::Isolate { node } => self.set_all(*node, false),
            Action::Rejoin { node } => self.set_all(*node, true),
            Action::CutOneWay { a, b } => self.set_way(*a, *b, false),
            Action::Restore { a, b } => {
                self.set_way(*a, *b, true);
                self.set_way(*b, *a, true);
            }
            Action::Revoke { node } => self.revoke(*node),
            Action::Replay { node: at } => {
                if let (Some(node), Some(first)) = (self.nodes.get_mut(*at), &self.first_set) {
                    node.replay(now, first);
                    self.settle(*at);
                }
            }
            Action::Rotate => {
                let at = self.shared.trust.map_or(0, |trust| trust.authority);
                if let Some(node) = self.nodes.get_mut(at).filter(|node| node.runs()) {
                    node.rotate(&self.shared, now);
                    self.settle(at);
                }
            }
            Action::Change { a, b, link } => {
                if let Some(edge) = self.net.between(*a, *b) {
                    self.net.change(edge, *link);
                }
            }
        }
    }

    /// The authority revokes a node, or a former member, unless it doesn't run.
    fn revoke(&mut self, revoked: Option<usize>) {
        let (now, at) = (self.now, self.shared.trust.map_or(0, |trust| trust.authority));
        let id = revoked.map(|revoked| self.shared.id(revoked));
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.runs()) else { return };
        let Some(set) = node.sign_revocation(&self.shared, now, id) else { return };
        self.first_set.get_or_insert(set);
        if let Some((out, spread)) = revoked.and_then(|at| self.out.get_mut(at)).zip(self.spread.as_mut()) {
            *out = true;
            spread.out(revoked.unwrap_or_default());
        }
        self.settle(at);
    }

    /// The operating system tells a node that its interface towards another is down.
    fn hint(&mut self, at: usize, peer: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.runs()) else { return };
        let links: Vec<LinkId> =
            node.links.iter().filter(|(_, end)| end.peer == peer).map(|(id, _)| *id).collect();
        if let Some(core) = node.core.as_mut() {
            links.into_iter().for_each(|link| core.link_hint(now, link, Hint::InterfaceDown));
        }
        node.drain(&self.shared, now);
        self.settle(at);
    }

    fn set_all(&mut self, node: usize, up: bool) {
        let ends: Vec<(usize, usize)> =
            self.net.iter().map(|edge| edge.ends).filter(|(a, b)| *a == node || *b == node).collect();
        for (a, b) in ends {
            self.set_way(a, b, up);
            self.set_way(b, a, up);
        }
    }

    fn set_way(&mut self, from: usize, to: usize, up: bool) {
        let now = self.now;
        let Some(edge) = self.net.between(from, to) else { return };
        let released = self.net.get(edge).map_or_else(Vec::new, |edge| edge.set(now, from, up));
        for (at, (node, what)) in released {
            let made = self.nodes.get_mut(from).map(Node::next_made);
            if let Some((from, number)) = made {
                self.put(node, Due { at_ns: super::nanos(at), from, number, what });
            }
        }
    }

    /// A stopped process goes on: its timers are late, its socket is full.
    fn resume(&mut self, at: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.stopped) else { return };
        node.stopped = false;
        let inbox = std::mem::take(&mut node.inbox);
        node.deliver(&self.shared, now, What::Timer);
        node.mail_timer(&self.shared, now);
        node.trust_timer(&self.shared, now);
        for what in inbox {
            node.deliver(&self.shared, now, what);
        }
        self.settle(at);
    }

    /// A crash catches a commit under way.
    fn crash_disk(&mut self, at: usize) {
        let written = self.rng.random_bool(0.5);
        let Some(node) = self.nodes.get_mut(at) else { return };
        node.crash_disk(&self.shared, self.now, written);
        let on_disk = node.disk.outgoing();
        self.settle(at);
        self.check.crashed(at, &on_disk);
    }
}
