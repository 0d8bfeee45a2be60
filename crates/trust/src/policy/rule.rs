//! Rules, and the canonical body of a policy set.

use std::collections::BTreeSet;

use meshara_identity::NodeName;
use meshara_identity::wire::{self, WireError};
use serde::{Deserialize, Serialize};

use super::compiled::{BROAD_MAX, DEFAULT_RULE, PORT_RANGES_MAX, WINDOWS_MAX};
use super::evidence::{EVIDENCE_RULE, STALE_RULE};
use super::glob::Glob;
use super::rate::Rate;
use super::target::{Ports, Target, TargetKind, Who};
use super::window::Window;
use crate::sets::SetKind;

/// Most rules of a policy: one for each node of a large mesh. A decision keeps one bit for each on the stack.
pub const RULES_MAX: usize = 10_000;

/// Most callers, and most targets, of one rule.
pub const PATTERNS_MAX: usize = 64;

/// Whether a rule allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Wins over every allow.
    Deny,
    /// Allows what no rule denies.
    Allow,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, which denials carry.
    pub name: NodeName,
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Whom it is about: any of these.
    pub from: Vec<Who>,
    /// What it is about: any of these.
    pub to: Vec<Target>,
    /// When it holds; always without.
    pub when: Option<Window>,
    /// How often a node may; only with [`Effect::Allow`].
    pub rate: Option<Rate>,
}

/// Why rules make no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It doesn't decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// More than [`RULES_MAX`].
    #[error("{0} rules where at most {RULES_MAX} are allowed")]
    TooMany(usize),
    /// Two rules have this name, or it is one that decisions use themselves.
    #[error("the name {0} is taken")]
    NameTaken(NodeName),
    /// No caller or target, or more than [`PATTERNS_MAX`].
    #[error("rule {0} needs 1 to {PATTERNS_MAX} callers (`from`) and targets (`to`)")]
    BadCount(NodeName),
    /// A deny with a rate.
    #[error("rule {0} denies, so it has no rate")]
    DenyWithRate(NodeName),
    /// Ports of something else than the TUN.
    #[error("rule {0} has ports; only tun has them")]
    PortsWithoutTun(NodeName),
    /// Patterns that no index can hold apart.
    #[error(
        "more than {BROAD_MAX} patterns begin or end with {0:?} and have more beyond a `*`: write some as plain names"
    )]
    TooBroad(String),
    /// Too many different windows of time.
    #[error("{0} different windows of time where at most {WINDOWS_MAX} are allowed")]
    TooManyWindows(usize),
    /// Too many different port ranges under one pattern.
    #[error("{pattern} has {count} different port ranges where at most {PORT_RANGES_MAX} are allowed")]
    TooManyPorts {
        /// The pattern.
        pattern: Glob,
        /// Its ranges.
        count: usize,
    },
}

/// Rules in the order of their file: body of a policy set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// These rules.
    pub fn new(rules: Vec<Rule>) -> Result<Self, PolicyError> {
        if rules.len() > RULES_MAX {
            return Err(PolicyError::TooMany(rules.len()));
        }
        let mut names = BTreeSet::new();
        for rule in &rules {
            check_rule(rule)?;
            if !names.insert(&rule.name) {
                return Err(PolicyError::NameTaken(rule.name.clone()));
            }
        }
        Ok(Self { rules })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Body of a set: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(&self.rules)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        Self::new(wire::decode(bytes, SetKind::Policy.body_max())?)
    }
}

/// What a rule must be by itself.
pub(super) fn check_rule(rule: &Rule) -> Result<(), PolicyError> {
    let name = || rule.name.clone();
    if [DEFAULT_RULE, EVIDENCE_RULE, STALE_RULE].contains(&rule.name.as_str()) {
        return Err(PolicyError::NameTaken(name()));
    }
    if ![rule.from.len(), rule.to.len()].iter().all(|count| (1..=PATTERNS_MAX).contains(count)) {
        return Err(PolicyError::BadCount(name()));
    }
    if rule.effect == Effect::Deny && rule.rate.is_some() {
        return Err(PolicyError::DenyWithRate(name()));
    }
    if rule.to.iter().any(|target| target.kind != TargetKind::Tun && target.ports != Ports::ALL) {
        return Err(PolicyError::PortsWithoutTun(name()));
    }
    Ok(())
}
