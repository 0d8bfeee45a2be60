//! `meshara trust requests`: newcomers that wait for an operator's approval.

use clap::{Args, Subcommand};
use meshara::api::{JoinApplication, JoinDecision};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// Approve or decline newcomers
///
/// Who joins with a ticket of `meshara invite --approve` waits until an operator approves it here, on the node that made the ticket. Compare the
/// NodeId with what `meshara id` prints on the newcomer's machine: a name can be asked for by anybody who has the ticket.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust requests
  meshara trust requests approve bob --role db
  meshara trust requests decline 4f3a")]
pub(crate) struct RequestsArgs {
    #[command(subcommand)]
    command: Option<RequestsCommand>,
}

#[derive(Debug, Subcommand)]
enum RequestsCommand {
    /// Let a node join
    #[command(after_help = "Examples:
  meshara trust requests approve bob
  meshara trust requests approve 4f3a --role db")]
    Approve {
        /// Its NodeId, the beginning of it, or the name that it asks for
        node: String,
        /// A role for its certificate; repeatable
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
    },
    /// Refuse a node
    #[command(after_help = "Examples:
  meshara trust requests decline bob")]
    Decline {
        /// Its NodeId, the beginning of it, or the name that it asks for
        node: String,
    },
}

pub(crate) async fn run(args: RequestsArgs, context: &Context) -> Result<(), Failure> {
    let decision = match args.command {
        None => return list(&context.client().join_requests().await?, context),
        Some(RequestsCommand::Approve { node, role }) => JoinDecision { node, approve: true, roles: role },
        Some(RequestsCommand::Decline { node }) => JoinDecision { node, approve: false, roles: Vec::new() },
    };
    let decided = context.client().join_decide(&decision).await?;
    if context.json {
        return Ok(output::json(&decided)?);
    }
    let what = if decision.approve { "may join; it asks again by itself" } else { "may not join" };
    Ok(output::line(format!("{} ({}) {what}", decided.name, decided.node_id))?)
}

fn list(requests: &[JoinApplication], context: &Context) -> Result<(), Failure> {
    if context.json {
        for request in requests {
            output::json(request)?;
        }
        return Ok(());
    }
    let columns =
        [("NAME", Align::Left), ("NODE ID", Align::Left), ("SINCE", Align::Left), ("DECISION", Align::Left)];
    let mut table = Table::new(output::stdout_paint(), &columns);
    for request in requests {
        let JoinApplication { node_id, name, since, decision } = request.clone();
        table.row(vec![name, node_id, since.to_string(), decision]);
    }
    Ok(output::line(table)?)
}
