//! Revocation and policy behind the control API.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshara_identity::issuer::RolesError;
use meshara_identity::{NodeName, RoleName, UnixMillis};
use meshara_trust::audit::{Event, Outcome, Words};
use meshara_trust::gossip::GossipError;
use meshara_trust::policy::{Asked, Why, write};
use meshara_trust::revocation::{Reason, ReasonError, RevocationError};
use meshara_trust::sets::SetKind;

use super::control::NodeControl;
use super::trust::policy::{self, Applied, ApplyError};
use super::trust::revocation::{self, RevokeError};
use super::trust::sets::PublishError;
use super::{Inner, ResolveError};
use crate::api::{
    ApiError, ErrorCode, IssuerRevoked, NodeRevoked, PolicyApplied, PolicyCheck, PolicyCheckRequest,
    PolicyControl, PolicyInfo, PolicyLooked, PolicyRequest, ReinstateRequest, Result, RevokeRequest,
    RolesChanged, RolesRequest, Timestamp,
};

impl PolicyControl for NodeControl {
    async fn trust_revoke(&self, request: RevokeRequest) -> Result<NodeRevoked> {
        let reason = reason(&request.reason)?;
        let revoked = revocation::revoke(&self.0, &request.node, reason, request.force).await?;
        let issuer = revoked.issuer.map(|follows| IssuerRevoked {
            members: follows.members as u64,
            issuers_left: follows.left as u64,
        });
        Ok(NodeRevoked { number: revoked.number, node_id: revoked.node.to_string(), issuer })
    }

    async fn trust_reinstate(&self, request: ReinstateRequest) -> Result<NodeRevoked> {
        let reason = reason(&request.reason)?;
        let (number, node) = revocation::reinstate(&self.0, &request.node, reason).await?;
        Ok(NodeRevoked { number, node_id: node.to_string(), issuer: None })
    }

    async fn trust_roles(&self, request: RolesRequest) -> Result<RolesChanged> {
        let RolesRequest { node, add, remove } = request;
        let (add, remove) = (roles(&add)?, roles(&remove)?);
        let Some(issuer) = self.0.standing.issuer() else {
            let error = ApiError::new(ErrorCode::NotIssuer, "this node issues no certificates");
            return Err(error.hint("run it on a node that issues: `meshara trust status` lists them"));
        };
        let node = revocation::named(&self.0, &node)?;
        let words =
            |roles: &BTreeSet<RoleName>| roles.iter().map(|role| Words::clean(role.as_str())).collect();
        let (added, removed) = (words(&add), words(&remove));
        let changed =
            tokio::task::spawn_blocking(move || issuer.change_roles(&node, &add, &remove, UnixMillis::now()));
        let changed = changed.await.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
        let outcome = match &changed {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Refused(Words::clean(&error.to_string())),
        };
        self.0.audit.record(Event::Roles { node, added, removed, outcome });
        let (name, roles) = changed.map_err(|error| {
            let text = error.to_string();
            match error {
                RolesError::UnknownMember => ApiError::new(ErrorCode::UnknownNode, text)
                    .hint("run it on the node that admitted it, or that renewed its certificate last"),
                RolesError::Ended { .. } => ApiError::new(ErrorCode::InvalidArgument, text)
                    .hint("it joins anew, with a ticket of `meshara invite --role ROLE`"),
                RolesError::TooMany => ApiError::new(ErrorCode::InvalidArgument, text),
                _ => ApiError::new(ErrorCode::Io, text),
            }
        })?;
        let roles = roles.iter().map(ToString::to_string).collect();
        Ok(RolesChanged { node_id: node.to_string(), name: name.to_string(), roles })
    }

    async fn policy_show(&self) -> Result<PolicyInfo> {
        let (number, issued_at) = self.0.sets.view(|gossip| {
            let head = gossip.set(SetKind::Policy).map(|set| &set.signed.head);
            (head.map_or(0, |head| head.number), head.map(|head| Timestamp::from_unix_ms(head.issued_at.0)))
        });
        let compiled = self.0.gate.compiled();
        let policy = compiled.policy();
        Ok(PolicyInfo { number, issued_at, rules: policy.rules().len() as u64, text: write(policy) })
    }

    async fn policy_apply(&self, request: PolicyRequest) -> Result<PolicyApplied> {
        let PolicyRequest { text, dry_run } = request;
        let Applied { number, rules, difference } = policy::apply(&self.0, &text, dry_run).await?;
        Ok(PolicyApplied {
            number,
            rules: rules as u64,
            added: difference.added,
            removed: difference.removed,
            changed: difference.changed,
            dry_run,
        })
    }

    async fn policy_check(&self, request: PolicyCheckRequest) -> Result<PolicyCheck> {
        let PolicyCheckRequest { node, target, explain } = request;
        let who = caller(&self.0, &node)?;
        let asked = Asked::parse(&target)
            .map_err(|error| ApiError::new(ErrorCode::InvalidArgument, error.to_string()))?;
        let checked = policy::check(&self.0, &who, &asked);
        let rules = checked.looked.into_iter().filter(|_| explain).map(|(rule, allows, why)| PolicyLooked {
            rule,
            effect: if allows { "allow" } else { "deny" }.to_owned(),
            why: match why {
                Why::Matches => "matches",
                Why::OtherCaller => "other_caller",
                Why::OtherTarget => "other_target",
                Why::OtherTime => "other_time",
            }
            .to_owned(),
        });
        Ok(PolicyCheck { allowed: checked.allowed, rule: checked.rule, rules: rules.collect() })
    }
}

fn reason(text: &str) -> Result<Reason> {
    text.parse().map_err(|error: ReasonError| ApiError::new(ErrorCode::InvalidArgument, error.to_string()))
}

fn roles(names: &[String]) -> Result<BTreeSet<RoleName>> {
    let role = |name: &String| {
        name.parse::<RoleName>().map_err(|error| {
            ApiError::new(ErrorCode::InvalidArgument, format!("`{name}` is not a role: {error}"))
        })
    };
    names.iter().map(role).collect()
}

/// A node that is known, or the name of one that isn't yet.
fn caller(inner: &Inner, text: &str) -> Result<Arc<policy::Who>> {
    match (inner.resolve(text), text.parse::<NodeName>()) {
        (Ok((node, _)), _) => Ok(policy::who(inner, &node)),
        (Err(ResolveError::Unknown(_)), Ok(name)) => Ok(Arc::new(policy::stranger(inner, &name))),
        (Err(error), _) => Err(error.into()),
    }
}

impl From<RevokeError> for ApiError {
    fn from(error: RevokeError) -> Self {
        let text = error.to_string();
        match error {
            RevokeError::Resolve(error) => {
                Self::from(error).hint("a node that isn't known any more is revoked by its whole NodeId")
            }
            RevokeError::Ourselves => Self::new(ErrorCode::InvalidArgument, text)
                .hint("the mesh root must be moved to another node first"),
            RevokeError::LastIssuer { .. } => Self::new(ErrorCode::LastIssuer, text)
                .hint("let another node issue first, `meshara trust issuer add NODE`; or add `--force`"),
            RevokeError::Publish(PublishError::Revocation(
                RevocationError::AlreadyRevoked { .. } | RevocationError::NotRevoked { .. },
            )) => Self::new(ErrorCode::InvalidArgument, text),
            RevokeError::Publish(error) => error.into(),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Text(error) => Self::new(ErrorCode::InvalidArgument, error.to_string())
                .hint("docs/policy.md says how rules are written"),
            ApplyError::Publish(error) => error.into(),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let text = error.to_string();
        match error {
            PublishError::Proposed(_)
            | PublishError::Offline(_)
            | PublishError::Signing(_)
            | PublishError::Gossip(GossipError::Root(_)) => super::root_control::refused(&error),
            PublishError::NoAuthority => Self::new(ErrorCode::NotAuthority, text).hint(
                "run it on a node that holds a signer's keys: `meshara trust root show` lists the signers",
            ),
            PublishError::Stopping => Self::new(ErrorCode::ShuttingDown, text),
            PublishError::File(_) => Self::new(ErrorCode::Io, text),
            PublishError::NotNewest(_) => Self::new(ErrorCode::Busy, text).hint("try again in a moment"),
            _ => Self::new(ErrorCode::Internal, text),
        }
    }
}
