//! Rules, what they are asked, and the canonical body of a policy set.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use meshara_identity::wire::{self, WireError};
use meshara_identity::{NodeName, RoleName};
use serde::{Deserialize, Serialize};

use super::compiled::{BROAD_MAX, DEFAULT_RULE, PORT_RANGES_MAX, WINDOWS_MAX};
use super::evidence::EVIDENCE_RULE;
use super::glob::{Glob, GlobError};
use super::window::Window;
use crate::sets::SetKind;

/// Most rules of a policy: one for each node of a large mesh. A decision keeps one bit for each on the stack.
pub const RULES_MAX: usize = 10_000;

/// Most callers, and most targets, of one rule.
pub const PATTERNS_MAX: usize = 64;

/// Longest name that is asked for. A longer one matches no rule, so it is denied by default.
pub const NAME_MAX: usize = 256;

/// Whether a rule allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Wins over every allow.
    Deny,
    /// Allows what no rule denies.
    Allow,
}

/// What kind of thing is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TargetKind {
    /// `NODE/SERVICE` as `meshara connect` names it.
    Service,
    /// A topic, the same in the whole mesh.
    Topic,
    /// `NODE/FILE`.
    File,
    /// `NODE/CALL` of the control API.
    Control,
    /// `NODE/PROTOCOL` (tcp, udp, icmp) and a port of the TUN interface.
    Tun,
    /// `NODE/ping`, `trace`, `bench`, `message`: what every node does for members.
    Mesh,
}

impl TargetKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Service, Self::Topic, Self::File, Self::Control, Self::Tun, Self::Mesh];

    /// The word for it in policy files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Topic => "topic",
            Self::File => "file",
            Self::Control => "control",
            Self::Tun => "tun",
            Self::Mesh => "mesh",
        }
    }
}

/// Who asks: as its certificate, which the caller of this crate has verified, says.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// Its SPIFFE ID.
    pub spiffe_id: &'a str,
    /// Its roles.
    pub roles: &'a [RoleName],
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its kind.
    pub kind: TargetKind,
    /// Its name.
    pub name: &'a str,
    /// Its port: TUN alone has one.
    pub port: u16,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Who {
    /// Nodes by name.
    Name(Glob),
    /// Members by SPIFFE ID.
    Spiffe(Glob),
    /// Members with a role.
    Role(RoleName),
}

impl Who {
    /// Whether it names `caller`.
    pub fn matches(&self, caller: &Caller<'_>) -> bool {
        match self {
            Self::Name(glob) => caller.name.len() <= NAME_MAX && glob.matches(caller.name),
            Self::Spiffe(glob) => caller.spiffe_id.len() <= NAME_MAX && glob.matches(caller.spiffe_id),
            Self::Role(role) => caller.roles.contains(role),
        }
    }
}

/// Why a text names no caller or target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// The role.
    #[error("{0} is not a role: {1}")]
    BadRole(String, meshara_identity::NameError),
    /// No kind before the first `:`.
    #[error("{0:?} has no kind: write service:, topic:, file:, control:, tun: or mesh: before the name")]
    NoKind(String),
    /// Ports that aren't.
    #[error("{0:?} are no ports: one of 1-65535, or two with `-` between and the lower first")]
    BadPorts(String),
}

impl FromStr for Who {
    type Err = TargetError;

    /// `role:ROLE`, a pattern of SPIFFE IDs (`spiffe://…`), or a pattern of node names.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(role) = text.strip_prefix("role:") {
            let parsed = role.parse().map_err(|error| TargetError::BadRole(role.to_owned(), error))?;
            return Ok(Self::Role(parsed));
        }
        let glob = text.parse()?;
        Ok(if text.starts_with("spiffe://") { Self::Spiffe(glob) } else { Self::Name(glob) })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(glob) | Self::Spiffe(glob) => glob.fmt(f),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Every port, and port 0: what has no port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl TryFrom<(u16, u16)> for Ports {
    type Error = TargetError;

    fn try_from((first, last): (u16, u16)) -> Result<Self, TargetError> {
        let all = (first, last) == (Self::ALL.first, Self::ALL.last);
        if all || (first > 0 && first <= last) {
            Ok(Self { first, last })
        } else {
            Err(TargetError::BadPorts(format!("{first}-{last}")))
        }
    }
}

impl From<Ports> for (u16, u16) {
    fn from(ports: Ports) -> Self {
        (ports.first, ports.last)
    }
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The kind.
    pub kind: TargetKind,
    /// The name.
    pub name: Glob,
    /// The ports; [`Ports::ALL`] but for the TUN.
    pub ports: Ports,
}

impl Target {
    /// Whether it covers what is asked for.
    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        self.kind == asked.kind
            && self.ports.contains(asked.port)
            && asked.name.len() <= NAME_MAX
            && self.name.matches(asked.name)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// `KIND:PATTERN`, and `:PORT` or `:PORT-PORT` behind it for the TUN.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let kind = text.split_once(':').and_then(|(word, name)| {
            TargetKind::ALL.into_iter().find(|kind| kind.word() == word).map(|kind| (kind, name))
        });
        let (kind, name) = kind.ok_or_else(|| TargetError::NoKind(text.to_owned()))?;
        let (name, ports) = match name.rsplit_once(':').filter(|_| kind == TargetKind::Tun) {
            Some((name, ports)) => (name, parse_ports(ports)?),
            None => (name, Ports::ALL),
        };
        Ok(Self { kind, name: name.parse()?, ports })
    }
}

fn parse_ports(text: &str) -> Result<Ports, TargetError> {
    let bad = || TargetError::BadPorts(text.to_owned());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port =
        |digits: &str| digits.parse::<u16>().ok().filter(|port| *port > 0 && port.to_string() == digits);
    let (first, last) = port(first).zip(port(last)).ok_or_else(bad)?;
    Ports::try_from((first, last)).map_err(|_| bad())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.name)?;
        match self.ports {
            Ports::ALL => Ok(()),
            Ports { first, last } if first == last => write!(f, ":{first}"),
            Ports { first, last } => write!(f, ":{first}-{last}"),
        }
    }
}

/// Why a rate isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// Not `N/s`, `N/min` or `N/h`.
    #[error("a rate reads N/s, N/min or N/h with N from 1 to 1000000, found {0:?}")]
    BadRate(String),
    /// A burst of none, or of too many.
    #[error("a burst is 1 to 1000000")]
    BadBurst,
}

/// Most calls of a rate and of a burst; keeps the bucket's arithmetic far from overflow.
const RATE_MAX: u32 = 1_000_000;

/// A token bucket: so many in so long, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Rate {
    pub(super) count: u32,
    pub(super) per_seconds: u32,
    pub(super) burst: u32,
}

impl TryFrom<(u32, u32, u32)> for Rate {
    type Error = RateError;

    fn try_from((count, per_seconds, burst): (u32, u32, u32)) -> Result<Self, RateError> {
        if !(1..=RATE_MAX).contains(&count) || ![1, 60, 3600].contains(&per_seconds) {
            return Err(RateError::BadRate(format!("{count}/{per_seconds}")));
        }
        if !(1..=RATE_MAX).contains(&burst) {
            return Err(RateError::BadBurst);
        }
        Ok(Self { count, per_seconds, burst })
    }
}

impl From<Rate> for (u32, u32, u32) {
    fn from(rate: Rate) -> Self {
        (rate.count, rate.per_seconds, rate.burst)
    }
}

impl Rate {
    /// From the words of a policy file; without `burst` as many at once as in one unit of time.
    pub fn parse(text: &str, burst: Option<u32>) -> Result<Self, RateError> {
        let bad = || RateError::BadRate(text.to_owned());
        let (count, unit) = text.split_once('/').ok_or_else(bad)?;
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            _ => return Err(bad()),
        };
        let count: u32 = count.parse().map_err(|_| bad())?;
        match Self::try_from((count, seconds, burst.unwrap_or(count))) {
            Err(RateError::BadRate(_)) => Err(bad()),
            other => other,
        }
    }
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
        "more than {BROAD_MAX} patterns begin or end with {0:?} and have more behind or before their `*`: write them as one, or as names"
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
    if [DEFAULT_RULE, EVIDENCE_RULE].contains(&rule.name.as_str()) {
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
