//! `meshara trust key`: keys of the mesh's signers.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use meshara::api::KeyInfo;
use meshara::offline;
use meshara_identity::Passphrase;

use super::signer::told;
use crate::context::Context;
use crate::failure::Failure;
use crate::identity;
use crate::output;

/// Make a signer's keys, or write their public half
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust key new bob.key --seal-with passphrase.txt
  meshara trust key new --node
  meshara trust key public --out founder.pub")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make the keys of a signer: Ed25519 and ML-DSA-65, both of which sign
    ///
    /// Needs neither a node nor a network. The public half is written beside the file, as FILE.pub: that is what others need. With
    /// `--node` the keys are this home's own: its node signs revocations, policy and freshness with them once the root document names them.
    #[command(after_help = "Examples:
  meshara trust key new bob.key --seal-with passphrase.txt
  meshara trust key new --node")]
    New {
        /// File to write; never overwritten
        #[arg(value_name = "FILE", required_unless_present = "node")]
        file: Option<PathBuf>,
        /// Make them this home's own
        #[arg(long, conflicts_with = "file")]
        node: bool,
        /// File with the passphrase that seals them [default: that of --passphrase-file]
        #[arg(long, value_name = "FILE", conflicts_with = "node")]
        seal_with: Option<PathBuf>,
    },
    /// Write the public half of a key file, of this home's own keys, or of its mesh root
    #[command(after_help = "Examples:
  meshara trust key public bob.key --out bob.pub
  meshara trust key public --out founder.pub")]
    Public {
        /// The key file [default: this home's own keys, else its mesh root]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// File with the passphrase of the key file [default: that of --passphrase-file]
        #[arg(long, value_name = "FILE")]
        sealed_with: Option<PathBuf>,
    },
}

pub(crate) fn run(args: KeyArgs, context: &Context) -> Result<(), Failure> {
    let (made, info) = match args.command {
        KeyCommand::New { file, seal_with, .. } => {
            let passphrase = passphrase(seal_with.as_deref(), context)?;
            let info = offline::new_key(&context.home, file.as_deref(), passphrase.as_ref());
            (true, info.map_err(|error| told(&error))?)
        }
        KeyCommand::Public { file, out, sealed_with } => {
            let passphrase = passphrase(sealed_with.as_deref(), context)?;
            let info = offline::write_public(&context.home, file.as_deref(), passphrase.as_ref(), &out);
            (false, info.map_err(|error| told(&error))?)
        }
    };
    if context.json {
        return Ok(output::json(&info)?);
    }
    let KeyInfo { key, file, public, sealed } = info;
    let paint = output::stdout_paint();
    if made {
        output::line(format!("wrote the secret keys to {}", file.display()))?;
        if !sealed {
            output::line(paint.warn("they are not sealed: whoever reads the file can sign"))?;
        }
    }
    output::line(format!("wrote the public keys to {}", public.display()))?;
    Ok(output::line(format!("{} {key}", paint.dim("fingerprint")))?)
}

/// The passphrase of a key file: of its own file, else the home's.
pub(super) fn passphrase(file: Option<&Path>, context: &Context) -> Result<Option<Passphrase>, Failure> {
    match file {
        Some(file) => Ok(Some(identity::passphrase_of(file)?)),
        None => Ok(identity::passphrase(context)?),
    }
}
