//! `meshara trust requests`: newcomers that wait for an operator's approval.

use std::io::{IsTerminal as _, Write as _};

use clap::{Args, Subcommand};
use meshara::api::{ApiError, ErrorCode, JoinApplication, JoinDecision};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// Approve or decline newcomers
///
/// Who joins with a ticket of `meshara invite --approve` waits until an operator approves it here, on the node that made the ticket. Compare the
/// NodeId with what `meshara id` prints on the newcomer's machine: a name can be asked for by anybody who has the ticket. A decision names the
/// request that you looked at: this node, under this name, with this ticket and the roles that come with it. Named otherwise, it is shown on a
/// terminal, and asked about.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust requests
  meshara trust requests approve 83f0a1c25d7be9044410 --role db
  meshara trust requests decline bob")]
pub(crate) struct RequestsArgs {
    #[command(subcommand)]
    command: Option<RequestsCommand>,
}

#[derive(Debug, Subcommand)]
enum RequestsCommand {
    /// Let a node join
    #[command(after_help = "Examples:
  meshara trust requests approve 83f0a1c25d7be9044410
  meshara trust requests approve bob --role db")]
    Approve {
        /// The request as `meshara trust requests` names it; on a terminal also a NodeId, the beginning of one, or the name asked for
        request: String,
        /// A role for its certificate; repeatable
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
    },
    /// Refuse a node
    #[command(after_help = "Examples:
  meshara trust requests decline bob")]
    Decline {
        /// The request, a NodeId, the beginning of one, or the name asked for
        request: String,
    },
}

pub(crate) async fn run(args: RequestsArgs, context: &Context) -> Result<(), Failure> {
    let asked = context.client().join_requests().await?;
    let decision = match args.command {
        None => return list(&asked, context),
        Some(RequestsCommand::Approve { request, role }) => {
            let one = chosen(&asked, &request)?;
            if one.request != request {
                confirm(one)?;
            }
            JoinDecision { request: one.request.clone(), approve: true, roles: role }
        }
        Some(RequestsCommand::Decline { request }) => {
            let request = chosen(&asked, &request)?.request.clone();
            JoinDecision { request, approve: false, roles: Vec::new() }
        }
    };
    let decided = context.client().join_decide(&decision).await?;
    if context.json {
        return Ok(output::json(&decided)?);
    }
    let what = if decision.approve { "may join; it asks again by itself" } else { "may not join" };
    Ok(output::line(format!("{} ({}) {what}", decided.name, decided.node_id))?)
}

/// The one that `text` means: a request, a NodeId, the beginning of one, or a name. Two nodes may ask for one name, so it decides nothing then.
fn chosen<'a>(asked: &'a [JoinApplication], text: &str) -> Result<&'a JoinApplication, Failure> {
    if let Some(one) = asked.iter().find(|one| one.request == text) {
        return Ok(one);
    }
    let fits =
        |one: &&JoinApplication| !text.is_empty() && (one.name == text || one.node_id.starts_with(text));
    let mut fitting = asked.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(ApiError::new(ErrorCode::UnknownNode, format!("no node `{text}` waits for approval"))
                .hint("`meshara trust requests` shows who does, and names each request")
                .into())
        }
        (Some(_), Some(_)) => {
            Err(ApiError::new(ErrorCode::AmbiguousNode, format!("`{text}` fits several nodes that wait"))
                .hint("name the request, as `meshara trust requests` shows it")
                .into())
        }
    }
}

/// Shows what is about to be approved, and asks.
fn confirm(one: &JoinApplication) -> Result<(), Failure> {
    let unseen = |why: &str| {
        ApiError::new(ErrorCode::Usage, why).hint(format!(
            "approve the request that you looked at: `meshara trust requests approve {}`",
            one.request
        ))
    };
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(unseen(
            "who asks under a name may have changed since you looked, and nobody is here to look again",
        )
        .into());
    }
    let roles = if one.ticket_roles.is_empty() { "no role".to_owned() } else { one.ticket_roles.join(", ") };
    let ask = format!("{} as `{}`, with {roles} of its ticket: approve? [y/N] ", one.node_id, one.name);
    let mut answer = String::new();
    let heard = write!(std::io::stderr(), "{ask}").and_then(|()| std::io::stdin().read_line(&mut answer));
    match heard {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(unseen("nothing was approved").into()),
    }
}

fn list(requests: &[JoinApplication], context: &Context) -> Result<(), Failure> {
    if context.json {
        for request in requests {
            output::json(request)?;
        }
        return Ok(());
    }
    let columns = ["REQUEST", "NAME", "NODE ID", "TICKET'S ROLES", "SINCE", "DECISION"]
        .map(|title| (title, Align::Left));
    let mut table = Table::new(output::stdout_paint(), &columns);
    for request in requests {
        let JoinApplication { request, node_id, name, since, decision, ticket_roles } = request.clone();
        table.row(vec![request, name, node_id, ticket_roles.join(", "), since.to_string(), decision]);
    }
    Ok(output::line(table)?)
}
