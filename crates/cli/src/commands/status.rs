//! `meshara status`: the running node as it sees itself.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Show the running node
///
/// Exits with 0 only when the node answers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara status
  meshara status --json | jq .nodes_known")]
pub(crate) struct StatusArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client().status().await?;
    if context.json {
        return Ok(output::json(&status)?);
    }
    let paint = output::stdout_paint();
    let mut rows = vec![
        ("node", format!("{}  {}", paint.bold(&text::printable(&status.name)), status.node_id)),
        ("mesh", status.mesh),
        ("spiffe id", status.spiffe_id),
        ("address", status.mesh_address),
        ("listen", status.listen.join(", ")),
        ("neighbours", status.neighbours.to_string()),
        ("nodes known", status.nodes_known.to_string()),
        ("sessions", status.sessions.to_string()),
        ("messages", format!("{} unread, {} to deliver", status.unread, status.outbox)),
        ("uptime", text::seconds(status.uptime_s)),
        ("version", status.version),
    ];
    if let Some(tun) = status.tun {
        rows.push(("tun", format!("{} (mtu {})", tun.name, tun.mtu)));
    }
    if let Some(dns) = status.dns {
        rows.push(("dns", dns));
    }
    if let Some(end) = status.certificate_expires_at {
        rows.push(("certificate", format!("until {end}")));
    }
    for (name, value) in rows {
        output::line(format!("{}  {value}", paint.dim(&format!("{name:<11}"))))?;
    }
    Ok(())
}
