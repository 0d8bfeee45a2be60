//! Revocation and policy behind the control API.

use meshara_identity::NodeName;
use meshara_trust::policy::{Asked, Why, write};
use meshara_trust::revocation::{Reason, RevocationError};
use meshara_trust::sets::SetKind;

use super::control::NodeControl;
use super::trust::policy::{self, Applied, ApplyError};
use super::trust::revocation::{self, RevokeError};
use super::trust::sets::PublishError;
use super::{Inner, ResolveError};
use crate::api::{
    ApiError, ErrorCode, NodeRevoked, PolicyApplied, PolicyCheck, PolicyCheckRequest, PolicyControl,
    PolicyInfo, PolicyLooked, PolicyRequest, Result, RevokeRequest, Timestamp,
};

impl PolicyControl for NodeControl {
    async fn trust_revoke(&self, request: RevokeRequest) -> Result<NodeRevoked> {
        let reason: Reason = request
            .reason
            .parse()
            .map_err(|error| ApiError::new(ErrorCode::InvalidArgument, format!("{error}")))?;
        let (number, node) = revocation::revoke(&self.0, &request.node, reason).await?;
        Ok(NodeRevoked { number, node_id: node.to_string() })
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

/// A node that is known, or the name of one that isn't yet.
fn caller(inner: &Inner, text: &str) -> Result<policy::Who> {
    match (inner.resolve(text), text.parse::<NodeName>()) {
        (Ok((node, _)), _) => Ok(policy::who(inner, &node)),
        (Err(ResolveError::Unknown(_)), Ok(name)) => Ok(policy::stranger(inner, &name)),
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
            RevokeError::Publish(PublishError::Revocation(RevocationError::AlreadyRevoked { .. })) => {
                Self::new(ErrorCode::InvalidArgument, text)
            }
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
            PublishError::NoAuthority | PublishError::Approvals(_) => {
                Self::new(ErrorCode::NotAuthority, text).hint("run it on the node that made the mesh")
            }
            PublishError::Stopping => Self::new(ErrorCode::ShuttingDown, text),
            PublishError::File(_) => Self::new(ErrorCode::Io, text),
            PublishError::NotNewest(_) => Self::new(ErrorCode::Busy, text).hint("try again in a moment"),
            _ => Self::new(ErrorCode::Internal, text),
        }
    }
}
