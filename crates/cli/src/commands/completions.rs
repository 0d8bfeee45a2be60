//! `meshara completions`: for the shell.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara completions bash > /etc/bash_completion.d/meshara
  meshara completions fish > ~/.config/fish/completions/meshara.fish
  meshara completions zsh > \"${fpath[1]}/_meshara\"")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    // Into memory first: the generator panics when a pipe closes.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "meshara", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}
