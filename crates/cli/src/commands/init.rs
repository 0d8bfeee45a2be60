//! `meshara init`: a new mesh, its root and this node's identity.

use clap::Args;
use meshara_identity::{MeshName, NodeName, SpiffeId, UnixMillis, create_mesh};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::identity;
use crate::output;

/// Make a new mesh and this node's identity
///
/// Makes the mesh root, the issuer and the keys of this node in the home. Nothing that exists is overwritten. Without
/// --passphrase-file the keystore is unsealed, readable by its owner only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara init --mesh lab --name alice
  meshara init --mesh lab --name alice --passphrase-file /etc/meshara/passphrase")]
pub(crate) struct InitArgs {
    /// Name of the mesh: a-z, 0-9 and '-', at most 63
    #[arg(long)]
    mesh: MeshName,
    /// Name of this node in it: a-z, 0-9 and '-', at most 63
    #[arg(long)]
    name: NodeName,
}

pub(crate) fn run(args: InitArgs, context: &Context) -> Result<(), Failure> {
    let passphrase = identity::passphrase(context)?;
    let made = create_mesh(&context.home, &args.mesh, &args.name, passphrase.as_ref(), UnixMillis::now())
        .map_err(|error| identity::home_error(&error))?;
    let node_id = made.membership.member().node_id;
    let sealed = passphrase.is_some();
    if context.json {
        return Ok(output::json(&json!({
            "node_id": node_id.to_string(),
            "name": args.name.as_str(),
            "mesh": args.mesh.as_str(),
            "spiffe_id": SpiffeId::node(&args.mesh, &args.name).to_string(),
            "home": context.home,
            "sealed": sealed,
        }))?);
    }
    let paint = output::stdout_paint();
    let home = context.home.display();
    output::line(format!(
        "made mesh {} with node {}",
        paint.bold(args.mesh.as_str()),
        paint.bold(args.name.as_str())
    ))?;
    output::line(format!("node id   {node_id}"))?;
    output::line(format!("home      {home}"))?;
    if sealed {
        output::line("keystore  sealed; keep the passphrase file, `up` needs it")?;
    } else {
        output::line("keystore  unsealed, mode 0600 (seal it with --passphrase-file)")?;
    }
    output::line(
        paint.dim(
            "next: `meshara up`, then `meshara invite`; back the mesh root up with `meshara root export`",
        ),
    )?;
    Ok(())
}
