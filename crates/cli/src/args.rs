//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    bench, completions, connect, demo, doctor, id, init, invite, join, man, name, peers, ping, policy, recv,
    root, routes, send, serve, status, trace, trust, twin, up,
};

/// One private, post-quantum, self-healing network.
#[derive(Debug, Parser)]
#[command(name = "meshara", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Examples:
  meshara demo                             see a mesh of nine nodes heal on this machine
  meshara init --mesh lab --name alice     make a mesh, then `meshara up`
  meshara invite                           print a ticket for another machine
  meshara join TICKET --name bob           join there, then `meshara up`")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes, before or after its name.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory that holds the node's identity and state [default: the platform's data directory]
    #[arg(long, global = true, value_name = "DIR", env = "MESHARA_HOME", help_heading = "Global options")]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON; errors too
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// File with the passphrase that seals the keystore
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MESHARA_PASSPHRASE_FILE",
        help_heading = "Global options"
    )]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Every command has a file of its own under `commands/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Up(up::UpArgs),
    Invite(invite::InviteArgs),
    Join(join::JoinArgs),
    Status(status::StatusArgs),
    Peers(peers::PeersArgs),
    Routes(routes::RoutesArgs),
    Id(id::IdArgs),
    Ping(ping::PingArgs),
    Trace(trace::TraceArgs),
    Send(send::SendArgs),
    Recv(recv::RecvArgs),
    Serve(serve::ServeArgs),
    Connect(connect::ConnectArgs),
    Bench(bench::BenchArgs),
    Name(name::NameArgs),
    Doctor(doctor::DoctorArgs),
    Root(root::RootArgs),
    Trust(trust::TrustArgs),
    Policy(policy::PolicyArgs),
    Twin(twin::TwinArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_examples() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in [
            ["meshara", "--home", "/h", "--json", "status"],
            ["meshara", "status", "--home", "/h", "--json"],
            ["meshara", "--json", "status", "--home", "/h"],
            ["meshara", "--home", "/h", "status", "--json"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!((cli.global.home, cli.global.json), (Some(PathBuf::from("/h")), true), "{line:?}");
        }
    }
}
