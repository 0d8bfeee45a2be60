//! `meshara trust bundle`: what another trust domain must know.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Print the SPIFFE bundle of the mesh
///
/// Another SPIFFE trust domain verifies this mesh's workloads with it. It is public, and the same on every node that knows all issuers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust bundle > lab.json
  meshara trust bundle | jq '.keys[].use'")]
pub(crate) struct BundleArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    // JSON in any case: it is for programs.
    Ok(output::json(&context.client().trust_bundle().await?)?)
}
