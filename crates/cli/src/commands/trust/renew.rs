//! `meshara trust renew`: this node's next certificate, now.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Renew this node's certificate now
///
/// Nodes renew by themselves at half of a certificate's life. This asks at once: to see that an issuer answers, or before the issuers are
/// switched off for a while. Links, sessions and streams go on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust renew
  meshara trust renew --json | jq -r .not_after")]
pub(crate) struct RenewArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let certificate = context.client().trust_renew().await?;
    if context.json {
        return Ok(output::json(&certificate)?);
    }
    let paint = output::stdout_paint();
    let issuer = text::node(&certificate.issuer_name, &certificate.issuer);
    let serial = paint.bold(&certificate.serial);
    output::line(format!("certificate {serial} of {issuer}, until {}", certificate.not_after))?;
    Ok(())
}
