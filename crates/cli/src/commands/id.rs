//! `meshara id`: who this node is, also while it does not run.

use clap::Args;
use meshara::api::{ErrorCode, IdInfo};

use crate::context::Context;
use crate::failure::Failure;
use crate::identity;
use crate::output;

/// Show who this node is
///
/// Works with and without a running node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara id
  meshara id --json | jq -r .node_id")]
pub(crate) struct IdArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let id = match context.client().id().await {
        Ok(id) => id,
        Err(error) if matches!(error.code, ErrorCode::NotRunning | ErrorCode::Timeout) => stored(context)?,
        Err(error) => return Err(error.into()),
    };
    if context.json {
        return Ok(output::json(&id)?);
    }
    output::line(format!("{} in {}\n{}", output::stdout_paint().bold(&id.name), id.mesh, id.node_id))?;
    Ok(())
}

fn stored(context: &Context) -> Result<IdInfo, Failure> {
    let identity = identity::load(context)?;
    let member = identity.membership.member();
    Ok(IdInfo {
        node_id: member.node_id.to_string(),
        name: member.name.to_string(),
        mesh: identity.membership.anchors().mesh().to_string(),
    })
}
