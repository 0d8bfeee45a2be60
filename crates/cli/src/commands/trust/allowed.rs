//! `meshara trust allowed`: the issuer's list of nodes that may join.

use clap::{Args, Subcommand};
use meshara::NodeName;
use meshara::api::AllowedNode;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// List the nodes that may join with a ticket for listed nodes
///
/// With a ticket of `meshara invite --listed` only nodes on this list join, so the ticket may be printed on a wall. On the newcomer's machine
/// `meshara id --new` makes its keys and prints its NodeId.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust allowed add 4f3a…64 digits… --name bob --role db
  meshara trust allowed list
  meshara trust allowed remove 4f3a…64 digits…")]
pub(crate) struct AllowedArgs {
    #[command(subcommand)]
    command: AllowedCommand,
}

#[derive(Debug, Subcommand)]
enum AllowedCommand {
    /// Put a node on the list, or change what the list says of it
    #[command(after_help = "Examples:
  meshara trust allowed add 4f3a…64 digits… --name bob")]
    Add {
        /// The whole NodeId
        node_id: String,
        /// The only name that it may have
        #[arg(long)]
        name: Option<NodeName>,
        /// A role for its certificate; repeatable
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
    },
    /// Show the list
    #[command(after_help = "Examples:
  meshara trust allowed list --json")]
    List,
    /// Take a node off the list; one that has joined stays a member
    #[command(after_help = "Examples:
  meshara trust allowed remove 4f3a…64 digits…")]
    Remove {
        /// The whole NodeId
        node_id: String,
    },
}

pub(crate) async fn run(args: AllowedArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client();
    match args.command {
        AllowedCommand::Add { node_id, name, role } => {
            let asked = AllowedNode { node_id, name: name.map(|name| name.to_string()), roles: role };
            let added = client.allowed_add(&asked).await?;
            if context.json {
                return Ok(output::json(&added)?);
            }
            Ok(output::line(format!("{} may join", added.node_id))?)
        }
        AllowedCommand::Remove { node_id } => {
            let removed = client.allowed_remove(&node_id).await?;
            if context.json {
                return Ok(output::json(&removed)?);
            }
            Ok(output::line(format!("{} is off the list", removed.node_id))?)
        }
        AllowedCommand::List => list(&client.allowed_list().await?, context),
    }
}

fn list(allowed: &[AllowedNode], context: &Context) -> Result<(), Failure> {
    if context.json {
        for node in allowed {
            output::json(node)?;
        }
        return Ok(());
    }
    let columns = [("NODE ID", Align::Left), ("NAME", Align::Left), ("ROLES", Align::Left)];
    let mut table = Table::new(output::stdout_paint(), &columns);
    for node in allowed {
        let name = node.name.clone().unwrap_or_else(|| "any".to_owned());
        table.row(vec![node.node_id.clone(), name, node.roles.join(" ")]);
    }
    Ok(output::line(table)?)
}
