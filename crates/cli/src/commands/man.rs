//! `meshara man`: the manual pages.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::failure::Failure;

/// Print the manual page, or write all of them to a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara man | man -l -
  meshara man --dir /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Directory for meshara.1 and a page for each command
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir)?;
        return Ok(clap_mangen::generate_to(command, dir)?);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let mut out = io::stdout().lock();
    out.write_all(&page)?;
    Ok(out.flush()?)
}
