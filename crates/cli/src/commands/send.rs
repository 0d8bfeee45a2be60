//! `meshara send`: one message, acknowledged.

use std::io::Read;

use clap::Args;
use meshara::api::{ApiError, ErrorCode, MAX_MESSAGE};

use crate::context::Context;
use crate::duration::Span;
use crate::failure::Failure;
use crate::output;

/// Send a message and wait until the receiver has stored it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara send alice \"hello\"
  date | meshara send alice -
  meshara send alice - < picture.png          (at most 1 MiB; any bytes)")]
pub(crate) struct SendArgs {
    /// Name, NodeId or unique prefix of one
    node: String,
    /// The text, or `-` to read it from standard input
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// How long to wait for the acknowledgement
    #[arg(long, default_value = "30s")]
    timeout: Span,
}

pub(crate) async fn run(args: SendArgs, context: &Context) -> Result<(), Failure> {
    let body = if args.text == "-" { stdin()? } else { args.text.into_bytes() };
    let receipt = context.client().send(&args.node, body.into(), args.timeout.0).await?;
    if context.json {
        return Ok(output::json(&receipt)?);
    }
    output::line(format!(
        "stored by {} after {:.1} ms (message {})",
        args.node, receipt.acked_ms, receipt.id
    ))?;
    Ok(())
}

/// Standard input as far as a message can hold it and one byte more, so that a larger one is noticed.
fn stdin() -> Result<Vec<u8>, Failure> {
    let limit = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX).saturating_add(1);
    let mut body = Vec::new();
    std::io::stdin().lock().take(limit).read_to_end(&mut body)?;
    if body.len() > MAX_MESSAGE {
        let message = format!("a message holds at most {MAX_MESSAGE} bytes, and standard input has more");
        let error = ApiError::new(ErrorCode::TooLarge, message);
        return Err(error.hint("carry larger contents over `meshara serve` and `meshara connect`").into());
    }
    Ok(body)
}
