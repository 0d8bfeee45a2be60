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
use tokio::sync::Mutex;
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
/// The next member that was met is asked when the one before has not done what is wanted for so long; one after the other, as an issuer makes a
/// certificate for each. So one that says nothing delays the others by this much: what each issuer gets of a renewal, too.
const PATIENCE: Duration = Duration::from_secs(2);
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
    then: impl Fn(Arc<Inner>, Meeting) -> F + Clone + Send + Sync + 'static,
) -> Result<T, RejoinError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RejoinError>> + Send,
{
    let addrs = addresses(inner, first);
    let mut rest = addrs.into_iter();
    let endpoint = endpoint()?;
    let mut config = tls::join_client_config()?;
    config.transport_config(Arc::new(quic::link_transport()));
    let turn = Arc::new(Mutex::new(()));
    let mut attempts = JoinSet::new();
    let spawn = |attempts: &mut JoinSet<_>, to| {
        let (inner, turn, then) = (inner.clone(), turn.clone(), then.clone());
        let (endpoint, config) = (endpoint.clone(), config.clone());
        attempts.spawn(async move {
            let meeting = meet_in_time(endpoint, config, to, exchange).await?;
            check(&inner, &meeting).await?;
            let _mine = tokio::time::timeout(PATIENCE, turn.lock()).await;
            let limited = tokio::time::timeout(ATTEMPT, then(inner.clone(), meeting));
            limited.await.unwrap_or(Err(RejoinError::Silent(to)))
        });
    };
    rest.by_ref().take(AT_ONCE).for_each(|to| spawn(&mut attempts, to));
    let mut last = RejoinError::NoAddress;
    while let Some(done) = attempts.join_next().await {
        match done {
            Ok(Ok(done)) => {
                endpoint.close(0_u32.into(), b"thanks");
                return Ok(done);
            }
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if let Some(to) = rest.next() {
            spawn(&mut attempts, to);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Control;
    use crate::config::Config;
    use crate::{JoinOptions, Node, create_mesh, join};

    async fn build(home: &std::path::Path) -> Node {
        let listen = Some((std::net::Ipv4Addr::LOCALHOST, 0).into());
        let config = Config { listen, multicast: false, direct: false, ..Config::default() };
        Node::builder().home(home).config(config).build().await.unwrap()
    }

    #[tokio::test]
    async fn a_member_that_answers_and_then_says_nothing_delays_the_others_by_two_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("alice");
        create_mesh(&home, &"test".parse().unwrap(), &"alice".parse().unwrap(), None, UnixMillis::now())
            .unwrap();
        let alice = build(&home).await;
        let mut nodes = Vec::new();
        for name in ["bob", "carol"] {
            let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
            let home = dir.path().join(name);
            join(JoinOptions::new(home.clone(), ticket, name.parse().unwrap())).await.unwrap();
            nodes.push(build(&home).await);
        }
        let [bob, carol] = <[Node; 2]>::try_from(nodes).unwrap();
        let (silent, other) = (alice.local_addr(), carol.local_addr());
        let soon = Instant::now() + Duration::from_secs(60);
        while ![silent, other].iter().all(|addr| addresses(&bob.inner, None).contains(addr)) {
            assert!(Instant::now() < soon, "{:?}", addresses(&bob.inner, None));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let turns = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = turns.clone();
        let began = Instant::now();
        // Whoever is asked first says nothing more.
        let asked = any(&bob.inner, Some(silent), VISIT, move |_, meeting: Meeting| {
            let seen = seen.clone();
            async move {
                let place = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((meeting.to, began.elapsed()));
                    seen.len()
                };
                if place == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(meeting.to)
            }
        });
        let answered = tokio::time::timeout(ATTEMPT - Duration::from_secs(2), asked).await.unwrap().unwrap();
        let turns = turns.lock().unwrap().clone();
        assert!(turns.len() >= 2 && turns[0].0 != answered, "{turns:?}");
        assert!(turns[1].1 >= PATIENCE, "one after the other: {turns:?}");
        for node in [carol, bob, alice] {
            node.shutdown().await;
        }
    }
}
