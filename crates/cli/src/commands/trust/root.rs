//! `meshara trust root`: who signs for the mesh.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use meshara::NodeName;
use meshara::api::{ApiError, ErrorCode};
use meshara::offline::{self, RootChanges};
use meshara_identity::MeshId;
use serde_json::json;

use super::key::passphrase;
use super::publish;
use super::signer::{next, show, show_root, told};
use crate::context::Context;
use crate::duration::Span;
use crate::failure::Failure;
use crate::output;

/// Show, export or replace the root document: who signs for the mesh
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust root show
  meshara trust root export roots
  meshara trust root rotate --signer founder --signer bob=bob.pub --signer carol=carol.pub --threshold 2")]
pub(crate) struct RootArgs {
    #[command(subcommand)]
    command: RootCommand,
}

#[derive(Debug, Subcommand)]
enum RootCommand {
    /// Show version, signers, phase and end of the root document
    ///
    /// Needs no running node. Every version is verified again from the mesh's id down.
    #[command(after_help = "Examples:
  meshara trust root show
  meshara trust root show --chain roots --mesh-id 5f1d…")]
    Show {
        /// An exported chain instead of this home's
        #[arg(long, value_name = "FILE")]
        chain: Option<PathBuf>,
        /// The mesh that it must be of, as tickets and `trust status` name it
        #[arg(long, value_name = "ID", requires = "chain")]
        mesh_id: Option<String>,
    },
    /// Write all versions of the root document to a file
    ///
    /// Nothing in it is secret: whoever knows the mesh's id can verify it, with no node and no network.
    #[command(after_help = "Examples:
  meshara trust root export roots && meshara trust root show --chain roots --mesh-id 5f1d…")]
    Export {
        /// File to write
        file: PathBuf,
    },
    /// Propose the next version: other signers, or a later end
    ///
    /// Writes a statement. As many signers of the version before as that demands must sign it, and as many of its own: `trust sign`, then
    /// `trust publish`, or this command again with --statement. Without options only the end is renewed.
    #[command(after_help = "Examples:
  meshara trust root rotate                                              (renews its end)
  meshara trust root rotate --signer alice=alice.pub --signer bob=bob.pub --signer carol=carol.pub --threshold 2
  meshara trust root rotate --authority alice=alice-node.pub --authority bob=bob-node.pub --approvals 2
  meshara trust root rotate --statement root-2.statement --signatures *.signature")]
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// A root signer: NAME=PUBLIC-KEY-FILE, or the NAME of a present one; give all of them
    #[arg(long, value_name = "NAME[=FILE]")]
    signer: Vec<Named>,
    /// How many root signers must approve
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    threshold: Option<u8>,
    /// A signer of revocations, policy and freshness, whose node holds the keys; give all of them
    #[arg(long, value_name = "NAME[=FILE]")]
    authority: Vec<Named>,
    /// How many of those must approve
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    approvals: Option<u8>,
    /// For how long, three years at most
    #[arg(long, value_name = "TIME")]
    life: Option<Span>,
    /// The chain of an exported root document, away from every node
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// Where the statement goes [default: the home's directory proposals]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Publish this statement instead of proposing one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["signer", "threshold", "authority", "approvals", "life", "chain", "out"])]
    statement: Option<PathBuf>,
    /// Its signature files [default: those beside it]
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "statement")]
    signatures: Vec<PathBuf>,
}

/// `NAME` or `NAME=FILE`.
#[derive(Debug, Clone)]
struct Named(NodeName, Option<PathBuf>);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = match text.split_once('=') {
            Some((_, "")) => return Err("a file is missing after `=`".to_owned()),
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (text, None),
        };
        Ok(Self(name.parse().map_err(|error: meshara::NameError| error.to_string())?, file))
    }
}

pub(crate) async fn run(args: RootArgs, context: &Context) -> Result<(), Failure> {
    match args.command {
        RootCommand::Show { chain, mesh_id } => {
            let mesh = mesh_id.map(|text| mesh_of(&text)).transpose()?;
            let root =
                offline::show_root(&context.home, chain.as_deref(), mesh).map_err(|error| told(&error))?;
            if context.json {
                return Ok(output::json(&root)?);
            }
            show_root(&root)
        }
        RootCommand::Export { file } => {
            let root = offline::export_root(&context.home, passphrase(None, context)?.as_ref(), &file)
                .map_err(|error| told(&error))?;
            if context.json {
                let written = json!({ "file": file, "version": root.version, "mesh_id": root.mesh_id });
                return Ok(output::json(&written)?);
            }
            output::line(format!(
                "wrote {} versions of mesh {} to {}",
                root.version,
                root.mesh_id,
                file.display()
            ))?;
            let paint = output::stdout_paint();
            let check =
                format!("meshara trust root show --chain {} --mesh-id {}", file.display(), root.mesh_id);
            Ok(output::line(paint.dim(&format!("verify it anywhere: {check}")))?)
        }
        RootCommand::Rotate(args) => rotate(args, context).await,
    }
}

fn mesh_of(text: &str) -> Result<MeshId, ApiError> {
    let wrong = |error| ApiError::new(ErrorCode::InvalidArgument, format!("--mesh-id: {error}"));
    text.parse().map_err(|error: meshara_identity::ids::ParseIdError| wrong(error.to_string()))
}

async fn rotate(args: RotateArgs, context: &Context) -> Result<(), Failure> {
    if let Some(statement) = args.statement {
        let (statement, signatures) =
            offline::collect(&statement, &args.signatures).map_err(|error| told(&error))?;
        return publish::publish(&statement, &signatures, context).await;
    }
    let named = |list: Vec<Named>| list.into_iter().map(|Named(name, file)| (name, file)).collect();
    let changes = RootChanges {
        signers: named(args.signer),
        threshold: args.threshold,
        authority: named(args.authority),
        approvals: args.approvals,
        life: args.life.map(|span| span.0),
    };
    let pass = passphrase(None, context)?;
    let (chain, out) = (args.chain.as_deref(), args.out.as_deref());
    let proposed = offline::propose_root(&context.home, pass.as_ref(), chain, &changes, out);
    let info = proposed.map_err(|error| told(&error))?;
    if context.json {
        return Ok(output::json(&info)?);
    }
    show(&info)?;
    output::line(format!("nothing has changed yet; the statement is {}", info.file.display()))?;
    next(&info.file)
}
