//! What evidence of misbehaviour takes away from a node: rights in steps, each of which ends by itself.

use std::collections::HashMap;
use std::time::Duration;

use meshara_identity::{NodeId, UnixMillis};

use super::compiled::Decision;
use super::rate::Rate;
use super::target::{Asked, TargetKind};

/// The name under which evidence denies.
pub const EVIDENCE_RULE: &str = "evidence";

/// The name under which a node denies everything that hasn't heard the mesh's signers for too long.
pub const STALE_RULE: &str = "stale";

/// Most nodes with evidence against them: far more than a mesh that still works has.
const NODES_MAX: usize = 4096;

/// A burst of misdeeds is one: the next step comes at the earliest this long after the last.
const RAISE_AFTER: Duration = Duration::from_secs(60);

/// What a node may do at each step: once a second, a few at once.
const LIMIT: Rate = Rate { count: 1, per_seconds: 1, burst: 5 };

/// What a node was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Evidence {
    /// It sent what no correct program sends.
    Malformed,
    /// It went on and on past its rates.
    Flooding,
    /// It announced routes or links that measurements refute.
    FalseRouting,
    /// It signed two statements that contradict each other. This is proof, not suspicion: it goes to the last step at once.
    Equivocation,
}

/// How much is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Everything that policy allows, slowly.
    Rate,
    /// Only ping, trace and messages, slowly.
    Restrict,
    /// Nothing.
    Quarantine,
}

impl Step {
    /// How long it lasts after the last misdeed; then the step below follows. Minutes for what may be a fault, hours for the last.
    fn life(self) -> Duration {
        match self {
            Self::Rate => Duration::from_secs(5 * 60),
            Self::Restrict => Duration::from_secs(30 * 60),
            Self::Quarantine => Duration::from_secs(6 * 3600),
        }
    }

    fn up(self) -> Self {
        match self {
            Self::Rate => Self::Restrict,
            Self::Restrict | Self::Quarantine => Self::Quarantine,
        }
    }

    fn down(self) -> Option<Self> {
        match self {
            Self::Rate => None,
            Self::Restrict => Some(Self::Rate),
            Self::Quarantine => Some(Self::Restrict),
        }
    }
}

/// What holds against a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restriction {
    /// The step.
    pub step: Step,
    /// When the step below follows.
    pub until: UnixMillis,
    /// The last misdeed.
    pub evidence: Evidence,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    step: Step,
    since: UnixMillis,
    raised: UnixMillis,
    evidence: Evidence,
}

impl Entry {
    /// What is left of it at `now`.
    fn at(mut self, now: UnixMillis) -> Option<Self> {
        while now > self.since.plus(self.step.life()) {
            self.since = self.since.plus(self.step.life());
            self.step = self.step.down()?;
        }
        Some(self)
    }
}

/// Nodes with evidence against them. The table is bounded; who has the least against it is forgotten first.
#[derive(Debug, Default)]
pub struct Ladder {
    nodes: HashMap<NodeId, Entry>,
}

impl Ladder {
    /// Nothing against anybody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up a misdeed; gives what now holds against the node.
    pub fn report(&mut self, node: NodeId, evidence: Evidence, now: UnixMillis) -> Restriction {
        let before = self.nodes.get(&node).and_then(|entry| entry.at(now));
        let step = match before {
            _ if evidence == Evidence::Equivocation => Step::Quarantine,
            None => Step::Rate,
            Some(entry) if now >= entry.raised.plus(RAISE_AFTER) => entry.step.up(),
            Some(entry) => entry.step,
        };
        let raised = before.filter(|entry| entry.step == step && now < entry.raised.plus(RAISE_AFTER));
        let raised = raised.map_or(now, |entry| entry.raised);
        // A clock that went back shortens nothing.
        let since = before.map_or(now, |entry| entry.since.max(now));
        if before.is_none() {
            self.make_room(now);
        }
        self.nodes.insert(node, Entry { step, since, raised, evidence });
        Restriction { step, until: since.plus(step.life()), evidence }
    }

    /// What holds against a node.
    pub fn restriction(&self, node: &NodeId, now: UnixMillis) -> Option<Restriction> {
        let entry = self.nodes.get(node)?.at(now)?;
        let until = entry.since.plus(entry.step.life());
        Some(Restriction { step: entry.step, until, evidence: entry.evidence })
    }

    /// The nodes that something holds against.
    pub fn restricted(&self, now: UnixMillis) -> Vec<(NodeId, Restriction)> {
        let mut list: Vec<_> =
            self.nodes.keys().filter_map(|node| Some((*node, self.restriction(node, now)?))).collect();
        list.sort_unstable_by_key(|(node, _)| *node);
        list
    }

    /// The decision of policy without the rights that evidence takes away. Never more than the decision gave.
    pub fn reduce<'a>(
        &self,
        decision: Decision<'a>,
        node: &NodeId,
        asked: &Asked<'_>,
        now: UnixMillis,
    ) -> Decision<'a> {
        let Some(restriction) = self.restriction(node, now).filter(|_| decision.allowed) else {
            return decision;
        };
        let kept = match restriction.step {
            Step::Rate => true,
            Step::Restrict => asked.kind == TargetKind::Mesh && !asked.name.ends_with("/bench"),
            Step::Quarantine => false,
        };
        if kept {
            Decision { limit: Some(LIMIT), ..decision }
        } else {
            Decision { allowed: false, rule: EVIDENCE_RULE, index: None, rate: None, limit: None }
        }
    }

    fn make_room(&mut self, now: UnixMillis) {
        if self.nodes.len() < NODES_MAX {
            return;
        }
        self.nodes.retain(|_, entry| entry.at(now).is_some());
        if self.nodes.len() >= NODES_MAX {
            let least = self.nodes.iter().min_by_key(|(node, entry)| (entry.step, entry.since, **node));
            if let Some(node) = least.map(|(node, _)| *node) {
                self.nodes.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

    fn after(seconds: u64) -> UnixMillis {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn steps_rise_with_pauses_and_fall_by_themselves() {
        let mut ladder = Ladder::new();
        let node = NodeId([1; 32]);
        let mut report = |seconds| ladder.report(node, Evidence::Malformed, after(seconds)).step;
        // A burst is one misdeed.
        assert_eq!([report(0), report(1), report(59)], [Step::Rate; 3]);
        assert_eq!([report(60), report(100)], [Step::Restrict; 2]);
        assert_eq!([report(120), report(200)], [Step::Quarantine; 2]);
        let step = |seconds| ladder.restriction(&node, after(seconds)).map(|found| found.step);
        assert_eq!(step(200 + 6 * 3600), Some(Step::Quarantine));
        assert_eq!(step(201 + 6 * 3600), Some(Step::Restrict));
        assert_eq!(step(201 + 6 * 3600 + 30 * 60), Some(Step::Rate));
        assert_eq!(step(201 + 6 * 3600 + 35 * 60), None);
        assert_eq!(ladder.restricted(after(300)).len(), 1);
        let proof = ladder.report(NodeId([2; 32]), Evidence::Equivocation, NOW);
        assert_eq!(proof.step, Step::Quarantine);
    }

    #[test]
    fn the_table_forgets_the_least_when_full() {
        let mut ladder = Ladder::new();
        let node = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(id)
        };
        ladder.report(node(0), Evidence::Equivocation, NOW);
        for number in 1..NODES_MAX + 10 {
            ladder.report(node(number), Evidence::Malformed, after(1));
        }
        assert_eq!(ladder.nodes.len(), NODES_MAX);
        assert_eq!(ladder.restriction(&node(0), after(1)).unwrap().step, Step::Quarantine);
        assert_eq!(ladder.restriction(&node(1), after(1)), None);
    }
}
