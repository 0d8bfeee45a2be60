//! The part of the control API that is about trust.

use data_encoding::{BASE64, HEXLOWER};
use meshara_identity::{IssuerGrant, UnixMillis};

use super::control::{NodeControl, timestamp};
use super::issuing::{self, Added, GrantError};
use super::renewal::{self, RenewalError};
use super::{Inner, standing};
use crate::api::trust::{IssuerAdded, IssuerInfo, IssuerRequest, OwnCertificate, TrustControl, TrustStatus};
use crate::api::{ApiError, ErrorCode, Result};

impl TrustControl for NodeControl {
    async fn trust_status(&self) -> Result<TrustStatus> {
        let inner = &self.0;
        let now = UnixMillis::now();
        let (membership, anchors) = (inner.standing.membership(), inner.standing.anchors());
        let member = membership.member();
        let me = member.node_id;
        let count = inner.standing.issuers(now).len();
        let issue = |grant: &&IssuerGrant| {
            grant.statement.holds_at(now) && !inner.standing.revoked().contains(&grant.statement.issuer)
        };
        let issuers = anchors.in_force().filter(issue).map(|grant| {
            let issuer = grant.statement.issuer;
            IssuerInfo {
                node_id: issuer.to_string(),
                name: inner.name_of(&issuer),
                number: grant.statement.number,
                not_after: timestamp(grant.statement.not_after),
                this_node: issuer == me,
                log_forked: inner.logs.others.get(&issuer).is_some_and(|other| other.shown().fork.is_some()),
            }
        });
        let lives = anchors.in_force().find(|grant| grant.statement.holds_at(now));
        let lives = lives.map(|grant| grant.statement.lives).unwrap_or_default();
        let why = match (lives.leaf_is_set(), count) {
            (true, _) => "set when the mesh was made",
            (false, 0 | 1) => "the mesh has one issuer, which may be away for hours",
            (false, _) => "several issuers can renew",
        };
        // Without a document the founder's key is the root.
        let (phase, roots) = inner.sets.view(|gossip| {
            gossip.root().map_or((0, 1), |root| (root.phase as u8, root.root.signers().count() as u64))
        });
        Ok(TrustStatus {
            phase,
            mesh_id: anchors.mesh_id().to_string(),
            roots,
            issuers: issuers.collect(),
            log: inner.logs.status(),
            certificate: own_certificate(inner),
            valid: membership.valid_at(now).is_ok(),
            enrolled_until: timestamp(member.enrolled.until),
            leaf_life_s: lives.leaf(count).as_secs(),
            leaf_life_reason: why.to_owned(),
            revocations: inner.sets.revocations(),
            revoked: inner.standing.revoked().contains(&me),
            signers_heard_at: inner.sets.heard().map(timestamp),
            stale: inner.sessions.is_stale(),
        })
    }

    async fn trust_renew(&self) -> Result<OwnCertificate> {
        renewal::renew_now(&self.0).await.map_err(|error| renewal_error(&error))?;
        Ok(own_certificate(&self.0))
    }

    async fn trust_issuer_add(&self, request: IssuerRequest) -> Result<IssuerAdded> {
        let (node, name) = self.other(&request.node)?;
        let added = issuing::add(&self.0, node, request.propose).await;
        let (said, statement) = match added.map_err(|error| grant_error(&error, &name))? {
            Added::Granted(grant) => (grant.statement, None),
            Added::Proposed(file, said) => {
                let bytes = file.encode().map_err(|error| grant_error(&error.into(), &name))?;
                (said, Some(BASE64.encode(&bytes)))
            }
        };
        let not_after = timestamp(said.not_after);
        Ok(IssuerAdded { node_id: node.to_string(), name, number: said.number, not_after, statement })
    }
}

/// This node's certificate, and how far its proof is.
fn own_certificate(inner: &Inner) -> OwnCertificate {
    let (membership, anchors) = (inner.standing.membership(), inner.standing.anchors());
    let member = membership.member();
    let issuer = anchors.issuer_of(membership.leaf_der());
    OwnCertificate {
        serial: HEXLOWER.encode(&member.serial),
        not_before: timestamp(member.not_before),
        not_after: timestamp(member.not_after),
        renews_at: timestamp(standing::renews_at(member)),
        issuer: issuer.map(|issuer| issuer.to_string()).unwrap_or_default(),
        issuer_name: issuer.map(|issuer| inner.name_of(&issuer)).unwrap_or_default(),
        roles: member.enrolled.roles.iter().map(ToString::to_string).collect(),
        witnesses: inner.logs.attestations.witnesses(membership.leaf_der()),
    }
}

fn renewal_error(error: &RenewalError) -> ApiError {
    let text = format!("this node's certificate was not renewed: {error}");
    match error {
        RenewalError::NoIssuer | RenewalError::Silent(_) | RenewalError::Ended => {
            ApiError::new(ErrorCode::Unreachable, text)
                .hint("`meshara trust status` lists the issuers, `meshara routes` who is reachable")
        }
        RenewalError::Reply { .. } => {
            ApiError::new(ErrorCode::JoinRefused, text).hint("the issuer's log says more")
        }
        _ => ApiError::new(ErrorCode::Internal, text).hint("this node's log says more"),
    }
}

fn grant_error(error: &GrantError, name: &str) -> ApiError {
    let text = format!("{name} was not made an issuer: {error}");
    match error {
        GrantError::NoRoot => ApiError::new(ErrorCode::NotIssuer, text)
            .hint("run it on the node that made the mesh, or restore its root with `meshara root import`"),
        GrantError::NeedsSigners { .. } => ApiError::new(ErrorCode::NeedsApprovals, text).hint(format!(
            "`meshara trust issuer add {name} --out FILE` writes the grant; its signers sign it with `meshara trust sign FILE`, then `meshara trust publish FILE`"
        )),
        GrantError::IssuesAlready => ApiError::new(ErrorCode::AlreadyInitialised, text)
            .hint("`meshara trust status` lists the issuers"),
        GrantError::Session(_) | GrantError::TimedOut | GrantError::Write(_) | GrantError::Read(_) => {
            ApiError::new(ErrorCode::Unreachable, text)
                .hint("it must run and be reachable: see `meshara routes`")
        }
        GrantError::Refused(_) => ApiError::new(ErrorCode::JoinRefused, text).hint("its log says more"),
        _ => ApiError::new(ErrorCode::Internal, text).hint("this node's log says more"),
    }
}
