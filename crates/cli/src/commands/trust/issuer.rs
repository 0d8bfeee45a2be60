//! `meshara trust issuer`: who may issue certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meshara::api::{ApiError, ErrorCode, IssuerAdded, IssuerRequest};
use meshara::offline;
use serde_json::json;

use super::signer::{next, show, told};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Let another member issue certificates
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust issuer add bob
  meshara trust issuer add bob --out bob.statement")]
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
    ///
    /// Where the root is several signers, run it on any node with --out: it writes the grant as a statement, which the signers sign with
    /// `trust sign`, and `trust publish` makes it count. The member begins when it hears of it. One grant at a time: publish it before the
    /// next is proposed.
    #[command(after_help = "Examples:
  meshara trust issuer add bob
  meshara trust issuer add bob --out bob.statement     (then `trust sign bob.statement`, `trust publish bob.statement`)
  meshara trust issuer add bob --json | jq -r .node_id")]
    Add {
        /// The member: a name, a NodeId or a unique prefix of one
        node: String,
        /// Write the grant for the root's signers to sign, instead of signing it here
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(crate) async fn run(args: IssuerArgs, context: &Context) -> Result<(), Failure> {
    let IssuerCommand::Add { node, out } = args.command;
    let request = IssuerRequest { node, propose: out.is_some() };
    let mut added = context.client().trust_issuer_add(&request).await?;
    if let Some(out) = out {
        let statement = added.statement_file()?.ok_or_else(|| {
            ApiError::new(ErrorCode::Internal, "the node gave no statement")
                .hint("update the node that was asked")
        })?;
        offline::write(&out, &statement).map_err(|error| told(&error))?;
        if context.json {
            added.statement = None;
            let IssuerAdded { node_id, name, number, not_after, .. } = added;
            return Ok(output::json(&json!({
                "node_id": node_id, "name": name, "number": number, "not_after": not_after, "file": out,
            }))?);
        }
        // A statement of a grant is compared with nothing.
        show(&offline::look(&context.home, None, &out).map_err(|error| told(&error))?)?;
        output::line(format!("nothing has changed yet; the statement is {}", out.display()))?;
        return next(&out);
    }
    if context.json {
        return Ok(output::json(&added)?);
    }
    let paint = output::stdout_paint();
    let name = paint.bold(&text::node(&added.name, &added.node_id));
    output::line(format!("{name} issues from now on (grant {} until {})", added.number, added.not_after))?;
    Ok(())
}
