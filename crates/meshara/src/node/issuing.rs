//! Makes members issuers: a node offers, the member makes its CA key, the root signs: at once where the root's keys are, else by file, and
//! the member begins when the grant reaches it. And what an issuer asks the rest of the node before it gives anything out.

mod offers;
mod rates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use meshara_identity::grant::{GRANT_LIFE, GRANT_MAX, GrantStatement, OFFER_MAX};
use meshara_identity::home::HomeError;
use meshara_identity::issuer::{Asking, Gate, RoleChange};
use meshara_identity::{
    FileError, GrantOffer, Issuer, IssuerGrant, IssuerKey, MeshId, NodeId, Refusal, RootKey, TrustAnchors,
    TrustError, UnixMillis, WireError,
};
use meshara_trust::root::StatementFile;
use meshara_trust::sets::{Approvals, KeyId, Quorum};
use quinn::{ReadExactError, RecvStream, SendStream};

pub(super) use self::offers::Granting;
use self::rates::Rates;
use super::sessions::SessionError;
use super::standing::{self, AdoptError};
use super::streams::Opening;
use super::trust::log;
use super::trust::root::signing::{self, JournalFile, SigningError};
use super::trust::sets::PublishError;
use super::{Inner, Session};
use crate::frames::{FrameReadError, read_frame, write_frame};

/// Each step takes a key, a signature or some files, and a round trip.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// The last one takes some more: store, log and membership are written and synced, on a disk that may be busy.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer: a CA certificate, or a sentence.
const ANSWER_MAX: usize = GRANT_MAX;
/// Before a grant that could not be taken up is tried again: the disk may have been full.
const TAKE_UP_AGAIN: Duration = Duration::from_secs(30);
/// An issuer whose grant ends within this gets another when it is added again: a third of what a grant lasts.
const GRANT_ENDS: Duration = Duration::from_secs(GRANT_LIFE.as_secs() / 3);
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
    /// The keys in this home aren't enough.
    #[error("{needed} of the root's signers must sign the grant, and this node holds the keys of {held}")]
    NeedsSigners {
        /// How many must sign.
        needed: usize,
        /// Of how many distinct signers this home has keys.
        held: usize,
    },
    /// It could not be signed, or nobody's signature counts.
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Signing(#[from] SigningError),
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
    #[error("it made several offers within the last minute that came to nothing: try again in a minute")]
    OfferedLately,
    #[error(transparent)]
    Log(#[from] log::OpenError),
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

impl NodeGate {
    /// How long a certificate of now lives.
    fn life(&self, now: UnixMillis) -> Duration {
        let issuer = self.inner.upgrade().and_then(|inner| inner.standing.issuer());
        issuer.map_or(Duration::ZERO, |issuer| issuer.leaf_life(now))
    }
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
        if inner.logs.names.taken(name, node, enrolled, &inner.counted_logs(), now) {
            return Err(Refusal::NameTaken { name: name.clone() });
        }
        // A newcomer gets no name that a node goes by.
        let taken = enrolled.is_none()
            && inner.overlay.view(|core| {
                core.nodes().any(|other| other.node != *node && other.name.as_deref() == Some(name.as_str()))
            });
        if taken { Err(Refusal::NameTaken { name: name.clone() }) } else { Ok(()) }
    }

    fn spent(&self, node: &NodeId, now: UnixMillis) -> bool {
        let life = self.life(now);
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.spent(node, life, Instant::now())
    }

    fn count(&self, node: &NodeId, now: UnixMillis) -> Result<(), Refusal> {
        let life = self.life(now);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.take(*node, life, Instant::now()) { Ok(()) } else { Err(Refusal::TooOften) }
    }

    fn roles(&self, node: &NodeId, now: UnixMillis) -> Option<RoleChange> {
        let inner = self.inner.upgrade()?;
        inner.logs.names.roles(node, &inner.counted_logs(), now)
    }

    fn distrusts(&self, issuer: &NodeId) -> bool {
        self.inner.upgrade().is_some_and(|inner| inner.endpoints.tls().revoked().contains(issuer))
    }
}

impl Inner {
    /// The issuers whose logs say whose names are, and who has which roles.
    fn counted_logs(&self) -> BTreeMap<NodeId, log::Granted> {
        let revoked = self.endpoints.tls().revoked();
        log::counted(&self.standing.anchors(), |issuer| revoked.contains(issuer))
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

/// What became of the wish that a member issues.
pub(super) enum Added {
    /// It does.
    Granted(IssuerGrant),
    /// It will, when the root's signers have signed this.
    Proposed(StatementFile, GrantStatement),
}

/// Who signs a grant here.
enum Signs {
    /// The founder's key, which is root alone.
    Founder(Box<RootKey>),
    /// Keys of this home, which are enough.
    Keys(MeshId, Quorum),
    /// Nobody yet: a statement is written.
    Others(MeshId),
}

/// Makes another member an issuer. With `propose` nothing is signed here.
pub(super) async fn add(inner: &Arc<Inner>, node: NodeId, propose: bool) -> Result<Added, GrantError> {
    let (anchors, now) = (inner.standing.anchors(), UnixMillis::now());
    if goes_on(&anchors, &node, now) {
        return Err(GrantError::IssuesAlready);
    }
    let signs = signs(inner, propose).await?;
    let number = match &signs {
        Signs::Founder(_) => {
            let of_node = anchors.grants().iter().filter(|grant| grant.statement.issuer == node);
            of_node.map(|grant| grant.statement.number).max().unwrap_or(0).saturating_add(1)
        }
        // Of several signers no key signs two contents of one number, whoever the issuer is.
        Signs::Keys(..) | Signs::Others(_) => next_number(inner, &anchors).await?,
    };
    // All issuers of a mesh make things last as long: as the oldest grant that holds says.
    let lives = anchors.in_force().find(|grant| grant.statement.holds_at(now));
    let lives = lives.map(|grant| grant.statement.lives).unwrap_or_default();
    make(inner, signs, GrantOffer::new(anchors.mesh().clone(), node, number, lives, now)).await
}

/// Offers it to the node that it is for, which makes or keeps its CA key, and grants it.
async fn make(inner: &Arc<Inner>, signs: Signs, offer: GrantOffer) -> Result<Added, GrantError> {
    let node = offer.issuer;
    let (mut send, mut receive) = in_time(inner.sessions.open_stream(node, &Opening::Grant)).await?;
    in_time(write_frame(&mut send, &offer.encode()?)).await?;
    let ca_der = in_time(read_frame(&mut receive, ANSWER_MAX)).await?;
    if let Signs::Others(mesh_id) = signs {
        let _ = send.finish();
        let statement = offer.statement(ca_der, Some(mesh_id)).map_err(|_| GrantError::WrongCertificate)?;
        return Ok(Added::Proposed(StatementFile::grant(&statement)?, statement));
    }
    let task = inner.clone();
    let grant = blocking(move || sign(&task, &signs, &offer, ca_der)).await?;
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
    Ok(Added::Granted(grant))
}

/// Who is to sign a grant, and whether this home can.
async fn signs(inner: &Arc<Inner>, propose: bool) -> Result<Signs, GrantError> {
    let document = inner.sets.root_quorum()?;
    if !propose {
        let task = inner.clone();
        match blocking(move || task.standing.root()).await {
            Ok(root) if inner.sets.is_sole_root(root.public()) => return Ok(Signs::Founder(Box::new(root))),
            Ok(_) | Err(GrantError::NoRoot) => {}
            Err(error) => return Err(error),
        }
    }
    let (mesh, quorum) = document.ok_or(GrantError::NoRoot)?;
    if propose {
        return Ok(Signs::Others(mesh));
    }
    if quorum.signers().all(|signer| signer.key.fingerprint() == mesh) {
        // The founder's key is root alone, and elsewhere.
        return Err(GrantError::NoRoot);
    }
    let keys = inner.sets.keys();
    let signers = keys.all().filter_map(|key| quorum.signer_of(&KeyId::of(key.public())));
    let held = signers.map(|signer| signer.name.clone()).collect::<BTreeSet<_>>().len();
    let needed = quorum.threshold();
    if held < needed { Err(GrantError::NeedsSigners { needed, held }) } else { Ok(Signs::Keys(mesh, quorum)) }
}

/// A number above those of all grants, and above what the keys of this home signed: a proposal that was given up leaves a gap.
async fn next_number(inner: &Arc<Inner>, anchors: &TrustAnchors) -> Result<u64, GrantError> {
    let task = inner.clone();
    let signed = blocking(move || {
        let journal = JournalFile::of_home(task.sets.home()).read()?;
        let highest = |key: &RootKey| {
            journal.highest(KeyId::of(key.public()), meshara_identity::root::Purpose::IssuerGrant)
        };
        Ok::<_, SigningError>(task.sets.keys().all().map(highest).max().unwrap_or(0))
    });
    let held = anchors.grants().iter().map(|grant| grant.statement.number).max().unwrap_or(0);
    Ok(signed.await?.max(held).saturating_add(1))
}

/// Signs a grant with the keys of this home. Blocks.
fn sign(
    inner: &Inner,
    signs: &Signs,
    offer: &GrantOffer,
    ca_der: Vec<u8>,
) -> Result<IssuerGrant, GrantError> {
    let (mesh_id, quorum) = match signs {
        Signs::Founder(root) => {
            return offer.sign(ca_der, root).map_err(|_| GrantError::WrongCertificate);
        }
        Signs::Others(_) => return Err(GrantError::NoRoot),
        Signs::Keys(mesh_id, quorum) => (*mesh_id, quorum),
    };
    let statement = offer.statement(ca_der, Some(mesh_id)).map_err(|_| GrantError::WrongCertificate)?;
    let file = StatementFile::grant(&statement)?;
    let journal = JournalFile::of_home(inner.sets.home());
    let mut approvals = Approvals::default();
    for key in inner.sets.keys().all() {
        if quorum.signer_of(&KeyId::of(key.public())).is_some() {
            let signature = signing::sign(&file, key, &journal, false)?;
            file.join(signature, &[quorum], &mut approvals).map_err(PublishError::from)?;
        }
    }
    Ok(IssuerGrant::approved(statement, approvals)?)
}

/// Serves an offer: makes a CA key, gets its certificate signed by the root, and issues from then on. Nobody but the root can end it well.
/// The key is kept: what the root's signers sign later is for it.
pub(super) async fn serve(
    inner: &Arc<Inner>,
    session: &Session,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let served = accept(inner, session.member.node_id, &mut send, &mut receive).await;
    let answer = match &served {
        Ok(true) => vec![TAKEN],
        Ok(false) => {
            tracing::info!(from = %session.member.name, "this node issues when the root's signers have signed its grant");
            return;
        }
        Err(error) => {
            tracing::warn!(from = %session.member.name, %error, "this node was offered to issue, and does not");
            [&[REFUSED], error.to_string().as_bytes()].concat()
        }
    };
    if in_time(write_frame(&mut send, &answer)).await.is_ok() && send.finish().is_ok() {
        let _ = tokio::time::timeout(STEP_TIMEOUT, send.stopped()).await;
    }
}

/// Whether a node issues now, and for so long that it needs no other grant yet.
fn goes_on(anchors: &TrustAnchors, node: &NodeId, now: UnixMillis) -> bool {
    let issues = |at| anchors.issuers(at).contains(node);
    issues(now) && issues(now.plus(GRANT_ENDS))
}

/// Whether this node could be made an issuer now, or get its next grant.
fn may_begin(inner: &Inner) -> Result<(), GrantError> {
    let (anchors, now) = (inner.standing.anchors(), UnixMillis::now());
    if goes_on(&anchors, &inner.member.node_id, now) { Err(GrantError::IssuesAlready) } else { Ok(()) }
}

/// Whether this node issues now; if not, its grant is to be signed elsewhere.
async fn accept(
    inner: &Arc<Inner>,
    from: NodeId,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<bool, GrantError> {
    may_begin(inner)?;
    let offer = GrantOffer::decode(&in_time(read_frame(receive, OFFER_MAX)).await?)?;
    let (held, now) = (inner.standing.anchors(), UnixMillis::now());
    let ours = offer.issuer == inner.member.node_id
        && offer.mesh == *held.mesh()
        && offer.not_before.distance(now) < OFFER_SKEW
        && offer.not_after > now;
    if !ours {
        return Err(GrantError::WrongOffer);
    }
    if !inner.granting.begins(from, Instant::now()) {
        return Err(GrantError::OfferedLately);
    }
    let making = inner.granting.alone.lock().await;
    let task = inner.clone();
    let (made, ca_der) = blocking(move || {
        let (made, ca_der) = match task.standing.held_issuer() {
            Some(issuer) => (Made::Before(issuer.clone()), issuer.ca_certificate(&offer)),
            None => {
                let key = task.standing.pending_issuer()?;
                let ca_der = key.ca_certificate(&offer);
                (Made::New(key), ca_der)
            }
        };
        Ok::<_, GrantError>((made, ca_der.map_err(|_| GrantError::WrongCertificate)?))
    })
    .await?;
    drop(making);
    in_time(write_frame(send, &ca_der)).await?;
    let grant = match in_time(read_frame(receive, GRANT_MAX)).await {
        Ok(bytes) => IssuerGrant::decode(&bytes)?,
        Err(GrantError::Read(FrameReadError::Stream(ReadExactError::FinishedEarly(0)))) => return Ok(false),
        Err(error) => return Err(error),
    };
    if grant.statement.ca_der != ca_der {
        return Err(GrantError::WrongGrant);
    }
    // Only here are the root's signatures checked: whatever came before, any member could send, so it holds up nobody else.
    let anchors = held.merged(std::slice::from_ref(&grant), now)?.ok_or(GrantError::WrongGrant)?;
    inner.granting.is_the_roots(&from);
    let _alone = inner.granting.alone.lock().await;
    may_begin(inner)?;
    match made {
        Made::Before(issuer) => {
            standing::learn(inner, std::slice::from_ref(&grant)).await?;
            regrant(inner, &issuer, grant).await?;
        }
        Made::New(key) => {
            // The log is begun before anybody hears of the grant; what fails leaves nothing that the next grant couldn't go on with.
            let issuer = begin(inner, key, grant.clone(), anchors).await?;
            standing::learn(inner, std::slice::from_ref(&grant)).await?;
            issue(inner, issuer).await;
        }
    }
    Ok(true)
}

/// What a grant is for.
enum Made {
    /// A node that issued before, or whose grant ends soon: it keeps its CA key, its log and whom it knows.
    Before(Arc<Issuer>),
    /// A node that never did.
    New(IssuerKey),
}

/// Goes on with the next grant, which this node's membership holds.
async fn regrant(inner: &Arc<Inner>, issuer: &Arc<Issuer>, grant: IssuerGrant) -> Result<(), GrantError> {
    let number = grant.statement.number;
    let (task, issuer) = (inner.clone(), issuer.clone());
    blocking(move || task.standing.regrant(&issuer, grant, task.standing.anchors())).await?;
    tracing::info!(number, "this node goes on issuing, by another grant");
    Ok(())
}

/// Makes the issuer of a grant, with its log.
async fn begin(
    inner: &Arc<Inner>,
    key: IssuerKey,
    grant: IssuerGrant,
    anchors: TrustAnchors,
) -> Result<Arc<Issuer>, GrantError> {
    let task = inner.clone();
    let issuer = Arc::new(blocking(move || task.standing.become_issuer(key, grant, anchors)).await?);
    guard(inner, &issuer);
    log::begin(inner, &issuer).await?;
    Ok(issuer)
}

/// This node issues, once it holds its grant.
async fn issue(inner: &Arc<Inner>, issuer: Arc<Issuer>) {
    // Grants that came meanwhile.
    if let Err(error) = issuer.set_anchors(inner.standing.anchors()) {
        tracing::error!(%error, "this node's issuer doesn't fit the mesh's grants");
    }
    let number = issuer.grant().statement.number;
    inner.standing.issues(issuer);
    let task = inner.clone();
    if let Err(error) = blocking(move || task.standing.end_pending_issuer()).await {
        tracing::warn!(%error, "the key of a grant that is in use now could not be removed from its place");
    }
    tracing::info!(number, "this node issues from now on");
}

/// Begins to issue when a grant that was signed elsewhere has arrived for the key that this node made. Tried at each new grant and root
/// document, and now and then: what fails once may do later.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut changes = inner.standing.grant_changes();
    loop {
        if let Err(error) = take_up(&inner).await {
            tracing::error!(%error, "this node was granted to issue, and does not yet");
        }
        let _ = tokio::time::timeout(TAKE_UP_AGAIN, changes.changed()).await;
    }
}

async fn take_up(inner: &Arc<Inner>) -> Result<(), GrantError> {
    let (anchors, now, me) = (inner.standing.anchors(), UnixMillis::now(), inner.member.node_id);
    if !anchors.issuers(now).contains(&me) {
        return Ok(());
    }
    let newest = |of_its_key: &dyn Fn(&IssuerGrant) -> bool| {
        let ours =
            anchors.in_force().filter(|grant| grant.statement.issuer == me && grant.statement.holds_at(now));
        ours.filter(|grant| of_its_key(grant)).max_by_key(|grant| grant.statement.number).cloned()
    };
    let _alone = inner.granting.alone.lock().await;
    if let Some(issuer) = inner.standing.held_issuer() {
        return match newest(&|grant| issuer.has_key_of(grant)) {
            Some(grant) if grant.statement.number > issuer.grant().statement.number => {
                regrant(inner, &issuer, grant).await
            }
            _ => Ok(()),
        };
    }
    let task = inner.clone();
    let Some(key) = blocking(move || task.standing.load_pending_issuer()).await? else { return Ok(()) };
    let has_key = |grant: &IssuerGrant| grant.ca_public().is_some_and(|public| public == *key.public_key());
    let Some(grant) = newest(&has_key) else { return Ok(()) };
    let issuer = begin(inner, key, grant, TrustAnchors::clone(&anchors)).await?;
    issue(inner, issuer).await;
    Ok(())
}
