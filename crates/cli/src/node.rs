//! Where the command meets the library's node.

use std::io;

use meshara::api::{ApiError, ErrorCode};
use meshara::config::Config;
use meshara::{
    BuildError, JoinError, JoinOptions, LockError, MemberError, Node, SetsError, StoreError, WorkloadError,
};
use meshara_identity::{JoinError as ReplyError, LeafError, Refusal};
use serde_json::json;

use crate::commands::join::JoinArgs;
use crate::commands::up::config_error;
use crate::context::Context;
use crate::failure::Failure;
use crate::identity::split;
use crate::{identity, output};

/// How a member whose certificate has ended gets another one. Its keys stay, so it is the same node.
pub(crate) const REJOIN: &str =
    "move the file `membership` out of the home, then `meshara join` with a new ticket and the same --name";

/// Runs the home's node until `stop` resolves.
pub(crate) async fn up(
    context: &Context,
    config: Config,
    stop: impl Future<Output = io::Result<()>>,
) -> Result<(), Failure> {
    let mut stop = std::pin::pin!(async {
        // Without signal handlers only SIGKILL ends the node, and then there is nothing to do in order.
        if stop.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let mut builder =
        Node::builder().home(&context.home).config(config).control_socket(true).workload_socket(true);
    if let Some(passphrase) = identity::passphrase(context)? {
        builder = builder.passphrase(passphrase);
    }
    let node = tokio::select! {
        built = builder.build() => built.map_err(|error| build_error(&error))?,
        // Nothing has been told to anybody yet, and the store takes an end at any time.
        () = &mut stop => return Ok(()),
    };
    let member = node.member();
    if context.json {
        output::json(&json!({
            "node_id": member.node_id.to_string(),
            "name": member.name.as_str(),
            "mesh": member.spiffe_id.mesh().as_str(),
            "listen": [node.local_addr().to_string()],
        }))?;
    } else {
        let (name, mesh) = (&member.name, member.spiffe_id.mesh());
        output::line(format!("{name} of mesh {mesh} is up, listening on {}", node.local_addr()))?;
    }
    node.run_until(stop).await;
    Ok(())
}

/// Makes the home a member of the ticket's mesh.
pub(crate) async fn join(context: &Context, args: JoinArgs) -> Result<(), Failure> {
    let mut options = JoinOptions::new(context.home.clone(), args.ticket, args.name);
    options.peers = args.peer;
    options.passphrase = identity::passphrase(context)?;
    options.wait = args.wait.0;
    options.waiting = |node| {
        eprintln!(
            "waiting for an operator to approve node {node} (`meshara trust requests` on the node that made the ticket)"
        );
    };
    let sealed = options.passphrase.is_some();
    let outcome = meshara::join(options).await.map_err(|error| join_error(&error))?;
    let member = outcome.identity.membership.member();
    if context.json {
        return Ok(output::json(&json!({
            "node_id": member.node_id.to_string(),
            "name": member.name.as_str(),
            "mesh": member.spiffe_id.mesh().as_str(),
            "spiffe_id": member.spiffe_id.to_string(),
            "via": outcome.via.to_string(),
            "sealed": sealed,
        }))?);
    }
    let paint = output::stdout_paint();
    let (name, mesh) = (member.name.as_str(), member.spiffe_id.mesh().as_str());
    output::line(format!(
        "joined mesh {} as {} through {}",
        paint.bold(mesh),
        paint.bold(name),
        outcome.via
    ))?;
    output::line(format!("node id   {}", member.node_id))?;
    output::line(format!("home      {}", context.home.display()))?;
    if !sealed {
        output::line("keystore  unsealed, mode 0600 (seal it with --passphrase-file)")?;
    }
    output::line(paint.dim("next: `meshara up`"))?;
    Ok(())
}

pub(crate) fn build_error(error: &BuildError) -> ApiError {
    let text = error.to_string();
    match error {
        BuildError::Home(error) => identity::home_error(error),
        BuildError::Interrupted => ApiError::new(ErrorCode::Interrupted, text),
        BuildError::Config(error) => config_error(error),
        BuildError::Lock(LockError::Held { .. }) => ApiError::new(ErrorCode::AlreadyRunning, text)
            .hint("stop it first, or give this one another --home"),
        BuildError::Store(error) => store_error(error),
        BuildError::Sets(SetsError::File(error)) => identity::file_error(error),
        BuildError::Sets(_) => split(ErrorCode::DamagedFile, &text),
        BuildError::Log(error) => match error.io_kind() {
            Some(kind) => identity::io_error(kind, text),
            None => ApiError::new(ErrorCode::DamagedFile, text)
                .hint("restore `log.key` and the directory `log` from the same backup; a new log would contradict the old one"),
        },
        BuildError::Workload(WorkloadError::Store(error)) => store_error(error),
        BuildError::Workload(error) => match error.file() {
            Some(error) => identity::file_error(error),
            None => split(ErrorCode::DamagedFile, &text),
        },
        BuildError::Load(_) => ApiError::new(ErrorCode::DamagedFile, text)
            .hint("move node.redb away to start with an empty outbox and inbox"),
        BuildError::Certificate(LeafError::Expired { .. }) => ApiError::new(ErrorCode::JoinRefused, text)
            .hint(format!(
                "check the clock (`meshara doctor`); if the certificate has really ended, {REJOIN}"
            )),
        BuildError::Certificate(_) => {
            ApiError::new(ErrorCode::JoinRefused, text).hint("check the clock (`meshara doctor`)")
        }
        BuildError::Bind { error, .. } if error.kind() == io::ErrorKind::AddrInUse => {
            ApiError::new(ErrorCode::AddressInUse, text).hint("choose another --listen address")
        }
        BuildError::Dns { error, .. } if error.kind() == io::ErrorKind::AddrInUse => {
            ApiError::new(ErrorCode::AddressInUse, text).hint("choose another --dns address")
        }
        BuildError::Bind { error, .. }
        | BuildError::Dns { error, .. }
        | BuildError::Control(error)
        | BuildError::WorkloadSocket(error)
        | BuildError::Lock(LockError::Io { error, .. }) => identity::io_error(error.kind(), text),
        _ => ApiError::new(ErrorCode::Internal, text),
    }
}

fn store_error(error: &StoreError) -> ApiError {
    ApiError::from(error.clone())
}

fn join_error(error: &JoinError) -> ApiError {
    let text = error.to_string();
    match error {
        JoinError::Ticket(_) => ApiError::new(ErrorCode::InvalidTicket, text)
            .hint("copy the whole ticket again, exactly as `meshara invite` printed it"),
        JoinError::Home(error) => identity::home_error(error),
        JoinError::Join(ReplyError::Refused { refusal, .. }) => refused(refusal, text),
        JoinError::Join(ReplyError::Leaf { .. }) => {
            ApiError::new(ErrorCode::JoinRefused, text).hint("check this machine's clock")
        }
        JoinError::Clock(_) => split(ErrorCode::JoinRefused, &text),
        JoinError::Join(_) => ApiError::new(ErrorCode::JoinRefused, text),
        JoinError::NoAddress => ApiError::new(ErrorCode::InvalidArgument, text)
            .hint("name a member of the mesh with --peer HOST:PORT"),
        JoinError::NoMember { last: MemberError::NotMember(..) } => {
            ApiError::new(ErrorCode::JoinRefused, text).hint(
                "the address leads to another mesh; name a member of the ticket's with --peer HOST:PORT",
            )
        }
        JoinError::NoMember { last: MemberError::NoIssuer(_) } => ApiError::new(ErrorCode::Unreachable, text)
            .hint("the node that issues certificates must run and have a path to that member"),
        JoinError::NoMember { .. } => ApiError::new(ErrorCode::Timeout, text)
            .hint("is a member running and its UDP port reachable? --peer HOST:PORT names another one"),
        JoinError::Store(error) => store_error(error),
        JoinError::Socket(error) => identity::io_error(error.kind(), text),
        _ => ApiError::new(ErrorCode::Internal, text),
    }
}

fn refused(refusal: &Refusal, text: String) -> ApiError {
    let (code, hint) = match refusal {
        Refusal::UnknownTicket => (ErrorCode::InvalidTicket, "ask for a new ticket: `meshara invite`"),
        Refusal::BadMac => (ErrorCode::InvalidTicket, "copy the whole ticket again"),
        Refusal::TicketExpired { .. } => {
            (ErrorCode::TicketExpired, "ask for a new ticket: `meshara invite --ttl 24h`")
        }
        Refusal::TicketUsed => (ErrorCode::TicketUsed, "ask for a new ticket, or one with more --uses"),
        Refusal::NameTaken { .. } => (ErrorCode::NameTaken, "choose another --name"),
        Refusal::AlreadyNamed { .. } => {
            (ErrorCode::NameTaken, "this node has joined before: use its first name")
        }
        Refusal::AwaitingApproval => (
            ErrorCode::JoinRefused,
            "join again with the same ticket once it is approved, or wait longer with --wait",
        ),
        Refusal::Declined => (ErrorCode::JoinRefused, "ask the operator"),
        Refusal::NotListed => (
            ErrorCode::JoinRefused,
            "`meshara id --new` shows this node's id; `meshara trust allowed add` there puts it on the list",
        ),
        Refusal::ClockSkew { .. } => (ErrorCode::JoinRefused, "set this machine's clock"),
        Refusal::UnsupportedVersion { .. } => (ErrorCode::NewerVersion, "update the older of the two"),
        _ => (ErrorCode::JoinRefused, "the log of the node that issues says more"),
    };
    ApiError::new(code, text).hint(hint)
}
