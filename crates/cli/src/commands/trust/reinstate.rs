//! `meshara trust reinstate`: a revoked node may come back.

use clap::Args;
use meshara::api::ReinstateRequest;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Take a revocation back
///
/// Run it on the node that holds the mesh root. The node comes back by itself, with the key and the name that it had: reinstate nobody whose
/// key may be in other hands.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust reinstate carol --reason \"laptop found\"
  meshara trust reinstate 5f1d2c… --reason \"revoked by mistake\" --json")]
pub(crate) struct ReinstateArgs {
    /// The node: its NodeId, a prefix that fits no other revoked node, or the name under which this node admitted it
    node: String,
    /// Why, in at most 200 characters: every node writes it into its audit trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) async fn run(args: ReinstateArgs, context: &Context) -> Result<(), Failure> {
    let ReinstateArgs { node, reason } = args;
    let request = ReinstateRequest { node: node.clone(), reason };
    let reinstated = context.client().trust_reinstate(&request).await?;
    if context.json {
        return Ok(output::json(&reinstated)?);
    }
    let paint = output::stdout_paint();
    let (name, id) = (paint.bold(&text::printable(&node)), text::short(&reinstated.node_id));
    output::line(format!("{name} ({id}) is reinstated by snapshot {}", reinstated.number))?;
    Ok(())
}
