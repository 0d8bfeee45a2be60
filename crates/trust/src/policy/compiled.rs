//! The form of a policy that decides: two sets of bits, one of the rules about the caller and one of those about the target.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use meshara_identity::{RoleName, UnixMillis};

use super::glob::Glob;
use super::index::Index;
use super::rate::Rate;
use super::rule::{Effect, Policy, PolicyError, RULES_MAX, Rule};
use super::target::{Asked, Caller, NAME_MAX, Ports, TargetKind, Who};
use super::window::Window;
use crate::sets::{SetBody, SetKind};

/// Name of the rule that decides when none matches.
pub const DEFAULT_RULE: &str = "default";

/// Most patterns that a decision must try one by one (`*a*b*`) on one side: beginnings and ends of names, SPIFFE IDs and targets are
/// six sides. 12 tries on each of four take 2.2 µs, and 4.3 µs in the slowest hundredth (`benches/policy.rs`); the bar is 5.
pub const BROAD_MAX: usize = 12;

/// Most different windows of time; each is a group of rules that a decision looks at apart.
pub const WINDOWS_MAX: usize = 64;

/// Most different port ranges of one TUN pattern; a decision compares each.
pub const PORT_RANGES_MAX: usize = 1024;

/// A bit for each rule.
const WORDS: usize = RULES_MAX.div_ceil(64);

type Words = [u64; WORDS];

/// A pattern with fewer rules lists them, which is shorter than all the words.
const FEW: usize = 64;

/// The rules of a pattern, by bit.
#[derive(Debug)]
enum RuleSet {
    Few(Box<[u16]>),
    Many(Box<Words>),
}

impl RuleSet {
    fn new(bits: &Bits) -> Self {
        if bits.len() <= FEW {
            return Self::Few(bits.iter().copied().collect());
        }
        let mut words = Box::new([0; WORDS]);
        bits.iter().for_each(|bit| set(&mut words, *bit));
        Self::Many(words)
    }

    fn add_to(&self, words: &mut Words) {
        match self {
            Self::Few(bits) => bits.iter().for_each(|bit| set(words, *bit)),
            Self::Many(all) => words.iter_mut().zip(all.iter()).for_each(|(to, from)| *to |= from),
        }
    }
}

fn set(words: &mut Words, bit: u16) {
    if let Some(word) = words.get_mut(usize::from(bit >> 6)) {
        *word |= 1 << (bit & 63);
    }
}

/// Rules with one effect and one window have neighbouring bits, in the order of the file.
#[derive(Debug)]
struct Group {
    effect: Effect,
    window: Option<Window>,
    /// First bit and the one after the last.
    bits: (usize, usize),
}

impl Group {
    /// The first of its bits that is set in both.
    fn first(&self, one: &Words, other: &Words) -> Option<usize> {
        let (start, end) = self.bits;
        let (first, last) = (start / 64, (end - 1) / 64);
        let both = one.iter().zip(other).enumerate().take(last + 1).skip(first);
        for (at, (one, other)) in both {
            let mut word = one & other;
            if at == first {
                word &= u64::MAX << (start % 64);
            }
            if at == last {
                word &= u64::MAX >> (63 - (end - 1) % 64);
            }
            if word != 0 {
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }
}

/// Whether something is allowed, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it is allowed, as long as the rates are kept.
    pub allowed: bool,
    /// Name of the rule; [`DEFAULT_RULE`] when none matched.
    pub rule: &'a str,
    /// Position of the rule in the policy.
    pub index: Option<usize>,
    /// How often the rule lets a node.
    pub rate: Option<Rate>,
    /// How often evidence against the node lets it.
    pub limit: Option<Rate>,
}

impl Decision<'static> {
    /// What no rule allows is denied.
    pub const DEFAULT: Self =
        Self { allowed: false, rule: DEFAULT_RULE, index: None, rate: None, limit: None };
}

impl<'a> Decision<'a> {
    /// What a rule decides.
    pub(super) fn by(rule: &'a Rule, index: usize) -> Self {
        let allowed = rule.effect == Effect::Allow;
        Self { allowed, rule: rule.name.as_str(), index: Some(index), rate: rule.rate, limit: None }
    }
}

/// A policy ready to decide.
#[derive(Debug)]
pub struct Compiled {
    policy: Policy,
    names: Index<RuleSet>,
    spiffe_ids: Index<RuleSet>,
    roles: HashMap<RoleName, RuleSet>,
    targets: [Targets; TargetKind::ALL.len()],
    groups: Vec<Group>,
    /// Bit to position in the policy.
    order: Vec<u16>,
}

/// Bits of rules.
type Bits = BTreeSet<u16>;

/// The bits of the rules that have each pattern.
#[derive(Default)]
struct Patterns {
    names: BTreeMap<Glob, Bits>,
    spiffe_ids: BTreeMap<Glob, Bits>,
    roles: BTreeMap<RoleName, Bits>,
    targets: BTreeMap<TargetKind, BTreeMap<Glob, BTreeMap<Ports, Bits>>>,
}

/// Rules by target: a pattern's port ranges, each with its rules.
type Targets = Index<Vec<(Ports, RuleSet)>>;

impl Patterns {
    fn add(&mut self, rule: &Rule, bit: u16) {
        for who in &rule.from {
            let bits = match who {
                Who::Name(glob) => self.names.entry(glob.clone()).or_default(),
                Who::Spiffe(glob) => self.spiffe_ids.entry(glob.clone()).or_default(),
                Who::Role(role) => self.roles.entry(role.clone()).or_default(),
            };
            bits.insert(bit);
        }
        for target in &rule.to {
            let by_name = self.targets.entry(target.kind).or_default();
            by_name.entry(target.name.clone()).or_default().entry(target.ports).or_default().insert(bit);
        }
    }
}

impl Compiled {
    /// Compiles a policy; refuses one that could not decide in time.
    pub fn new(policy: Policy) -> Result<Self, PolicyError> {
        let rules = policy.rules();
        let windows: BTreeSet<_> = rules.iter().filter_map(|rule| rule.when).collect();
        if windows.len() > WINDOWS_MAX {
            return Err(PolicyError::TooManyWindows(windows.len()));
        }
        // A policy has at most RULES_MAX rules, so positions and bits fit.
        let mut sorted: Vec<(u16, &Rule)> = (0u16..).zip(rules).collect();
        sorted.sort_by_key(|(at, rule)| (rule.effect, rule.when, *at));
        let mut patterns = Patterns::default();
        let mut groups: Vec<Group> = Vec::new();
        for (bit, (_, rule)) in (0u16..).zip(&sorted) {
            patterns.add(rule, bit);
            let end = usize::from(bit) + 1;
            match groups.last_mut().filter(|last| last.effect == rule.effect && last.window == rule.when) {
                Some(last) => last.bits.1 = end,
                None => groups.push(Group { effect: rule.effect, window: rule.when, bits: (end - 1, end) }),
            }
        }
        let order = sorted.iter().map(|(at, _)| *at).collect();

        let mut targets: [Targets; TargetKind::ALL.len()] = Default::default();
        for (kind, by_name) in patterns.targets {
            let many = by_name.iter().find(|(_, ports)| ports.len() > PORT_RANGES_MAX);
            if let Some((pattern, ports)) = many {
                return Err(PolicyError::TooManyPorts { pattern: pattern.clone(), count: ports.len() });
            }
            let by_name = by_name.into_iter().map(|(glob, ports)| {
                (glob, ports.into_iter().map(|(ports, bits)| (ports, RuleSet::new(&bits))).collect())
            });
            if let Some(index) = targets.get_mut(kind as usize) {
                *index = Index::build(by_name, BROAD_MAX).map_err(PolicyError::TooBroad)?;
            }
        }
        let index = |by_name: BTreeMap<Glob, Bits>| {
            let sets = by_name.into_iter().map(|(glob, bits)| (glob, RuleSet::new(&bits)));
            Index::build(sets, BROAD_MAX).map_err(PolicyError::TooBroad)
        };
        let roles = patterns.roles.into_iter().map(|(role, bits)| (role, RuleSet::new(&bits)));
        Ok(Self {
            names: index(patterns.names)?,
            spiffe_ids: index(patterns.spiffe_ids)?,
            roles: roles.collect(),
            targets,
            groups,
            order,
            policy,
        })
    }

    /// The policy that it decides by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides: the first deny in the order of the file that matches, else the first allow, else [`Decision::DEFAULT`].
    pub fn decide(&self, caller: &Caller<'_>, asked: &Asked<'_>, now: UnixMillis) -> Decision<'_> {
        if [caller.name, caller.spiffe_id, asked.name].iter().any(|name| name.len() > NAME_MAX) {
            return Decision::DEFAULT;
        }
        let (mut about_caller, mut about_target) = ([0; WORDS], [0; WORDS]);
        let mut add = |set: &RuleSet| set.add_to(&mut about_caller);
        self.names.visit(caller.name, &mut add);
        self.spiffe_ids.visit(caller.spiffe_id, &mut add);
        caller.roles.iter().filter_map(|role| self.roles.get(role)).for_each(add);
        if let Some(index) = self.targets.get(asked.kind as usize) {
            index.visit(asked.name, &mut |ranges| {
                let open = ranges.iter().filter(|(ports, _)| ports.contains(asked.port));
                open.for_each(|(_, set)| set.add_to(&mut about_target));
            });
        }
        for effect in [Effect::Deny, Effect::Allow] {
            let matching = self
                .groups
                .iter()
                .filter(|group| group.effect == effect)
                .filter_map(|group| Some((group, group.first(&about_caller, &about_target)?)))
                .filter(|(group, _)| group.window.is_none_or(|window| window.contains(now)))
                .filter_map(|(_, bit)| self.order.get(bit));
            if let Some(at) = matching.min().map(|at| usize::from(*at)) {
                return self.policy.rules().get(at).map_or(Decision::DEFAULT, |rule| Decision::by(rule, at));
            }
        }
        Decision::DEFAULT
    }
}

impl SetBody for Compiled {
    const KIND: SetKind = SetKind::Policy;
    type Error = PolicyError;

    fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        Self::new(Policy::decode(bytes)?)
    }

    fn may_follow(&self, _: &Self) -> Result<(), PolicyError> {
        Ok(())
    }
}
