//! `meshara routes`: the way to every node.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};
use crate::text;

/// List the routes and their alternates
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara routes
  meshara routes --json | jq -r '\"\\(.name) \\(.hops)\"'")]
pub(crate) struct RoutesArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let client = context.client();
    let routes = client.routes().await?;
    if context.json {
        for route in &routes {
            output::json(route)?;
        }
        return Ok(());
    }
    // Neighbours are destinations too, so the routes themselves tell most names.
    let name = |node_id: &str| {
        let known = routes.iter().find(|route| route.dest == node_id);
        text::node(known.map_or("", |route| route.name.as_str()), node_id)
    };
    let mut table = Table::new(
        output::stdout_paint(),
        &[
            ("NAME", Align::Left),
            ("NODE", Align::Left),
            ("VIA", Align::Left),
            ("HOPS", Align::Right),
            ("METRIC ms", Align::Right),
            ("ALTERNATES", Align::Left),
        ],
    );
    for route in &routes {
        let alternates: Vec<_> = route.alternates.iter().map(|node_id| name(node_id)).collect();
        table.row(vec![
            text::node(&route.name, &route.dest),
            text::short(&route.dest),
            name(&route.next_hop),
            route.hops.to_string(),
            format!("{:.2}", route.metric_ms),
            if alternates.is_empty() { "-".to_owned() } else { alternates.join(", ") },
        ]);
    }
    Ok(output::line(table)?)
}
