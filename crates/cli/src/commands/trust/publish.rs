//! `meshara trust publish`: a statement that enough signers signed becomes what the mesh goes by.

use std::path::PathBuf;

use clap::Args;
use meshara::api::PublishRequest;
use meshara::offline;

use super::signer::told;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Publish a statement that enough signers have signed
///
/// Any node of the mesh can: it checks every signature against the signers, and passes the statement on to all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust publish root-2.statement
  meshara trust publish root-2.statement alice.signature bob.signature")]
pub(crate) struct PublishArgs {
    /// The statement file
    file: PathBuf,
    /// Its signature files [default: those beside it]
    signatures: Vec<PathBuf>,
}

pub(crate) async fn run(args: PublishArgs, context: &Context) -> Result<(), Failure> {
    let (statement, signatures) =
        offline::collect(&args.file, &args.signatures).map_err(|error| told(&error))?;
    publish(&statement, &signatures, context).await
}

pub(super) async fn publish(
    statement: &[u8],
    signatures: &[Vec<u8>],
    context: &Context,
) -> Result<(), Failure> {
    let request = PublishRequest::new(statement, signatures);
    let published = context.client().trust_publish(&request).await?;
    if context.json {
        return Ok(output::json(&published)?);
    }
    let what = if published.kind == "root" { "root document" } else { &published.kind };
    let known = if published.known { ", as it did before" } else { "" };
    Ok(output::line(format!("the mesh goes by {what} {}{known}", published.number))?)
}
