//! `meshara id`: who this node is, also while it does not run.

use clap::Args;
use meshara::api::{ErrorCode, IdInfo};
use meshara_identity::{Identity, home};

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
  meshara id --new                         make the keys before `join`, so that the NodeId can be listed
  meshara id --json | jq -r .node_id")]
pub(crate) struct IdArgs {
    /// Make this node's keys if it has none, and show its NodeId: it may not have joined a mesh yet
    #[arg(long)]
    new: bool,
}

pub(crate) async fn run(args: IdArgs, context: &Context) -> Result<(), Failure> {
    if args.new && !context.home.join(home::MEMBERSHIP).exists() {
        let passphrase = identity::passphrase(context)?;
        let node = home::make_keys(&context.home, passphrase.as_ref());
        let node = node.map_err(|error| identity::home_error(&error))?.to_string();
        if context.json {
            return Ok(output::json(&IdInfo { node_id: node, name: String::new(), mesh: String::new() })?);
        }
        return Ok(output::line(node)?);
    }
    // The home says it at once, also when the node hangs; only what is sealed has to be asked for.
    let id = match identity::load(context) {
        Ok(identity) => info(&identity),
        Err(sealed) if sealed.code == ErrorCode::Passphrase => {
            context.client().id().await.map_err(|error| match error.code {
                ErrorCode::NotRunning => sealed,
                _ => error,
            })?
        }
        Err(error) => return Err(error.into()),
    };
    if context.json {
        return Ok(output::json(&id)?);
    }
    output::line(format!("{} in {}\n{}", output::stdout_paint().bold(&id.name), id.mesh, id.node_id))?;
    Ok(())
}

fn info(identity: &Identity) -> IdInfo {
    let member = identity.membership.member();
    IdInfo {
        node_id: member.node_id.to_string(),
        name: member.name.to_string(),
        mesh: identity.membership.anchors().mesh().to_string(),
    }
}
