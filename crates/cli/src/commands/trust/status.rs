//! `meshara trust status`: roots, issuers, log, this node's certificate.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Show roots, issuers, the log and this node's certificate
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust status
  meshara trust status --json | jq -r .certificate.renews_at")]
pub(crate) struct StatusArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client().trust_status().await?;
    if context.json {
        return Ok(output::json(&status)?);
    }
    let paint = output::stdout_paint();
    let certificate = &status.certificate;
    let head = status.log.head.as_deref().map_or_else(|| "none".to_owned(), text::short);
    let mut rows = vec![
        ("phase", format!("{} of 3", status.phase)),
        ("mesh id", status.mesh_id),
        ("roots", status.roots.to_string()),
        ("log", format!("{} entries, head {head}, {} witnesses", status.log.size, status.log.witnesses)),
        ("revocations", format!("number {}", status.revocations)),
        ("certificate", format!("{} until {}", certificate.serial, certificate.not_after)),
        ("issued by", text::node(&certificate.issuer_name, &certificate.issuer)),
        ("renews at", certificate.renews_at.to_string()),
        ("enrolled", format!("until {}", status.enrolled_until)),
        (
            "roles",
            if certificate.roles.is_empty() { "none".to_owned() } else { certificate.roles.join(", ") },
        ),
        ("leaf life", format!("{} ({})", text::seconds(status.leaf_life_s), status.leaf_life_reason)),
    ];
    match status.signers_heard_at {
        Some(at) if status.stale => {
            rows.push(("signers", paint.bad(&format!("silent since {at}: this node accepts nothing"))));
        }
        Some(at) => rows.push(("signers", format!("heard at {at}"))),
        None if status.stale => rows.push(("signers", paint.bad("never heard: this node accepts nothing"))),
        None => rows.push(("signers", "not heard yet".to_owned())),
    }
    if status.revoked {
        rows.push(("state", paint.bad("revoked: no member of the mesh talks with this node")));
    }
    if !status.valid {
        rows.push((
            "state",
            paint.bad("the certificate has ended: this node is silent until it has another"),
        ));
    }
    for (name, value) in rows {
        output::line(format!("{}  {value}", paint.dim(&format!("{name:<11}"))))?;
    }
    for issuer in status.issuers {
        let this = if issuer.this_node { ", this node" } else { "" };
        let forked = if issuer.log_forked { paint.bad("; its log forked") } else { String::new() };
        output::line(format!(
            "{}  {} (grant {} until {}{this}){forked}",
            paint.dim(&format!("{:<11}", "issuer")),
            text::node(&issuer.name, &issuer.node_id),
            issuer.number,
            issuer.not_after
        ))?;
    }
    Ok(())
}
