//! `meshara init`: a new mesh, its root and this node's identity.

use clap::Args;
use meshara::api::{ApiError, ErrorCode};
use meshara_identity::lives::LEAF_LIFE_SHORT;
use meshara_identity::{Lives, MeshName, NodeName, SpiffeId, UnixMillis, create_mesh_with};
use serde_json::json;

use crate::context::Context;
use crate::duration::Span;
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
  meshara init --mesh lab --name alice --leaf-life 30m
  meshara init --mesh lab --name alice --passphrase-file /etc/meshara/passphrase")]
pub(crate) struct InitArgs {
    /// Name of the mesh: a-z, 0-9 and '-', at most 63
    #[arg(long)]
    mesh: MeshName,
    /// Name of this node in it: a-z, 0-9 and '-', at most 63
    #[arg(long)]
    name: NodeName,
    /// How long certificates live, 20s to 24h [default: 1h, and 24h while the mesh has one issuer]
    #[arg(long, value_name = "TIME")]
    leaf_life: Option<Span>,
    /// How long a node that is not heard of stays enrolled, 1d to 3650d
    #[arg(long, value_name = "TIME", default_value = "90d")]
    enrolment: Span,
}

/// Said of a leaf life that is short.
const SHORT: &str = "certificates that live for less than 5m leave little time to renew them: an issuer that is away for some minutes \
                     silences the mesh";

pub(crate) fn run(args: InitArgs, context: &Context) -> Result<(), Failure> {
    let passphrase = identity::passphrase(context)?;
    let leaf_life = args.leaf_life.map(|life| life.0);
    let lives = Lives::new(leaf_life, args.enrolment.0)
        .map_err(|error| ApiError::new(ErrorCode::InvalidArgument, error.to_string()))?;
    let short = leaf_life.is_some_and(|life| life < LEAF_LIFE_SHORT);
    let (mesh, name, now) = (&args.mesh, &args.name, UnixMillis::now());
    let made = create_mesh_with(&context.home, mesh, name, lives, passphrase.as_ref(), now)
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
            "leaf_life_s": leaf_life.map(|life| life.as_secs()),
            "warnings": if short { vec![SHORT] } else { Vec::new() },
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
    if short {
        output::line(format!("{} {SHORT}", paint.warn("warning:")))?;
    }
    output::line(
        paint.dim(
            "next: `meshara up`, then `meshara invite`; back the mesh root up with `meshara root export`",
        ),
    )?;
    Ok(())
}
