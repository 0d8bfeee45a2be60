//! Makes links: dials what the overlay asks for, accepts what others dial, and runs each link's control stream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshara_overlay::control::ControlError;
use meshara_overlay::record::RecordError;
use meshara_overlay::{CloseReason, DialTarget, LinkDownReason, LinkId, LinkKind};
use meshara_transport::{
    Accepted, ConnectError, ControlReceiver, ControlSender, LINK_TIMEOUT, Link, MtuCheck, tls,
};
use meshara_trust::policy::Evidence;
use quinn::{ConnectionError, VarInt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::admission::Source;
use super::overlay::ControlMessages;
use super::trust::{policy, sets};
use super::{Inner, link_streams};

/// Dials under way at once: all neighbours of a restarted node, and some that fail slowly.
const MAX_DIALS: usize = 64;
/// Handshakes of others under way at once in tasks of this node; newcomers above are refused. The endpoint asks for proof of address
/// far below.
const MAX_ACCEPTS: usize = 256;
/// Of these, from one source: a site behind one address that starts all at once stays below, and a single host can't keep others out.
const MAX_ACCEPTS_OF_ONE: usize = 64;
/// Between tries of a node's addresses: the next is tried beside the one before, as in RFC 8305, so that one dead address
/// doesn't delay the others.
const STAGGER: Duration = Duration::from_millis(150);
/// One attempt at one address. A silent neighbour must not hold its dial for the length of a full handshake timeout: the overlay
/// asks again at once.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Over a round trip of more than 450 ms (a satellite) that is never enough. Every so many tries in a row that timed out, one may take as
/// long as a handshake may at most.
const PATIENT_EVERY: u32 = 4;
/// Targets whose tries are counted; more than a node dials.
const MAX_COUNTED: usize = 1024;
/// How often a link's address, MTU and keys are brought up to date.
const REFRESH: Duration = Duration::from_millis(500);
/// The MTU search needs a few round trips; until it has ended it is followed closely.
const EARLY_REFRESH: Duration = Duration::from_millis(50);
/// Refreshes at the early pace.
const EARLY_REFRESHES: u32 = 20;

/// Carries out the overlay's dials.
pub(crate) async fn run_dials(inner: Arc<Inner>, mut dials: mpsc::Receiver<(DialTarget, LinkKind)>) {
    let mut tasks = JoinSet::new();
    // Whether they were asked for again meanwhile.
    let under_way = Arc::new(Mutex::new(HashMap::<Vec<SocketAddr>, bool>::new()));
    let timed_out = Arc::new(Mutex::new(HashMap::<Vec<SocketAddr>, u32>::new()));
    loop {
        tokio::select! {
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            dial = dials.recv(), if tasks.len() < MAX_DIALS => {
                let Some((target, kind)) = dial else { return };
                if inner.standing.is_silent() {
                    inner.overlay.dial_failed(&target);
                    continue;
                }
                match under_way.lock().unwrap_or_else(PoisonError::into_inner).entry(target.addrs.clone()) {
                    Entry::Vacant(free) => drop(free.insert(false)),
                    Entry::Occupied(mut again) => {
                        // The same addresses are being tried; the end of that is reported to the overlay.
                        *again.get_mut() = true;
                        continue;
                    }
                }
                let (inner, under_way, timed_out) = (inner.clone(), under_way.clone(), timed_out.clone());
                tasks.spawn(async move {
                    let dialled = loop {
                        let patient = is_patient(&timed_out, &target);
                        let dialled = dial_any(&inner, &target, kind, patient).await;
                        count(&timed_out, &target, &dialled);
                        let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
                        match under_way.get_mut(&target.addrs) {
                            Some(again @ true) if matches!(dialled, Err(ConnectError::TimedOut)) => *again = false,
                            _ => {
                                under_way.remove(&target.addrs);
                                break dialled;
                            }
                        }
                    };
                    match dialled {
                        Ok(link) => run_link(inner, link),
                        Err(error) => {
                            tracing::debug!(addrs = ?target.addrs, %error, "a dial failed");
                            inner.note_dial_error(&target, &error);
                            inner.overlay.dial_failed(&target);
                        }
                    }
                });
            }
        }
    }
}

/// Whether this try may take long.
fn is_patient(timed_out: &Mutex<HashMap<Vec<SocketAddr>, u32>>, target: &DialTarget) -> bool {
    let tries = timed_out.lock().unwrap_or_else(PoisonError::into_inner).get(&target.addrs).copied();
    tries.is_some_and(|tries| tries % PATIENT_EVERY == PATIENT_EVERY - 1)
}

/// Counts tries in a row that timed out.
fn count(
    timed_out: &Mutex<HashMap<Vec<SocketAddr>, u32>>,
    target: &DialTarget,
    dialled: &Result<Link, ConnectError>,
) {
    let mut timed_out = timed_out.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(dialled, Err(ConnectError::TimedOut)) {
        timed_out.remove(&target.addrs);
    } else if timed_out.len() < MAX_COUNTED || timed_out.contains_key(&target.addrs) {
        let tries = timed_out.entry(target.addrs.clone()).or_default();
        *tries = tries.wrapping_add(1);
    }
}

/// Tries the addresses of a target, staggered; the first that answers wins.
async fn dial_any(
    inner: &Arc<Inner>,
    target: &DialTarget,
    kind: LinkKind,
    patient: bool,
) -> Result<Link, ConnectError> {
    let limit = if patient { LINK_TIMEOUT } else { ATTEMPT };
    let expect = || target.node.map_or(tls::Expect::AnyMember, tls::Expect::Node);
    let mut attempts = JoinSet::new();
    for (place, addr) in target.addrs.iter().copied().enumerate() {
        let (inner, expect) = (inner.clone(), expect());
        attempts.spawn(async move {
            tokio::time::sleep(STAGGER * u32::try_from(place).unwrap_or(u32::MAX)).await;
            tokio::time::timeout(limit, inner.endpoints.dial(addr, expect, kind))
                .await
                .unwrap_or(Err(ConnectError::TimedOut))
                .inspect_err(|error| {
                    if error.says_revoked() {
                        inner.doubts.note(addr);
                    }
                })
        });
    }
    let mut failure = ConnectError::TimedOut;
    while let Some(joined) = attempts.join_next().await {
        match joined {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

/// Accepts links and joins.
pub(crate) async fn run_accepts(inner: Arc<Inner>) {
    let mut tasks = JoinSet::new();
    let mut sources: HashMap<Source, usize> = HashMap::new();
    // Whose a task is, also of one that panicked.
    let mut of_tasks: HashMap<tokio::task::Id, Source> = HashMap::new();
    loop {
        tokio::select! {
            Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                let Some(source) = of_tasks.remove(&task) else { continue };
                if let Entry::Occupied(mut open) = sources.entry(source) {
                    *open.get_mut() -= 1;
                    if *open.get() == 0 {
                        open.remove();
                    }
                }
            }
            incoming = inner.endpoints.next_incoming() => {
                let Some(incoming) = incoming else { return };
                let source = Source::of(incoming.remote_address().ip());
                let open = sources.get(&source).copied().unwrap_or(0);
                if tasks.len() >= MAX_ACCEPTS || open >= MAX_ACCEPTS_OF_ONE {
                    incoming.refuse();
                    continue;
                }
                sources.insert(source, open + 1);
                let inner = inner.clone();
                let task = tasks.spawn(async move {
                    let from = incoming.remote_address();
                    match inner.endpoints.accept(incoming).await {
                        // A link that nobody claims ends by itself.
                        Ok(Accepted::Link(_)) if inner.standing.is_silent() => {}
                        Ok(Accepted::Link(link)) => run_link(inner, *link),
                        Ok(Accepted::Join(connection)) => inner.admission.serve(connection, &inner).await,
                        Ok(_) => {}
                        Err(error) => {
                            tracing::debug!(%from, %error, "a link was not accepted");
                            if error.says_revoked() {
                                inner.doubts.note_stranger(from);
                            }
                        }
                    }
                });
                of_tasks.insert(task.id(), source);
            }
        }
    }
}

/// Hands a new link to the overlay and serves it until its connection ends.
pub(super) fn run_link(inner: Arc<Inner>, link: Link) {
    let (handle, messages) = inner.overlay.link_up(&link);
    tracing::info!(peer = %link.member.name, addr = %link.hop.remote(), kind = ?link.kind, "link up");
    inner.observed(link.member.node_id, link.observed);
    let (id, kind) = (link.hop.id(), link.kind);
    let (sender, receiver) = link.claim();
    let tasks = inner.clone();
    tasks.spawn(async move {
        let connection = handle.hop.connection().clone();
        let end = tokio::select! {
            end = connection.closed() => end,
            () = write_control(sender, messages) => connection.closed().await,
            () = read_control(&inner, id, receiver) => connection.closed().await,
            () = refresh(&inner, id) => connection.closed().await,
            () = sets::exchange(&inner, id, &connection), if kind == LinkKind::Routing => connection.closed().await,
            () = link_streams::run(&inner, &connection, &handle.member, kind) => connection.closed().await,
        };
        tracing::info!(peer = %handle.member.name, %end, "link down");
        inner.doubts.closed(handle.hop.remote(), &end);
        inner.overlay.link_down(id, reason(&end));
        inner.unlinked(&handle.member.node_id);
    });
}

/// What the end of a link's connection means to the overlay.
fn reason(end: &ConnectionError) -> LinkDownReason {
    match end {
        ConnectionError::ApplicationClosed(close) => CloseReason::heard(VarInt::into_inner(close.error_code)),
        ConnectionError::LocallyClosed => LinkDownReason::Local,
        ConnectionError::TimedOut => LinkDownReason::TimedOut,
        _ => LinkDownReason::Closed,
    }
}

/// Ends when the stream does; the connection's end is what counts.
async fn write_control(mut sender: ControlSender, mut messages: ControlMessages) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = sender.send(&message).await {
            tracing::debug!(%error, "control stream");
            return;
        }
    }
    // The overlay has forgotten the link and closes its connection.
    std::future::pending::<()>().await;
}

async fn read_control(inner: &Inner, id: LinkId, mut receiver: ControlReceiver) {
    loop {
        let message = match receiver.receive().await {
            Ok(message) => message,
            // How the connection ended says more than that its stream did.
            Err(error) if error.link_ended() => return,
            Err(error) => {
                tracing::debug!(%error, "control stream");
                return inner.overlay.close_link(id, CLOSE_CONTROL, "the control stream broke");
            }
        };
        let handled = inner.overlay.input(|core, now| core.handle_control(now, id, &message));
        if let Err(error) = handled {
            if is_newer(&error) {
                // No misdeed: it would be quarantined for an update.
                return inner.overlay.close_link(id, CLOSE_CONTROL, NEWER_CONTROL);
            }
            tracing::warn!(%error, "a neighbour misbehaves");
            if let Some(link) = inner.overlay.link(id) {
                policy::report(inner, link.member.node_id, Evidence::Malformed);
            }
            return inner.overlay.close_link(id, CLOSE_CONTROL, "control message refused");
        }
        // A neighbour that sends without end must not keep the node from its probes.
        tokio::task::yield_now().await;
    }
}

/// What both sides hear of control messages that this node is too old for.
const NEWER_CONTROL: &str = "control messages of a newer version: update the node that closes this link";

/// Whether a control message is of a later version than this node's, which is 1; there never was a version 0.
fn is_newer(error: &ControlError) -> bool {
    let (ControlError::UnknownVersion(found) | ControlError::Record(RecordError::UnknownVersion(found))) =
        error
    else {
        return false;
    };
    *found > 1
}

async fn refresh(inner: &Inner, id: LinkId) {
    let Some(link) = inner.overlay.link(id) else { return };
    let (mut mtu, mut remote) = (link.hop.mtu(), link.hop.remote());
    let mut check = MtuCheck::new(Instant::now());
    for round in 0_u32.. {
        tokio::time::sleep(if round < EARLY_REFRESHES { EARLY_REFRESH } else { REFRESH }).await;
        let found = link.hop.refresh();
        if found != mtu {
            if found < mtu {
                tracing::warn!(peer = %link.member.name, from = mtu, to = found, "the path takes smaller packets now");
            }
            mtu = found;
            inner.overlay.input(|core, now| core.link_mtu(now, id, found));
        }
        let moved = link.hop.remote();
        if moved != remote {
            remote = moved;
            inner.overlay.input(|core, now| core.link_moved(now, id, moved));
        }
        let busy = link.hop.take_busy();
        check.run(Instant::now(), &link.hop, busy);
        if busy {
            inner.overlay.input(|core, now| core.note_traffic(now, id));
        }
    }
}

/// Close code of a link whose control messages are wrong. Above the overlay's own codes.
const CLOSE_CONTROL: u32 = 0x101;
