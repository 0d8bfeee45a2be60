//! `meshara trust issuer`: who may issue certificates.

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Let another member issue certificates
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust issuer add bob")]
pub(crate) struct IssuerArgs {
    #[command(subcommand)]
    command: IssuerCommand,
}

#[derive(Debug, Subcommand)]
enum IssuerCommand {
    /// Make a running member an issuer
    ///
    /// Run it on the node that holds the mesh root. The member makes its own CA key; the root signs a grant for it, which reaches
    /// all members. From then on it admits and renews, also when the other issuers are gone.
    #[command(after_help = "Examples:
  meshara trust issuer add bob
  meshara trust issuer add bob --json | jq -r .node_id")]
    Add {
        /// The member: a name, a NodeId or a unique prefix of one
        node: String,
    },
}

pub(crate) async fn run(args: IssuerArgs, context: &Context) -> Result<(), Failure> {
    let IssuerCommand::Add { node } = args.command;
    let added = context.client().trust_issuer_add(&node).await?;
    if context.json {
        return Ok(output::json(&added)?);
    }
    let paint = output::stdout_paint();
    let name = paint.bold(&text::node(&added.name, &added.node_id));
    output::line(format!("{name} issues from now on (grant {} until {})", added.number, added.not_after))?;
    Ok(())
}
