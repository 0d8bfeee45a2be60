//! `meshara trust role`: what a member may do, by roles in its certificate.

use clap::{Args, ValueEnum};
use meshara::api::RolesRequest;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Give roles to a member, or take them away
///
/// Run it on a node that issues and knows the member. The member's next certificate says so; the member has it at once with
/// `meshara trust renew` there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust role bob add ops
  meshara trust role bob remove ops backup --json")]
pub(crate) struct RoleArgs {
    /// The member: a name, a NodeId or a unique prefix of one
    node: String,
    /// What to do
    change: Change,
    /// Roles: lower-case letters, digits and hyphens
    #[arg(required = true, value_name = "ROLE")]
    roles: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Change {
    /// Give roles
    Add,
    /// Take roles away
    Remove,
}

pub(crate) async fn run(args: RoleArgs, context: &Context) -> Result<(), Failure> {
    let RoleArgs { node, change, roles } = args;
    let (add, remove) = match change {
        Change::Add => (roles, Vec::new()),
        Change::Remove => (Vec::new(), roles),
    };
    let changed = context.client().trust_roles(&RolesRequest { node, add, remove }).await?;
    if context.json {
        return Ok(output::json(&changed)?);
    }
    let paint = output::stdout_paint();
    let roles = if changed.roles.is_empty() { "no role".to_owned() } else { changed.roles.join(", ") };
    let name = paint.bold(&text::node(&changed.name, &changed.node_id));
    output::line(format!("{name} has {roles}, from its next certificate on"))?;
    Ok(())
}
