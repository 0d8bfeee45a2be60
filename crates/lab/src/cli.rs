//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::mesh::fault::Kind;

/// Real Meshara processes in network namespaces, faults and measurements. Needs root.
#[derive(Debug, Parser)]
#[command(name = "meshara-lab", version)]
pub(crate) struct Cli {
    /// The binary under test [default: beside this one, else target/release/meshara]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) meshara: Option<PathBuf>,
    /// Seed of everything that is random in the lab
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write the report with raw samples to this file, as JSON (`all`: to this directory)
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,
    /// Exit 0 where the lab cannot run (no root), after saying so
    #[arg(long, global = true)]
    pub(crate) allow_skip: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Break what carries the traffic, and measure how long nothing comes through
    Heal {
        /// Every kind of fault
        #[arg(long, conflicts_with = "kind")]
        all: bool,
        /// Kinds of fault
        #[arg(long, value_enum, default_values_t = [Kind::Sigstop])]
        kind: Vec<Kind>,
        /// SHAPE or SHAPE@MS: line-N, ring-N, ladder-N, grid-RxC, random-N, and the round trip of each link; repeatable, faults are
        /// dealt over them
        #[arg(long, value_name = "SHAPE", default_values_t = ["ladder", "ring-8", "grid-3x3@5", "random-12"].map(str::to_owned))]
        topology: Vec<String>,
        /// Faults of each kind
        #[arg(long, default_value_t = 100)]
        count: usize,
        /// Faults on one mesh; then it is formed anew, for damping remembers repeated faults
        #[arg(long, default_value_t = 10, value_name = "N")]
        per_mesh: usize,
        /// Share of packets lost on each link, 0 to 1
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// Largest random addition to each link's one-way latency in ms
        #[arg(long, default_value_t = 0.0, value_name = "MS")]
        jitter: f64,
        /// Most seconds for each kind
        #[arg(long, value_name = "SECONDS")]
        budget: Option<u64>,
        /// Leave out the 100 MB stream across a dying node
        #[arg(long)]
        no_stream: bool,
    },
    /// The profile for CI: a few faults of each kind, renewals and revocations, three minutes and a half at most
    Short,
    /// iperf3 through serve and connect against raw TCP on the same link
    Iperf {
        /// Rounds; each measures every flow once
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of each flow
        #[arg(long, default_value_t = 5)]
        seconds: u32,
    },
    /// The TUN interface: ping, TCP, UDP and curl by name through it, then iperf3 over one and two hops against raw TCP
    Tun {
        /// Rounds of iperf3; each measures every flow once. None with 0
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of each flow
        #[arg(long, default_value_t = 5)]
        seconds: u32,
    },
    /// Streams over one hop and two against bare quinn and raw TCP, clean and with loss
    Throughput {
        /// Rounds; each measures every flow once
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of each flow
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Only links whose name starts so: `clean`, `0.1 %`, `1 % lost, 40`
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
    },
    /// One end of a bare quinn connection; `throughput` starts it
    #[command(hide = true)]
    BareQuinn {
        #[command(subcommand)]
        role: crate::measure::bare_quinn::Role,
    },
    /// Limited links: what bench carries and how much queueing it adds, beside TCP CUBIC
    Tiers {
        /// Seconds of each flow after its ramp
        #[arg(long, default_value_t = 5)]
        seconds: u32,
        /// Only these rates, in Mbit/s
        #[arg(long, value_name = "MBIT")]
        rate: Vec<u64>,
        /// Congestion controllers to try
        #[arg(long, value_name = "NAME", default_values_t = ["bbr", "cubic", "newreno"].map(str::to_owned))]
        controller: Vec<String>,
    },
    /// Memory and processor share of an idle mesh, and how long it takes to form
    Idle {
        /// Processes
        #[arg(long, default_value_t = 50)]
        nodes: usize,
        /// Seconds of watching
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Watch a healthy mesh, idle and loaded, for suspicions and gaps
    FalseSuspicion {
        /// Minutes in all
        #[arg(long, default_value_t = 60.0)]
        minutes: f64,
        /// Shape of the mesh
        #[arg(long, default_value = "ladder")]
        topology: String,
    },
    /// Nodes that were away for long: how soon after their return they are routed again
    Wake {
        /// Seconds of absence; several are measured one after the other
        #[arg(long, value_name = "SECONDS", default_values_t = [5.0, 75.0])]
        away: Vec<f64>,
    },
    /// Interfaces that go down, vanish, appear or change address: how soon a node notices
    Change {
        /// Changes of each kind
        #[arg(long, default_value_t = 10)]
        count: usize,
    },
    /// Discovery by multicast, IPv4 and IPv6 link-local, and its flag
    Lan,
    /// Hole punching between two address translators
    Nat,
    /// Floods of bad input at a node that carries traffic
    Garbage,
    /// Revoke nodes of a large mesh: how soon every other one has cut them off, and how soon one that was away
    Revoke {
        /// Processes
        #[arg(long, default_value_t = 50)]
        nodes: usize,
        /// Revocations that everybody can hear
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// Revocations while one node is cut off
        #[arg(long, default_value_t = 5)]
        heals: usize,
    },
    /// Renew certificates that live for seconds under load: streams must go on, no message be lost, also without the mesh's first node
    Rotate {
        /// Processes
        #[arg(long, default_value_t = 20)]
        nodes: usize,
        /// Life of certificates in seconds
        #[arg(long, default_value_t = 30)]
        leaf_life: u64,
        /// Minutes under load
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Messages a second, all nodes together
        #[arg(long, default_value_t = 2000.0)]
        rate: f64,
    },
    /// Renew over three hops: how soon the next certificate is in use, and how soon its proof has three witnesses
    Issue {
        /// Renewals of each kind
        #[arg(long, default_value_t = 240)]
        count: usize,
        /// Round trip of each link in ms; several are measured one after the other
        #[arg(long, value_name = "MS", default_values_t = [0.0, 10.0])]
        rtt: Vec<f64>,
    },
    /// Every figure, unattended, in about 50 minutes; --report names the directory for JSON, output and summary
    All {
        /// Only these parts
        #[arg(long, value_name = "PART")]
        only: Vec<String>,
    },
    /// Prove the lab's own ground without any node: delay, loss, drops, limits, translation
    Substrate,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from([
            "meshara-lab",
            "heal",
            "--topology",
            "ring-8@5",
            "--kind",
            "one-way",
            "--seed",
            "3",
        ]);
        assert_eq!(cli.unwrap().seed, 3);
        assert!(Cli::try_parse_from(["meshara-lab", "heal", "--all", "--kind", "sigstop"]).is_err());
    }
}
