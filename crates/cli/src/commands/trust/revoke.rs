//! `meshara trust revoke`: a node is a member no more.

use clap::Args;
use meshara::api::{IssuerRevoked, RevokeRequest};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Take a node's membership away, at once and everywhere
///
/// Run it on a node that holds a signer's keys, at first the one that made the mesh; where several must approve, it writes a statement for
/// the others to sign. Every node closes its links and sessions with the revoked node, refuses its handshakes and
/// renewals, and forgets its routes. A node that is cut off learns of it as soon as it is back.
///
/// With an issuer every certificate that it made is refused too: the command says how many members must renew elsewhere, which
/// they do by themselves. The last issuer is only revoked with --force, since nobody could renew then.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust revoke carol --reason \"laptop stolen\"
  meshara trust revoke 5f1d2c… --reason \"left the team\" --json")]
pub(crate) struct RevokeArgs {
    /// The node: a name, a NodeId or a unique prefix of one
    node: String,
    /// Why, in at most 200 characters: every node writes it into its audit trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Revoke the mesh's last issuer too
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: RevokeArgs, context: &Context) -> Result<(), Failure> {
    let RevokeArgs { node, reason, force } = args;
    let request = RevokeRequest { node: node.clone(), reason, force };
    let revoked = context.client().trust_revoke(&request).await?;
    if context.json {
        return Ok(output::json(&revoked)?);
    }
    let paint = output::stdout_paint();
    let (name, id) = (paint.bold(&text::printable(&node)), text::short(&revoked.node_id));
    output::line(format!("{name} ({id}) is revoked by snapshot {}", revoked.number))?;
    if let Some(issuer) = &revoked.issuer {
        output::line(follows(issuer))?;
    }
    Ok(())
}

/// What the revocation of an issuer means for others.
fn follows(issuer: &IssuerRevoked) -> String {
    let members = match issuer.members {
        0 => return "it was an issuer; no member that this node knows has a certificate of its".to_owned(),
        1 => "it was an issuer: 1 known member has a certificate of its, which counts no more".to_owned(),
        n => format!("it was an issuer: {n} known members have certificates of its, which count no more"),
    };
    match issuer.issuers_left {
        0 => format!("{members}; no issuer is left that could give them others"),
        1 => format!("{members}; they ask the remaining issuer for others by themselves"),
        n => format!("{members}; they ask the {n} remaining issuers for others by themselves"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_said_in_words() {
        let said = |members, issuers_left| follows(&IssuerRevoked { members, issuers_left });
        assert!(said(0, 1).ends_with("no member that this node knows has a certificate of its"));
        assert!(said(1, 1).contains("1 known member has") && said(1, 1).contains("the remaining issuer"));
        assert!(
            said(7, 2).contains("7 known members have") && said(7, 2).contains("the 2 remaining issuers")
        );
        assert!(said(2, 0).ends_with("no issuer is left that could give them others"));
    }
}
