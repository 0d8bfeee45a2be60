//! `meshara trace`: the path to a node.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};
use crate::text;

/// Show the nodes on the way to a node
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trace alice
  meshara trace alice --json | jq -r '.hops[].name'")]
pub(crate) struct TraceArgs {
    /// Name, NodeId or unique prefix of one
    node: String,
}

pub(crate) async fn run(args: TraceArgs, context: &Context) -> Result<(), Failure> {
    let trace = context.client().trace(&args.node).await?;
    if context.json {
        return Ok(output::json(&trace)?);
    }
    let columns =
        [("HOP", Align::Right), ("NAME", Align::Left), ("NODE", Align::Left), ("RTT ms", Align::Right)];
    let mut table = Table::new(output::stdout_paint(), &columns);
    for (index, hop) in trace.hops.iter().enumerate() {
        table.row(vec![
            (index + 1).to_string(),
            text::node(&hop.name, &hop.node_id),
            text::short(&hop.node_id),
            text::ms(hop.rtt_ms),
        ]);
    }
    Ok(output::line(table)?)
}
