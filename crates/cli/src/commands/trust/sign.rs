//! `meshara trust sign`: a signer's approval of a statement, by file.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use meshara::api::StatementInfo;
use meshara::offline;
use serde_json::json;

use super::key::passphrase;
use super::signer::{show, told};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Sign a statement file: a root document, revocations or a policy
///
/// Shows what the statement says, asks, then writes a signature file. Where nobody can be asked, since this is no terminal, or with --json, it
/// signs nothing without --yes. Of a root document's grants those are marked that this home
/// does not hold; of revocations those are shown that are new to it; where it holds none, --show --json lists all. Needs neither a node nor a network. What can't be read is not signed, nor is
/// a second content of a number that the key has signed: a journal beside the key remembers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust sign root-2.statement --key bob.key --sealed-with passphrase.txt
  meshara trust sign revocations-5.statement               (with this home's own keys)
  meshara trust sign root-2.statement --show
  meshara trust sign root-2.statement --yes --json         (by a program, which has looked with --show)")]
pub(crate) struct SignArgs {
    /// The statement file
    file: PathBuf,
    /// The signer's key file [default: this home's own keys, else its mesh root]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File with the passphrase of the key file [default: that of --passphrase-file]
    #[arg(long, value_name = "FILE")]
    sealed_with: Option<PathBuf>,
    /// Where the signature goes [default: beside the statement]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only show what the statement says
    #[arg(long)]
    show: bool,
    /// Don't ask: you have looked at it with --show
    #[arg(long)]
    yes: bool,
    /// Sign this root document although the key signed another one of its version: only if that was never published, and never will be
    #[arg(long)]
    instead: bool,
}

pub(crate) fn run(args: SignArgs, context: &Context) -> Result<(), Failure> {
    let SignArgs { file, key, sealed_with, out, show: only_show, yes, instead } = args;
    let passphrase = passphrase(sealed_with.as_deref(), context)?;
    if only_show {
        let look = offline::look(&context.home, passphrase.as_ref(), &file);
        let info = look.map_err(|error| told(&error))?;
        if context.json {
            return Ok(output::json(&info)?);
        }
        return show(&info);
    }
    let mut shown = Ok(());
    let agree = |info: &StatementInfo| {
        if context.json {
            return yes;
        }
        shown = show(info);
        shown.is_ok() && (yes || agrees())
    };
    let (key, sealed) = (key.as_deref(), passphrase.as_ref());
    let signed = offline::sign(&context.home, &file, key, sealed, out.as_deref(), instead, agree);
    shown?;
    let (info, signature) = signed.map_err(|error| told(&error))?;
    if context.json {
        return Ok(output::json(&json!({ "statement": info, "signature": signature }))?);
    }
    let paint = output::stdout_paint();
    let (key, file) = (&signature.key, signature.file.display());
    Ok(output::line(format!("{} by {key}: {file}", paint.good("signed")))?)
}

/// Asks, where somebody is there who sees the statement and the question, and can answer; else it is no.
fn agrees() -> bool {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()) {
        return false;
    }
    let mut answer = String::new();
    let heard = write!(io::stderr(), "sign this? [y/N] ").and_then(|()| io::stdin().read_line(&mut answer));
    heard.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
