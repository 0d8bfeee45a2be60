//! `meshara trust revoke`: a node is a member no more.

use clap::Args;
use meshara::api::RevokeRequest;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Take a node's membership away, at once and everywhere
///
/// Run it on a node that holds a signer's keys, at first the one that made the mesh; where several must approve, it writes a statement for
/// the others to sign. Every node closes its links and sessions with the revoked node, refuses its handshakes and
/// renewals, and forgets its routes. A node that is cut off learns of it as soon as it is back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust revoke carol --reason \"laptop stolen\"
  meshara trust revoke 5f1d2c… --reason \"left the team\" --json")]
pub(crate) struct RevokeArgs {
    /// The node: a name, a NodeId or a unique prefix of one
    node: String,
    /// Why, in at most 200 characters: every node writes it into its audit trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) async fn run(args: RevokeArgs, context: &Context) -> Result<(), Failure> {
    let RevokeArgs { node, reason } = args;
    let revoked = context.client().trust_revoke(&RevokeRequest { node: node.clone(), reason }).await?;
    if context.json {
        return Ok(output::json(&revoked)?);
    }
    let paint = output::stdout_paint();
    let (name, id) = (paint.bold(&text::printable(&node)), text::short(&revoked.node_id));
    output::line(format!("{name} ({id}) is revoked by snapshot {}", revoked.number))?;
    Ok(())
}
