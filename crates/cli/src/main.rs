//! The command `meshara`: runs a node and speaks to the one that runs.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod context;
mod duration;
mod failure;
mod home;
mod identity;
mod node;
mod output;
mod table;
mod text;

use std::process::ExitCode;

use args::Cli;
use clap::Parser;
use context::Context;
use failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error, std::env::args_os().skip(1)),
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let context = Context::new(cli.global)?;
    // One thread drives a whole node: the work per packet is small, and what is large (cryptography of handshakes, the
    // store) goes to threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(commands::run(cli.command, &context));
    // A thread that still resolves a name must not keep the process.
    runtime.shutdown_background();
    result
}
