//! Development only: real Meshara processes in network namespaces, faults and measurements. See `docs/lab.md`.

mod cli;
mod commands;
mod context;
mod exec;
mod measure;
mod mesh;
mod net;
mod report;
mod run;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;

use cli::{Cli, Command};
use commands::heal::Plan;
use commands::{
    campaign, change, garbage, heal, idle, iperf, issue, lan, nat, revoke, rotate, short, substrate,
    suspicion, throughput, tiers, tun, wake,
};
use context::{Context, find_meshara};
use measure::bare_quinn;
use mesh::fault::Kind;
use net::topology::Topology;
use run::Run;

/// Exit code of a lab that cannot run here, so that it never passes for one that did.
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(reason) = tools::unavailable() {
        println!("{reason}");
        return if cli.allow_skip { ExitCode::SUCCESS } else { ExitCode::from(SKIPPED) };
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if let Command::BareQuinn { role } = &cli.command {
        return bare_quinn::run(role);
    }
    tools::check()?;
    let needs_meshara = !matches!(cli.command, Command::Substrate);
    let meshara = if needs_meshara { find_meshara(cli.meshara.as_deref())? } else { PathBuf::new() };
    if let Command::All { only } = &cli.command {
        let dir = cli.report.context("`all` needs --report DIR")?;
        return campaign::command(&dir, &meshara, cli.seed, only);
    }
    let context = Context::new(Run::begin()?, meshara, cli.seed, cli.report);
    context.introduce();
    let done = command(&context, cli.command, cli.seed);
    if let Some(report) = context.report().filter(|report| report.exists()) {
        println!("report: {}", report.display());
    }
    done
}

fn command(context: &Context, command: Command, seed: u64) -> Result<()> {
    match command {
        Command::Heal { all, kind, topology, count, per_mesh, loss, jitter, budget, no_stream } => {
            ensure!((0.0..1.0).contains(&loss), "--loss is a share from 0 to 1");
            ensure!((0.0..10_000.0).contains(&jitter), "--jitter: 0 to 10,000 ms");
            let plan = Plan {
                sites: topology.iter().map(|site| site.parse()).collect::<Result<_>>()?,
                kinds: if all { Kind::ALL.to_vec() } else { kind },
                count,
                per_mesh,
                loss,
                jitter: Duration::from_secs_f64(jitter / 1e3),
                stream: !no_stream,
                budget: budget.map(Duration::from_secs),
            };
            heal::command(context, &plan)
        }
        Command::Short => short::command(context),
        Command::Iperf { rounds, seconds } => iperf::command(context, rounds, seconds),
        Command::Tun { rounds, seconds } => tun::command(context, rounds, seconds),
        Command::Tiers { seconds, rate, controller } => tiers::command(context, seconds, &rate, &controller),
        Command::Idle { nodes, seconds } => idle::command(context, nodes, seconds),
        Command::FalseSuspicion { minutes, topology } => {
            suspicion::command(context, Topology::parse(&topology, seed)?, minutes)
        }
        Command::Throughput { rounds, seconds, only } => throughput::command(context, rounds, seconds, &only),
        Command::BareQuinn { role } => bare_quinn::run(&role),
        Command::Wake { away } => wake::command(context, &away),
        Command::Change { count } => change::command(context, count),
        Command::Lan => lan::command(context),
        Command::Nat => nat::command(context),
        Command::Garbage => garbage::command(context),
        Command::Revoke { nodes, count, heals } => revoke::command(context, nodes, count, heals),
        Command::Rotate { nodes, leaf_life, minutes, rate } => {
            rotate::command(context, nodes, leaf_life, minutes, rate)
        }
        Command::Issue { count, rtt } => issue::command(context, count, &rtt),
        Command::All { .. } => bail!("`all` runs the other commands"),
        Command::Substrate => substrate::command(context),
    }
}
