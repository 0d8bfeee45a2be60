//! `meshara invite`: a ticket for another machine.

use clap::Args;
use meshara::api::InviteRequest;

use crate::context::Context;
use crate::duration::Span;
use crate::failure::Failure;
use crate::output;

/// Print a ticket with which another machine can join
///
/// The ticket is a secret: whoever has it can join until it is used up or ends. It stands alone on the last line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara invite
  meshara invite --ttl 24h --uses 1
  meshara invite --role ops --role backup
  meshara invite --ttl 7d --uses 20 --approve
  meshara invite --json | jq -r .ticket")]
pub(crate) struct InviteArgs {
    /// How long the ticket is good for, such as 30m, 24h or 7d
    #[arg(long, default_value = "24h")]
    ttl: Span,
    /// How many nodes may join with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Role of whoever joins with it, for policy; may be given again
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// Who joins with it waits until an operator approves the node: `meshara trust requests`
    #[arg(long)]
    approve: bool,
    /// Only nodes on this issuer's list join with it: `meshara trust allowed`
    #[arg(long)]
    listed: bool,
}

pub(crate) async fn run(args: InviteArgs, context: &Context) -> Result<(), Failure> {
    let ttl_ms = u64::try_from(args.ttl.0.as_millis()).unwrap_or(u64::MAX);
    let asked = [(args.approve, "approval"), (args.listed, "listed")];
    let attest = asked.into_iter().filter(|(asked, _)| *asked).map(|(_, kind)| kind.to_owned()).collect();
    let request = InviteRequest { ttl_ms: ttl_ms.max(1), uses: args.uses, roles: args.role, attest };
    let invite = context.client().invite(&request).await?;
    if context.json {
        return Ok(output::json(&invite)?);
    }
    let paint = output::stdout_paint();
    let times = if invite.uses == 1 { "once".to_owned() } else { format!("{} times", invite.uses) };
    output::line(paint.dim(&format!("good {times}, until {}; on the other machine:", invite.expires_at)))?;
    output::line(paint.dim("meshara join TICKET --name NAME && meshara up"))?;
    Ok(output::line(invite.ticket)?)
}
