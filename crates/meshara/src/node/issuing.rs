//! Makes members issuers: the holder of the root offers, the member makes its CA key, the root signs. And what an issuer asks the rest of the
//! node before it gives anything out.

mod rates;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use meshara_identity::grant::{GRANT_MAX, OFFER_MAX};
use meshara_identity::home::HomeError;
use meshara_identity::issuer::{Asking, Gate};
use meshara_identity::{
    FileError, GrantOffer, IssueError, Issuer, IssuerGrant, IssuerKey, NodeId, Refusal, TrustError,
    UnixMillis, WireError,
};
use quinn::{RecvStream, SendStream};

use self::rates::Rates;
use super::sessions::SessionError;
use super::standing::{self, AdoptError};
use super::streams::Opening;
use super::trust::log;
use super::{Inner, Session};
use crate::frames::{FrameReadError, read_frame, write_frame};

/// Each step takes a key, a signature or some files, and a round trip.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// The last one takes some more: store, log and membership are written and synced, on a disk that may be busy.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer: a CA certificate, or a sentence.
const ANSWER_MAX: usize = GRANT_MAX;
/// First byte of the answer to a grant.
const TAKEN: u8 = 0;
const REFUSED: u8 = 1;
/// An offer's beginning may lie this far from this node's clock: as far as clocks may differ, twice.
const OFFER_SKEW: Duration = Duration::from_secs(20 * 60);

/// Why a member was not made an issuer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// This node can't sign grants.
    #[error("this node does not hold the mesh root")]
    NoRoot,
    /// The founder's key doesn't sign for the mesh alone any more.
    #[error(
        "the root document demands other signers than the founder's key, and grants can only be signed by that"
    )]
    RootIsShared,
    #[error(transparent)]
    Home(HomeError),
    #[error("it issues already")]
    IssuesAlready,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Read(#[from] FrameReadError),
    #[error("no answer in time")]
    TimedOut,
    #[error("what it sent does not read: {0}")]
    Wire(#[from] WireError),
    #[error("the CA certificate that it made is not the one that was offered")]
    WrongCertificate,
    #[error("it refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error("the offer is not for this node and time")]
    WrongOffer,
    #[error("the grant is not for the key that was made here")]
    WrongGrant,
    #[error("another offer is under way")]
    Busy,
    #[error(transparent)]
    Log(#[from] log::OpenError),
    #[error("its log was begun for an offer that came to nothing: restart that node, then try again")]
    Restart,
    #[error("the runtime is stopping")]
    Interrupted,
}

impl From<HomeError> for GrantError {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::File(FileError::Missing { .. }) => Self::NoRoot,
            other => Self::Home(other),
        }
    }
}

/// What an issuer of this node asks before each certificate.
#[derive(Debug)]
struct NodeGate {
    inner: Weak<Inner>,
    rates: Mutex<Rates>,
}

impl Gate for NodeGate {
    fn admit(&self, asking: &Asking<'_>) -> Result<(), Refusal> {
        let Asking { node, name, enrolled, known, now } = *asking;
        let inner = self.inner.upgrade().ok_or(Refusal::Internal)?;
        if inner.endpoints.tls().revoked().contains(node) {
            return Err(Refusal::Revoked);
        }
        // Whom this issuer enrolled it renews, whatever other logs say: anybody's entry must not silence anybody. Two nodes with one name are
        // found and named by whoever meets both.
        if known {
            return Ok(());
        }
        // Another issuer may have given the name away, before this node got it.
        if inner.logs.names.taken(name, node, enrolled, now) {
            return Err(Refusal::NameTaken { name: name.clone() });
        }
        // A newcomer gets no name that a node goes by.
        let taken = enrolled.is_none()
            && inner.overlay.view(|core| {
                core.nodes().any(|other| other.node != *node && other.name.as_deref() == Some(name.as_str()))
            });
        if taken { Err(Refusal::NameTaken { name: name.clone() }) } else { Ok(()) }
    }

    fn count(&self, node: &NodeId, now: UnixMillis) -> Result<(), Refusal> {
        let inner = self.inner.upgrade().ok_or(Refusal::Internal)?;
        let life = inner.standing.issuer().map_or(Duration::ZERO, |issuer| issuer.leaf_life(now));
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.take(*node, life, Instant::now()) { Ok(()) } else { Err(Refusal::TooOften) }
    }

    fn distrusts(&self, issuer: &NodeId) -> bool {
        self.inner.upgrade().is_some_and(|inner| inner.endpoints.tls().revoked().contains(issuer))
    }
}

/// Makes an issuer ask this node. To be called before it answers anybody.
pub(super) fn guard(inner: &Arc<Inner>, issuer: &Issuer) {
    issuer.guard_with(Arc::new(NodeGate { inner: Arc::downgrade(inner), rates: Mutex::default() }));
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, GrantError>
where
    GrantError: From<E>,
{
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| GrantError::Interrupted)??)
}

async fn in_time<T, E>(step: impl Future<Output = Result<T, E>>) -> Result<T, GrantError>
where
    GrantError: From<E>,
{
    Ok(tokio::time::timeout(STEP_TIMEOUT, step).await.map_err(|_| GrantError::TimedOut)??)
}

/// Makes another member an issuer; its grant. On the node that holds the root.
pub(super) async fn add(inner: &Arc<Inner>, node: NodeId) -> Result<IssuerGrant, GrantError> {
    let task = inner.clone();
    let root = blocking(move || task.standing.root()).await?;
    if !inner.sets.is_sole_root(root.public()) {
        return Err(GrantError::RootIsShared);
    }
    let (anchors, now) = (inner.standing.anchors(), UnixMillis::now());
    if anchors.issuers(now).contains(&node) {
        return Err(GrantError::IssuesAlready);
    }
    let of_node = anchors.grants().iter().filter(|grant| grant.statement.issuer == node);
    let number = of_node.map(|grant| grant.statement.number).max().unwrap_or(0).saturating_add(1);
    // All issuers of a mesh make things last as long: as the oldest grant that holds says.
    let lives = anchors.grants().iter().find(|grant| grant.statement.holds_at(now));
    let lives = lives.map(|grant| grant.statement.lives).unwrap_or_default();
    let offer = GrantOffer::new(anchors.mesh().clone(), node, number, lives, now);

    let (mut send, mut receive) = in_time(inner.sessions.open_stream(node, &Opening::Grant)).await?;
    in_time(write_frame(&mut send, &offer.encode()?)).await?;
    let ca_der = in_time(read_frame(&mut receive, ANSWER_MAX)).await?;
    let signed = tokio::task::spawn_blocking(move || offer.sign(ca_der, &root)).await;
    let grant = signed.map_err(|_| GrantError::Interrupted)?.map_err(|_| GrantError::WrongCertificate)?;
    in_time(write_frame(&mut send, &grant.encode()?)).await?;
    let _ = send.finish();
    let answer = tokio::time::timeout(BEGIN_TIMEOUT, read_frame(&mut receive, ANSWER_MAX)).await;
    let answer = answer.map_err(|_| GrantError::TimedOut)??;
    match answer.split_first() {
        Some((&TAKEN, [])) => {}
        Some((&REFUSED, why)) => {
            let why: String = String::from_utf8_lossy(why).chars().filter(|c| !c.is_control()).collect();
            return Err(GrantError::Refused(why));
        }
        _ => return Err(WireError::Malformed.into()),
    }
    standing::learn(inner, std::slice::from_ref(&grant)).await?;
    Ok(grant)
}

/// Serves an offer: makes a CA key, gets its certificate signed by the root, and issues from then on. Nobody but the root can end it well.
pub(super) async fn serve(
    inner: &Arc<Inner>,
    session: &Session,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let served = accept(inner, &mut send, &mut receive).await;
    let answer = match &served {
        Ok(()) => vec![TAKEN],
        Err(error) => {
            tracing::warn!(from = %session.member.name, %error, "this node was offered to issue, and does not");
            [&[REFUSED], error.to_string().as_bytes()].concat()
        }
    };
    if in_time(write_frame(&mut send, &answer)).await.is_ok() && send.finish().is_ok() {
        let _ = tokio::time::timeout(STEP_TIMEOUT, send.stopped()).await;
    }
}

async fn accept(
    inner: &Arc<Inner>,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), GrantError> {
    let _alone = inner.granting.try_lock().map_err(|_| GrantError::Busy)?;
    if inner.standing.issuer().is_some() {
        return Err(GrantError::IssuesAlready);
    }
    if inner.logs.own().is_some() {
        return Err(GrantError::Restart);
    }
    let offer = GrantOffer::decode(&in_time(read_frame(receive, OFFER_MAX)).await?)?;
    let (held, now) = (inner.standing.anchors(), UnixMillis::now());
    let ours = offer.issuer == inner.member.node_id
        && offer.mesh == *held.mesh()
        && offer.not_before.distance(now) < OFFER_SKEW
        && offer.not_after > now;
    if !ours {
        return Err(GrantError::WrongOffer);
    }
    let made = tokio::task::spawn_blocking(move || {
        let key = IssuerKey::generate()?;
        let ca_der = key.ca_certificate(&offer)?;
        Ok::<_, IssueError>((key, ca_der))
    });
    let (key, ca_der) =
        made.await.map_err(|_| GrantError::Interrupted)?.map_err(|_| GrantError::WrongCertificate)?;
    in_time(write_frame(send, &ca_der)).await?;
    let grant = IssuerGrant::decode(&in_time(read_frame(receive, GRANT_MAX)).await?)?;
    if grant.statement.ca_der != ca_der {
        return Err(GrantError::WrongGrant);
    }
    // Only here is the root's signature checked.
    let anchors = held.merged(std::slice::from_ref(&grant), now)?.ok_or(GrantError::WrongGrant)?;
    let (task, taken) = (inner.clone(), grant.clone());
    let issuer = blocking(move || task.standing.become_issuer(key, taken, anchors)).await?;
    let issuer = Arc::new(issuer);
    guard(inner, &issuer);
    // Before anybody hears of the grant: what fails here leaves nothing, and the next offer begins anew.
    log::begin(inner, &issuer).await?;
    standing::learn(inner, std::slice::from_ref(&grant)).await?;
    // Grants that came meanwhile.
    if let Err(error) = issuer.set_anchors(inner.standing.anchors()) {
        tracing::error!(%error, "this node's issuer doesn't fit the mesh's grants");
    }
    inner.standing.issues(issuer);
    tracing::info!(number = grant.statement.number, "this node issues from now on");
    Ok(())
}
