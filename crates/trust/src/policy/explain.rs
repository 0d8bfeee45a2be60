//! Why a decision is what it is: every rule in turn, as a person would read the file.

use meshara_identity::UnixMillis;

use super::compiled::Decision;
use super::rule::{Effect, Policy, Rule};
use super::target::{Asked, Caller, NAME_MAX};

/// What a rule says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It matches.
    Matches,
    /// It is about other callers.
    OtherCaller,
    /// It is about other targets.
    OtherTarget,
    /// It holds at other times.
    OtherTime,
}

/// A rule and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// What it says.
    pub why: Why,
}

/// A decision and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The decision.
    pub decision: Decision<'a>,
    /// Every rule, in the order of the file.
    pub looked: Vec<Looked<'a>>,
}

impl Policy {
    /// Decides rule by rule: slower than the compiled form, to the same end.
    pub fn explain(&self, caller: &Caller<'_>, asked: &Asked<'_>, now: UnixMillis) -> Explanation<'_> {
        let looked: Vec<_> =
            self.rules().iter().map(|rule| Looked { rule, why: why(rule, caller, asked, now) }).collect();
        let first = |effect: Effect| {
            let matching = |looked: &Looked<'_>| looked.why == Why::Matches && looked.rule.effect == effect;
            looked.iter().position(matching)
        };
        let decided = first(Effect::Deny).or_else(|| first(Effect::Allow));
        let decided = decided.and_then(|at| Some((self.rules().get(at)?, at)));
        let decision = decided.map_or(Decision::DEFAULT, |(rule, at)| Decision::by(rule, at));
        Explanation { decision, looked }
    }
}

fn why(rule: &Rule, caller: &Caller<'_>, asked: &Asked<'_>, now: UnixMillis) -> Why {
    let nameable = caller.name.len().max(caller.spiffe_id.len()) <= NAME_MAX;
    if !nameable || !rule.from.iter().any(|who| who.matches(caller)) {
        Why::OtherCaller
    } else if !rule.to.iter().any(|target| target.matches(asked)) {
        Why::OtherTarget
    } else if rule.when.is_some_and(|window| !window.contains(now)) {
        Why::OtherTime
    } else {
        Why::Matches
    }
}
