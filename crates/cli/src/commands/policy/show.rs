//! `meshara policy show`: the policy in force.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Print the policy in force, as a file that `policy apply` takes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara policy show > policy.toml
  meshara policy show --json | jq .number")]
pub(crate) struct ShowArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let policy = context.client().policy_show().await?;
    if context.json {
        return Ok(output::json(&policy)?);
    }
    let since = match policy.issued_at {
        Some(at) => format!("# Policy {}, signed {at}.", policy.number),
        None => "# The starter policy.".to_owned(),
    };
    output::line(since)?;
    Ok(output::line(policy.text.trim_end())?)
}
