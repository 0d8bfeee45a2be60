//! `meshara trust log`: takes the issuers' logs elsewhere.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meshara::api::ErrorCode;
use serde_json::json;

use super::audit::told;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Take the issuers' logs elsewhere
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust log export /tmp/logs")]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Write the logs, and all that it takes to verify them, to a new directory
    ///
    /// A running node fetches the newest first. What is written holds no secret.
    #[command(after_help = "Examples:
  meshara trust log export /tmp/logs
  tar -C /tmp -cz logs | ssh auditor 'tar -xz && meshara trust audit --offline logs'")]
    Export {
        /// Directory to write; made if it isn't there
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
}

pub(crate) async fn run(args: LogArgs, context: &Context) -> Result<(), Failure> {
    let LogCommand::Export { to } = args.command;
    // This fetches what is new; what is wrong with it, the audit of the bundle says again. Without a node there is what was kept.
    match context.client().trust_audit().await {
        Ok(_) => {}
        Err(error) if error.code == ErrorCode::NotRunning => {}
        Err(error) => return Err(error.into()),
    }
    let logs = meshara::write_bundle(&context.home, &to).map_err(|error| told(&error))?;
    let mesh_id = meshara::mesh_of(&context.home).map(|mesh| mesh.to_string());
    if context.json {
        return Ok(output::json(&json!({ "dir": to, "logs": logs, "mesh_id": mesh_id }))?);
    }
    let s = if logs == 1 { "" } else { "s" };
    output::line(format!("wrote {logs} log{s} to {}", to.display()))?;
    let paint = output::stdout_paint();
    output::line(paint.dim(&format!("verify it anywhere: meshara trust audit --offline {}", to.display())))?;
    Ok(())
}
