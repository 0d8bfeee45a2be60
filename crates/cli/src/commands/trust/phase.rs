//! `meshara trust phase`: how far the mesh has left its founder behind.

use clap::{Args, Subcommand};
use meshara::api::{AdvanceRequest, PhaseInfo};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// Show the mesh's phase and the gate of the next one, or enter it
///
/// 0 founder's key, 1 tickets and logged certificates, 2 several issuers and witnesses, 3 a quorum as root and the founder's key retired.
/// Every predicate of a gate is measured when it is asked for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust phase
  meshara trust phase --json | jq '.gate[] | select(.holds == false)'
  meshara trust phase advance")]
pub(crate) struct PhaseArgs {
    #[command(subcommand)]
    command: Option<PhaseCommand>,
}

#[derive(Debug, Subcommand)]
enum PhaseCommand {
    /// Enter the next phase, if its gate holds
    ///
    /// It is a version of the root document: signed here where this node's keys suffice, else a statement for the root's signers. If a
    /// predicate doesn't hold, nothing happens and the answer says which.
    #[command(after_help = "Examples:
  meshara trust phase advance
  meshara trust phase advance --instead      (of a rotation of the same version that was given up)")]
    Advance {
        /// Sign it although this node's keys signed another root document of its version: only if that was never published, and never will be
        #[arg(long)]
        instead: bool,
    },
}

pub(crate) async fn run(args: PhaseArgs, context: &Context) -> Result<(), Failure> {
    if let Some(PhaseCommand::Advance { instead }) = args.command {
        let published = context.client().trust_phase_advance(&AdvanceRequest { instead }).await?;
        if context.json {
            return Ok(output::json(&published)?);
        }
        return Ok(output::line(format!("the next phase begins with root document {}", published.number))?);
    }
    let phase = context.client().trust_phase().await?;
    if context.json {
        return Ok(output::json(&phase)?);
    }
    show(phase)
}

fn show(info: PhaseInfo) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let PhaseInfo { phase, name, version, next, next_name, ready, gate } = info;
    output::line(format!("phase {} ({name}), root document {version}", paint.bold(&phase.to_string())))?;
    let Some((next, next_name)) = next.zip(next_name) else {
        return Ok(output::line("it is the last one")?);
    };
    output::line(format!("gate of phase {next} ({next_name}):"))?;
    let columns =
        [("", Align::Left), ("MEASURED", Align::Left), ("VALUE", Align::Right), ("NEEDED", Align::Left)];
    let mut table = Table::new(paint, &columns);
    for one in gate {
        let mark = if one.holds { "yes" } else { "no" };
        table.row(vec![mark.to_owned(), one.what, one.value.to_string(), one.need]);
    }
    output::line(table)?;
    let verdict = if ready {
        paint.good("open: `meshara trust phase advance` enters it")
    } else {
        paint.warn("closed: the mesh stays as it is")
    };
    Ok(output::line(verdict)?)
}
