//! The part of the control API that is about who may join this node's issuer.

use std::sync::Arc;
use std::time::Duration;

use meshara_identity::issuer::{Allowed, Application, AttestationKind, Verdict};
use meshara_identity::{Issuer, IssuerError, NodeId, RoleName, UnixMillis};

use meshara_trust::audit::{Event, Words};

use super::control::{NodeControl, TICKET_ADDRS, timestamp};
use crate::api::{
    AdmissionControl, AllowedNode, ApiError, ErrorCode, Invite, InviteRequest, JoinApplication, JoinDecision,
    Result,
};

impl NodeControl {
    fn decision(&self, node: NodeId, decision: &str) {
        self.0.audit.record(Event::Decision { node, decision: Words::clean(decision) });
    }

    /// Runs off the network thread what reads or writes the issuer's store.
    async fn with_issuer<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Issuer>) -> std::result::Result<T, IssuerError> + Send + 'static,
    ) -> Result<T> {
        let Some(issuer) = self.0.standing.issuer() else {
            return Err(ApiError::new(ErrorCode::NotIssuer, "this node issues no certificates")
                .hint("run it on a node that issues: `meshara trust status` lists them"));
        };
        let done = tokio::task::spawn_blocking(move || work(issuer)).await;
        let done = done.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
        done.map_err(|error| {
            let code = match error {
                IssuerError::Roles | IssuerError::EmptyTicket => ErrorCode::InvalidArgument,
                IssuerError::TooManyListed | IssuerError::TooManyTickets => ErrorCode::Busy,
                _ => ErrorCode::Internal,
            };
            ApiError::new(code, error.to_string())
        })
    }
}

impl AdmissionControl for NodeControl {
    async fn invite_as(&self, request: InviteRequest) -> Result<Invite> {
        let InviteRequest { ttl_ms, uses, roles, attest } = request;
        let (ttl, roles, kinds) = (Duration::from_millis(ttl_ms), role_names(roles)?, kinds(&attest)?);
        let addrs = self.0.reachable_at().into_iter().take(TICKET_ADDRS).collect();
        let given = roles.iter().map(|role| Words::clean(role.as_str())).collect();
        let made = self.with_issuer(move |issuer| {
            issuer.invite_attested(&roles, &kinds, ttl, uses, addrs, UnixMillis::now())
        });
        let meshara_identity::Invite { ticket, expires_at, uses } = made.await?;
        self.0.audit.record(Event::Ticket { uses, until: expires_at, roles: given });
        Ok(Invite { ticket: ticket.to_string(), expires_at: timestamp(expires_at), uses })
    }

    async fn join_requests(&self) -> Result<Vec<JoinApplication>> {
        let asked = self.with_issuer(|issuer| issuer.applications(UnixMillis::now())).await?;
        Ok(asked.iter().map(shown).collect())
    }

    async fn join_decide(&self, decision: JoinDecision) -> Result<JoinApplication> {
        let JoinDecision { request, approve, roles } = decision;
        let (roles, unknown) = (role_names(roles)?, unknown(&request));
        // Whether it still stands is found in the transaction that decides.
        let decided = self.with_issuer(move |issuer| {
            let now = UnixMillis::now();
            let asked = issuer.applications(now)?;
            let Some(one) = asked.iter().find(|one| one.id.to_string() == request) else { return Ok(None) };
            issuer.answer_application(&one.id, approve, &roles, now)
        });
        let decided = decided.await?.ok_or(unknown)?;
        self.decision(decided.node, if approve { "approved" } else { "declined" });
        tracing::info!(node = %decided.node, name = %decided.name, approve, "an operator decided about a newcomer");
        Ok(shown(&decided))
    }

    async fn allowed_list(&self) -> Result<Vec<AllowedNode>> {
        let allowed = self.with_issuer(|issuer| issuer.allowed()).await?;
        Ok(allowed.into_iter().map(listed).collect())
    }

    async fn allowed_add(&self, allowed: AllowedNode) -> Result<AllowedNode> {
        let AllowedNode { node_id, name, roles } = allowed;
        let wrong =
            |error: &dyn std::fmt::Display| ApiError::new(ErrorCode::InvalidArgument, error.to_string());
        let name = name.map(|name| name.parse()).transpose().map_err(|error| wrong(&error))?;
        let allowed = Allowed { node: whole(&node_id)?, name, roles: role_names(roles)? };
        let kept = allowed.clone();
        self.with_issuer(move |issuer| issuer.allow(&kept)).await?;
        self.decision(allowed.node, "listed");
        Ok(listed(allowed))
    }

    async fn allowed_remove(&self, node_id: String) -> Result<AllowedNode> {
        let node = whole(&node_id)?;
        let removed = self.with_issuer(move |issuer| issuer.disallow(&node)).await?;
        if removed.is_some() {
            self.decision(node, "unlisted");
        }
        removed.map(listed).ok_or_else(|| {
            ApiError::new(ErrorCode::UnknownNode, format!("{node_id} is not on the list"))
                .hint("`meshara trust allowed list` shows who is")
        })
    }
}

fn whole(node_id: &str) -> Result<NodeId> {
    node_id.parse().map_err(|_| {
        ApiError::new(ErrorCode::InvalidArgument, format!("`{node_id}` is no whole NodeId"))
            .hint("on the newcomer, `meshara id --new` prints its 64 digits")
    })
}

fn kinds(names: &[String]) -> Result<Vec<AttestationKind>> {
    let kind = |name: &String| match name.as_str() {
        "approval" => Ok(AttestationKind::APPROVAL),
        "listed" => Ok(AttestationKind::LISTED),
        _ => Err(ApiError::new(ErrorCode::InvalidArgument, format!("`{name}` is no kind of attestation"))
            .hint("`approval` and `listed` are")),
    };
    let mut kinds = names.iter().map(kind).collect::<Result<Vec<_>>>()?;
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

fn role_names(roles: Vec<String>) -> Result<Vec<RoleName>> {
    let read = roles.iter().map(|role| role.parse()).collect::<std::result::Result<Vec<RoleName>, _>>();
    let mut read = read.map_err(|error| ApiError::new(ErrorCode::InvalidArgument, error.to_string()))?;
    read.sort();
    read.dedup();
    Ok(read)
}

fn unknown(request: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownNode, format!("there is no request `{request}`, or it was asked anew"))
        .hint("look again at `meshara trust requests`: who asks under another name or with another ticket is another request")
}

fn shown(application: &Application) -> JoinApplication {
    JoinApplication {
        request: application.id.to_string(),
        node_id: application.node.to_string(),
        name: application.name.to_string(),
        since: timestamp(application.since),
        decision: match application.decision {
            Verdict::Approved => "approved",
            Verdict::Declined => "declined",
            _ => "waiting",
        }
        .to_owned(),
        ticket_roles: application.ticket_roles.iter().map(ToString::to_string).collect(),
    }
}

fn listed(allowed: Allowed) -> AllowedNode {
    AllowedNode {
        node_id: allowed.node.to_string(),
        name: allowed.name.map(|name| name.to_string()),
        roles: allowed.roles.iter().map(ToString::to_string).collect(),
    }
}
