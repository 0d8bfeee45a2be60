//! The scenario file: topology, links, faults, load. JSON or TOML.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What to simulate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Shown in the report.
    #[serde(default)]
    pub name: String,
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Virtual time to simulate, seconds. With a campaign: the most it may take.
    #[serde(default = "defaults::duration_s")]
    pub duration_s: f64,
    /// Nodes and links.
    pub topology: Topology,
    /// What a link is like, where the topology doesn't say.
    #[serde(default)]
    pub link: LinkModel,
    /// Who chooses the links.
    #[serde(default)]
    pub neighbours: Neighbours,
    /// What fails, and when.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Series of faults one after the other, each fault measured.
    #[serde(default)]
    pub campaigns: Vec<Campaign>,
    /// Pings between given nodes, all the time.
    #[serde(default)]
    pub pings: Vec<Pings>,
    /// Messages between random pairs.
    #[serde(default)]
    pub messages: Option<Messages>,
    /// Signed sets: revocations that one node signs and all must hold soon.
    #[serde(default)]
    pub trust: Option<Trust>,
    /// Certificates as large and as short-lived as real ones, to measure what their renewal costs.
    #[serde(default)]
    pub certificates: Option<Certificates>,
    /// Bytes are counted from then on, seconds: without what a start costs.
    #[serde(default)]
    pub count_from_s: f64,
    /// A forwarding loop is tolerated this long after the last fault, seconds: until the failed link is declared dead
    /// (1 s; 2.5 s if it was idle) and the news has gone round.
    #[serde(default = "defaults::transient_s")]
    pub transient_s: f64,
}

/// Nodes and links.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Topology {
    /// A chain.
    Line {
        /// Nodes.
        nodes: usize,
    },
    /// A closed chain.
    Ring {
        /// Nodes.
        nodes: usize,
    },
    /// Rows and columns.
    Grid {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// Two chains with rungs: every inner node has a disjoint way round.
    Ladder {
        /// Nodes of one rail.
        length: usize,
    },
    /// Points in a square, linked within a radius; islands are joined by their shortest gap.
    Geometric {
        /// Nodes.
        nodes: usize,
        /// Radius in a unit square.
        radius: f64,
    },
    /// Barabási–Albert: each new node links to `links` old ones, preferring those with many links.
    BarabasiAlbert {
        /// Nodes.
        nodes: usize,
        /// Links of a new node.
        links: usize,
    },
    /// A graph in a file: GraphML, or JSON `{"nodes": N, "edges": [{"a": 0, "b": 1, "latency_ms": 2}]}`.
    File {
        /// Where; relative to the scenario file.
        path: PathBuf,
    },
}

/// What a link is like, one way.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkModel {
    /// One-way delay, ms.
    pub latency_ms: f64,
    /// Up to this much more, ms, uniform.
    pub jitter_ms: f64,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Mbit/s.
    pub bandwidth_mbit: f64,
}

impl Default for LinkModel {
    fn default() -> Self {
        Self { latency_ms: 2.0, jitter_ms: 0.2, loss: 0.0, bandwidth_mbit: 1000.0 }
    }
}

impl LinkModel {
    /// Whether a link can be like this. A shorter delay would cut time into slices too short to get anywhere; the other
    /// bounds keep every delay that follows far from the longest that a `Duration` holds.
    pub(crate) fn check(&self) -> Result<(), ScenarioError> {
        let sane = (0.01..60_000.0).contains(&self.latency_ms)
            && (0.0..60_000.0).contains(&self.jitter_ms)
            && (0.0..=1.0).contains(&self.loss)
            && self.bandwidth_mbit >= 0.001;
        let why = "a link has a latency from 0.01 ms to 60 s, jitter from 0 to 60 s, loss from 0 to 1, a bandwidth from 0.001 Mbit/s";
        if sane { Ok(()) } else { Err(ScenarioError::OutOfRange(why)) }
    }
}

/// Who chooses the links.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Neighbours {
    /// The topology's links are all there is, and all are used.
    #[default]
    Pinned,
    /// Everyone can reach everyone, as on the internet; the overlay chooses. The topology gives the nodes alone; latency
    /// grows with the distance of random places by up to ten times the link model's.
    Auto,
}

/// Something that happens at a time.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Fault {
    /// When, seconds.
    pub at_s: f64,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

/// What can happen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// The process stands still and keeps its state (SIGSTOP).
    Stop {
        /// Which node.
        node: usize,
    },
    /// A stopped process goes on (SIGCONT).
    Resume {
        /// Which node.
        node: usize,
    },
    /// The node is gone without a word (power cut). Its disk keeps what was committed.
    Crash {
        /// Which node.
        node: usize,
    },
    /// A crashed node starts again.
    Start {
        /// Which node.
        node: usize,
    },
    /// The node leaves the mesh in good order; `start` brings it back.
    Leave {
        /// Which node.
        node: usize,
    },
    /// A link fails in both directions.
    Cut {
        /// One end.
        a: usize,
        /// The other.
        b: usize,
    },
    /// A link fails in both directions and both ends see it at once, as when an interface goes down.
    LinkDown {
        /// One end.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Nothing enters or leaves a node any more; its process goes on.
    Isolate {
        /// Which node.
        node: usize,
    },
    /// The node's links work again.
    Rejoin {
        /// Which node.
        node: usize,
    },
    /// A link fails from `a` to `b` only.
    CutOneWay {
        /// The end that is not heard any more.
        a: usize,
        /// The end that hears nothing.
        b: usize,
    },
    /// A link works again.
    Restore {
        /// One end.
        a: usize,
        /// The other.
        b: usize,
    },
    /// The authority revokes a node, or a former member that nobody sees.
    Revoke {
        /// Which node.
        #[serde(default)]
        node: Option<usize>,
    },
    /// A node sends the first revocation snapshot that there was to all its neighbours.
    Replay {
        /// Which node.
        node: usize,
    },
    /// The root names another authority, which signs from now on.
    Rotate,
    /// A link changes for the worse or better, both ways.
    Change {
        /// One end.
        a: usize,
        /// The other.
        b: usize,
        /// Its new nature.
        link: LinkModel,
    },
}

/// What a campaign breaks: always on the path that pings take just then. The names are the lab's.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Stop an inner node of the path, and let it go on later.
    Sigstop,
    /// Crash an inner node of the path, and start it later.
    Sigkill,
    /// Take down an interface on the path; both ends see it.
    LinkDown,
    /// Cut a link of the path; nobody sees it.
    Cut,
    /// Cut one direction of a link of the path.
    OneWay,
    /// Let every packet of an inner node vanish.
    Blackhole,
    /// An inner node of the path leaves in good order and starts again.
    Restart,
    /// One of these, at random.
    Any,
}

/// Many faults, one after the other.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// What to break.
    pub fault: FaultKind,
    /// How often.
    pub count: usize,
    /// The nodes between which 10 ms pings run; else a new random pair, at least two links apart, each time.
    #[serde(default)]
    pub ends: Option<(usize, usize)>,
    /// How long a fault lasts, seconds.
    #[serde(default = "defaults::hold_s")]
    pub hold_s: f64,
}

/// Pings between two nodes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pings {
    /// Who asks.
    pub from: usize,
    /// Who answers.
    pub to: usize,
    /// How often, ms.
    #[serde(default = "defaults::ping_ms")]
    pub every_ms: f64,
}

/// Who signs revocations, and how often.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The node that holds the keys of the mesh.
    #[serde(default)]
    pub authority: usize,
    /// It revokes a former member, whom nobody sees any more, this often, seconds; without, only when a fault says so.
    #[serde(default)]
    pub every_s: Option<f64>,
}

/// Leaf certificates.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Their life, seconds; they are renewed at half of it, give or take a tenth.
    pub life_s: f64,
    /// Length of a member record's body, bytes.
    #[serde(default = "defaults::certificate")]
    pub bytes: usize,
    /// Records are refreshed this often, seconds, and live twice as long.
    #[serde(default = "defaults::refresh_s")]
    pub refresh_s: f64,
    /// Records are proofs under heads of issuers' logs, as soon as there is a head that has the certificate.
    #[serde(default)]
    pub inclusion: Option<Inclusion>,
}

/// Routing keys by inclusion. A head is named every twelfth of a certificate's life.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Inclusion {
    /// Nodes that issue: the first of all, whose certificates the others have in turn.
    #[serde(default = "defaults::issuers")]
    pub issuers: usize,
    /// Hashes in a proof's path: 28 are a year of 10,000 nodes that renew twice an hour.
    #[serde(default = "defaults::path")]
    pub path: usize,
    /// Length of a head with three witnesses, bytes.
    #[serde(default = "defaults::head_bytes")]
    pub head_bytes: usize,
    /// Length of an issuer's statement of its log's keys, bytes.
    #[serde(default = "defaults::statement_bytes")]
    pub statement_bytes: usize,
}

/// Reliable messages between random pairs.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// How many pairs.
    pub pairs: usize,
    /// Messages of each pair per second.
    pub per_second: f64,
    /// Length of each, bytes.
    #[serde(default = "defaults::bytes")]
    pub bytes: usize,
}

mod defaults {
    pub(super) const fn duration_s() -> f64 {
        60.0
    }
    pub(super) const fn transient_s() -> f64 {
        4.0
    }
    pub(super) const fn hold_s() -> f64 {
        2.0
    }
    pub(super) const fn ping_ms() -> f64 {
        10.0
    }
    pub(super) const fn certificate() -> usize {
        5600
    }
    pub(super) const fn issuers() -> usize {
        2
    }
    pub(super) const fn path() -> usize {
        28
    }
    pub(super) const fn head_bytes() -> usize {
        5_400
    }
    pub(super) const fn statement_bytes() -> usize {
        5_400
    }
    pub(super) const fn refresh_s() -> f64 {
        1800.0
    }
    pub(super) const fn bytes() -> usize {
        100
    }
}

/// Why a scenario can't run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file can't be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file isn't a scenario or graph.
    #[error("{path}: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A number is out of range.
    #[error("{0}")]
    OutOfRange(&'static str),
    /// A fault, ping or message names a node that doesn't exist.
    #[error("there is no node {0}")]
    NoSuchNode(usize),
    /// A fault names a link that doesn't exist.
    #[error("there is no link between {0} and {1}")]
    NoSuchLink(usize, usize),
    /// The trace could not be written.
    #[error("cannot write the trace: {0}")]
    Trace(String),
}

impl Scenario {
    /// A scenario with this topology, and defaults for all else.
    #[must_use]
    pub fn new(topology: Topology) -> Self {
        Self {
            name: String::new(),
            seed: 0,
            duration_s: defaults::duration_s(),
            topology,
            link: LinkModel::default(),
            neighbours: Neighbours::Pinned,
            faults: Vec::new(),
            campaigns: Vec::new(),
            pings: Vec::new(),
            messages: None,
            trust: None,
            certificates: None,
            count_from_s: 0.0,
            transient_s: defaults::transient_s(),
        }
    }

    /// Reads a scenario from a `.toml` or JSON file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ScenarioError::Read { path: path.into(), reason: error.to_string() })?;
        let malformed = |reason: String| ScenarioError::Malformed { path: path.into(), reason };
        let mut scenario: Self = if path.extension().is_some_and(|ext| ext == "toml") {
            toml::from_str(&text).map_err(|error| malformed(error.to_string()))?
        } else {
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?
        };
        if let Topology::File { path: graph } = &mut scenario.topology
            && let Some(folder) = path.parent()
        {
            *graph = folder.join(&graph);
        }
        if scenario.name.is_empty() {
            scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        Ok(scenario)
    }
}
