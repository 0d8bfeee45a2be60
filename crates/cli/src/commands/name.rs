//! `meshara name`: the names of the mesh.

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};
use crate::text;

/// Show the names of the mesh
///
/// `meshara up --dns ADDR` answers DNS queries for them, `meshara up --tun` carries packets to their addresses.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara name list
  meshara name list --json | jq -r '\"\\(.address) \\(.dns)\"'")]
pub(crate) struct NameArgs {
    #[command(subcommand)]
    command: NameCommand,
}

#[derive(Debug, Subcommand)]
enum NameCommand {
    /// List all names that are known, with their addresses
    #[command(after_help = "Examples:
  meshara name list
  meshara name list --json | jq -r '\"\\(.address) \\(.dns)\"'")]
    List,
}

pub(crate) async fn run(args: NameArgs, context: &Context) -> Result<(), Failure> {
    let NameCommand::List = args.command;
    let names = context.client().names().await?;
    if context.json {
        for name in &names {
            output::json(name)?;
        }
        return Ok(());
    }
    let columns =
        [("NAME", Align::Left), ("ADDRESS", Align::Left), ("NODE", Align::Left), ("REACHABLE", Align::Left)];
    let mut table = Table::new(output::stdout_paint(), &columns);
    for name in names {
        table.row(vec![
            text::printable(&name.dns),
            name.address,
            text::short(&name.node_id),
            if name.reachable { "yes" } else { "no" }.to_owned(),
        ]);
    }
    Ok(output::line(table)?)
}
