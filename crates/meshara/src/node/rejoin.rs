//! The way back into the mesh without a link: over the channel that newcomers use. For a node whose certificate ended while it slept, and for one
//! that knows none of the issuers of today's certificates.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use meshara_identity::{Member, MeshInfoError, UnixMillis};
use meshara_overlay::{LinkKind, Phase};
use meshara_transport::{quic, tls};
use quinn::{ClientConfig, Endpoint};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::renewal::{self, RenewalError};
use super::standing::{self, AdoptError};
use super::trust::visit::{self, VISIT, VisitError};
use super::{Inner, JOIN_VERSION, renewal::request};
use crate::join::{Meeting, MemberError, ask, endpoint, meet};

/// One attempt with one member: its issuer may be several hops away and write to disk.
const ATTEMPT: Duration = Duration::from_secs(9);
/// Members tried at once: some addresses are of nodes that have gone.
const AT_ONCE: usize = 4;
/// Addresses tried in a round, of those known.
const MAX_ADDRESSES: usize = 64;
/// A node without any link for so long asks whether the mesh has other issuers by now.
const STRANDED: Duration = Duration::from_secs(10);
/// Between looks whether it is, and between asking, at first. That doubles up to [`MAX_WAIT`].
const WAIT: Duration = Duration::from_secs(5);
/// A node whose mesh is simply off asks this rarely.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Why there was no way back.
#[derive(Debug, thiserror::Error)]
pub(super) enum RejoinError {
    #[error("no address of another member is known")]
    NoAddress,
    #[error("no socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error(transparent)]
    Meeting(#[from] MemberError),
    #[error("{0}: {1}")]
    NotMember(SocketAddr, MeshInfoError),
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error("{0}: no answer")]
    Silent(SocketAddr),
}

/// Gets another certificate by the node key, from whichever member answers first.
pub(super) async fn renew(inner: &Arc<Inner>) -> Result<Member, RejoinError> {
    // A node that issues needs nobody else, as long as its issuer works.
    if inner.standing.issuer().is_some() {
        let client = request(inner).await?;
        if let Some(Ok(member)) = renewal::of_itself(inner, &client, UnixMillis::now()).await {
            return Ok(member);
        }
    }
    any(inner, None, JOIN_VERSION, certificate).await
}

/// Asks through a member that was met and checked.
async fn certificate(inner: Arc<Inner>, meeting: Meeting) -> Result<Member, RejoinError> {
    let client = request(&inner).await?;
    let to = meeting.to;
    let reply = ask(meeting, client.request()).await?;
    Ok(renewal::taken(&inner, &client, &reply, &to.to_string()).await?)
}

/// Wants nothing but the grants, which are learnt from each meeting.
async fn nothing(_: Arc<Inner>, _: Meeting) -> Result<(), RejoinError> {
    Ok(())
}

/// Asks members for revocations that this node missed: first the one at `first`, then at all known addresses, until one knows something new.
pub(super) async fn visit(inner: &Arc<Inner>, first: Option<SocketAddr>) -> Result<(), RejoinError> {
    let pay = |inner: Arc<Inner>, meeting| async move { Ok(visit::pay(&inner, meeting).await?) };
    any(inner, first, VISIT, pay).await
}

/// Learns whose certificates count now, whenever no link has stood for a while. For ever.
pub(super) async fn watch(inner: Arc<Inner>) {
    let (mut since, mut next, mut wait) = (Instant::now(), Instant::now(), WAIT);
    loop {
        tokio::time::sleep(WAIT).await;
        let linked = inner.overlay.view(|core| {
            core.neighbours().any(|link| link.kind == LinkKind::Routing && link.phase != Phase::Init)
        });
        if linked || inner.standing.is_silent() {
            (since, wait) = (Instant::now(), WAIT);
            continue;
        }
        if since.elapsed() < STRANDED || Instant::now() < next {
            continue;
        }
        match any(&inner, None, JOIN_VERSION, nothing).await {
            Ok(()) => wait = WAIT,
            Err(error) => {
                tracing::debug!(%error, "no member tells whose certificates count now");
                wait = (wait * 2).min(MAX_WAIT);
            }
        }
        // Its only neighbours may be reinstated since, and it still refuses them.
        if let Err(error) = visit(&inner, None).await {
            tracing::debug!(%error, "no member knows of newer revocations");
        }
        next = Instant::now() + wait;
    }
}

/// Meets members at all known addresses, at `first` first, a few at once, learns their grants, and does `then` with the first for which it succeeds.
async fn any<T, F>(
    inner: &Arc<Inner>,
    first: Option<SocketAddr>,
    exchange: u8,
    then: impl Fn(Arc<Inner>, Meeting) -> F,
) -> Result<T, RejoinError>
where
    F: Future<Output = Result<T, RejoinError>>,
{
    let addrs = addresses(inner, first);
    let mut rest = addrs.into_iter();
    let endpoint = endpoint()?;
    let mut config = tls::join_client_config()?;
    config.transport_config(Arc::new(quic::link_transport()));
    let mut meetings = JoinSet::new();
    let spawn = |meetings: &mut JoinSet<_>, to| {
        meetings.spawn(meet_in_time(endpoint.clone(), config.clone(), to, exchange));
    };
    rest.by_ref().take(AT_ONCE).for_each(|to| spawn(&mut meetings, to));
    let mut last = RejoinError::NoAddress;
    while let Some(met) = meetings.join_next().await {
        if let Some(to) = rest.next() {
            spawn(&mut meetings, to);
        }
        let Ok(met) = met else { continue };
        let done = async {
            let meeting = met?;
            let to = meeting.to;
            check(inner, &meeting).await?;
            let limited = tokio::time::timeout(ATTEMPT, then(inner.clone(), meeting));
            limited.await.unwrap_or(Err(RejoinError::Silent(to)))
        };
        match done.await {
            Ok(done) => {
                endpoint.close(0_u32.into(), b"thanks");
                return Ok(done);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn meet_in_time(
    endpoint: Endpoint,
    config: ClientConfig,
    to: SocketAddr,
    exchange: u8,
) -> Result<Meeting, RejoinError> {
    let met = tokio::time::timeout(ATTEMPT, meet(&endpoint, config, to, exchange)).await;
    Ok(met.map_err(|_| RejoinError::Silent(to))??)
}

/// Checks that a member of this mesh was met, and learns the grants that it knows. They are the root's, whoever tells them.
async fn check(inner: &Arc<Inner>, meeting: &Meeting) -> Result<(), RejoinError> {
    let (held, now) = (inner.standing.anchors(), UnixMillis::now());
    let learnt = meeting
        .info
        .learn(&held, &meeting.leaf, now)
        .map_err(|error| RejoinError::NotMember(meeting.to, error))?;
    if let Some(anchors) = learnt
        && standing::learn_of(inner, &anchors).await?
    {
        tracing::info!(member = %meeting.to, "other nodes issue than before");
        inner.overlay.input(|core, now| core.network_changed(now));
    }
    Ok(())
}

/// Where other members may be: where they were heard last, what is configured, what earlier lives remember.
fn addresses(inner: &Inner, first: Option<SocketAddr>) -> Vec<SocketAddr> {
    let me = inner.member.node_id;
    let mut known: Vec<SocketAddr> = {
        let configured = inner.configured.lock().unwrap_or_else(PoisonError::into_inner);
        first.into_iter().chain(configured.iter().flat_map(|peer| peer.addrs.iter().copied())).collect()
    };
    inner.overlay.view(|core| {
        known.extend(core.lost_neighbours().filter_map(|lost| lost.addr));
        let others = core.nodes().filter(|node| node.node != me);
        known.extend(others.take(MAX_ADDRESSES).flat_map(|node| node.addresses));
    });
    known.extend(inner.remembered.iter().copied());
    let mut seen = BTreeSet::new();
    known.retain(|addr| seen.insert(*addr));
    known.truncate(MAX_ADDRESSES);
    known
}
