//! This node's place in the mesh as it is now: its certificate, whom it trusts, whether it issues. What changes is on the disk first.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use meshara_identity::home::{self, HomeError};
use meshara_identity::membership::MembershipError;
use meshara_identity::root_document::SignedRoot;
use meshara_identity::{
    Identity, Issuer, IssuerGrant, IssuerKey, JoinError, KeyError, LeafError, Member, Membership, MeshInfo,
    NodeId, NodeKey, Passphrase, RenewClient, RootKey, RoutingKey, TrustAnchors, TrustError, UnixMillis,
};
use meshara_transport::tls::{Revoked, TlsError, TlsMaterial};
use meshara_trust::audit::{Event, Outcome, Words};
use tokio::sync::{Mutex, watch};

use super::{Inner, trust};

/// Between looks at the clock: clocks are set and machines sleep, and tokio's timers don't count sleep.
pub(super) const LOOK: Duration = Duration::from_secs(30);

/// Why a change of this node's certificate or anchors did not come into use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the overlay doesn't accept the new certificate: {0}")]
    Member(#[from] meshara_overlay::MemberError),
    #[error("the runtime is stopping")]
    Interrupted,
}

/// What became of certificates, since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Of this node: renewed, and rounds over all issuers that brought none.
    pub(super) renewed: AtomicU64,
    pub(super) not_renewed: AtomicU64,
    /// Of peers: shown again on a live connection, and connections that ended with their certificate.
    pub(super) rechecked: AtomicU64,
    pub(super) cut: AtomicU64,
}

/// Certificate, anchors, issuer. The one place that writes the home's membership while the node runs.
pub(crate) struct Standing {
    home: PathBuf,
    /// Opens the home's files if they are sealed.
    passphrase: Option<Passphrase>,
    node: NodeKey,
    routing: RoutingKey,
    membership: ArcSwap<Membership>,
    anchors: Arc<ArcSwap<TrustAnchors>>,
    issuer: ArcSwapOption<Issuer>,
    revoked: Arc<Revoked>,
    /// Held while the membership changes, on the disk and in use.
    changing: Mutex<()>,
    /// Held while a certificate is asked for, so that this node asks for one at a time.
    pub(super) renewing: Mutex<()>,
    /// Told when there are other grants.
    grants: watch::Sender<()>,
    /// The certificate has ended: nothing is sent but requests for another one.
    silent: AtomicBool,
    pub(super) counts: Counts,
}

impl Standing {
    /// The node's place as its home says.
    pub(super) fn new(
        home: PathBuf,
        passphrase: Option<Passphrase>,
        identity: Identity,
        issuer: Option<Arc<Issuer>>,
        revoked: Arc<Revoked>,
    ) -> Self {
        let Identity { node, routing, membership } = identity;
        let ended = membership.valid_at(UnixMillis::now()).is_err();
        let silent = AtomicBool::new(ended || revoked.contains(&membership.member().issuer));
        let anchors = Arc::new(ArcSwap::from_pointee(membership.anchors().clone()));
        Self {
            home,
            passphrase,
            node,
            routing,
            membership: ArcSwap::from_pointee(membership),
            anchors,
            issuer: ArcSwapOption::new(issuer),
            revoked,
            changing: Mutex::default(),
            renewing: Mutex::default(),
            grants: watch::channel(()).0,
            silent,
            counts: Counts::default(),
        }
    }

    /// The membership in use.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        self.membership.load_full()
    }

    /// This node as its certificate in use says.
    pub(crate) fn member(&self) -> Member {
        self.membership.load().member().clone()
    }

    /// Whom this node trusts.
    pub(crate) fn anchors(&self) -> Arc<TrustAnchors> {
        self.anchors.load_full()
    }

    /// The same, for those who look often.
    pub(super) fn shared_anchors(&self) -> Arc<ArcSwap<TrustAnchors>> {
        self.anchors.clone()
    }

    /// The issuer, if this node issues now: its grant counts, and has not ended.
    pub(crate) fn issuer(&self) -> Option<Arc<Issuer>> {
        let issuer = self.held_issuer()?;
        issuer.is_granted(&self.anchors.load(), UnixMillis::now()).then_some(issuer)
    }

    /// The issuer that this node was made once, whatever its grant counts for now.
    pub(super) fn held_issuer(&self) -> Option<Arc<Issuer>> {
        self.issuer.load_full()
    }

    /// What newcomers are told first.
    pub(super) fn mesh_info(&self) -> MeshInfo {
        self.membership.load().mesh_info()
    }

    /// Who issues at `now`: those with a grant that the mesh has not revoked.
    pub(crate) fn issuers(&self, now: UnixMillis) -> Vec<NodeId> {
        let mut issuers = self.anchors.load().issuers(now);
        issuers.retain(|issuer| !self.revoked.contains(issuer));
        issuers
    }

    /// Who else issues at `now`.
    pub(super) fn other_issuers(&self, now: UnixMillis) -> Vec<NodeId> {
        let mut issuers = self.issuers(now);
        issuers.retain(|issuer| *issuer != self.node.node_id());
        issuers
    }

    /// Who is revoked.
    pub(super) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// Whether the issuer of the certificate in use was revoked, or the mesh's present root doesn't stand behind it: no member that knows it
    /// takes the certificate for one any more.
    pub(super) fn is_disowned(&self) -> bool {
        let membership = self.membership.load();
        self.revoked.contains(&membership.member().issuer)
            || membership.valid_at(UnixMillis::now()) == Err(LeafError::IssuerDropped)
    }

    /// The CA key with which this node would issue, made if there is none. Blocks.
    pub(super) fn pending_issuer(&self) -> Result<IssuerKey, HomeError> {
        home::pending_issuer(&self.home, self.passphrase.as_ref())
    }

    /// The same, if it was made. Blocks.
    pub(super) fn load_pending_issuer(&self) -> Result<Option<IssuerKey>, HomeError> {
        home::load_pending_issuer(&self.home, self.passphrase.as_ref())
    }

    /// It is this node's issuer's now. Blocks.
    pub(super) fn end_pending_issuer(&self) -> Result<(), HomeError> {
        home::end_pending_issuer(&self.home)
    }

    /// Told when there are other grants.
    pub(super) fn grant_changes(&self) -> watch::Receiver<()> {
        self.grants.subscribe()
    }

    /// Whether the certificate has ended, so that the node does not talk.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Notes that the node may talk, or not; whether that is news.
    pub(super) fn set_silent(&self, silent: bool) -> bool {
        self.silent.swap(silent, Ordering::Relaxed) != silent
    }

    /// A request for the next certificate, with a fresh leaf key. Costs some signatures: not for the network's thread.
    pub(super) fn request(&self, now: UnixMillis) -> Result<RenewClient, JoinError> {
        RenewClient::new(&self.membership.load(), &self.node, &self.routing, now)
    }

    /// The mesh root, on the node that made the mesh. Reads and perhaps opens a sealed file: blocks.
    pub(super) fn root(&self) -> Result<RootKey, HomeError> {
        home::load_root(&self.home, self.passphrase.as_ref())
    }

    /// Writes what makes this node an issuer. It counts once [`learn`] has taken the grant and [`issues`](Self::issues) was called. Blocks.
    pub(super) fn become_issuer(
        &self,
        key: IssuerKey,
        grant: IssuerGrant,
        anchors: TrustAnchors,
    ) -> Result<Issuer, HomeError> {
        home::become_issuer(&self.home, key, grant, anchors, self.passphrase.as_ref())
    }

    /// Gives the issuer its next grant. Blocks.
    pub(super) fn regrant(
        &self,
        issuer: &Issuer,
        grant: IssuerGrant,
        anchors: Arc<TrustAnchors>,
    ) -> Result<(), HomeError> {
        home::regrant_issuer(&self.home, issuer, grant, anchors, self.passphrase.as_ref())
    }

    /// This node issues from now on.
    pub(super) fn issues(&self, issuer: Arc<Issuer>) {
        self.issuer.store(Some(issuer));
    }
}

/// When a certificate is to be renewed: at half of its life, ± 10 %, so that those that were made together are not renewed together. The
/// same whenever it is asked: it follows from the serial number, which is random.
pub(crate) fn renews_at(member: &Member) -> UnixMillis {
    let life = member.life();
    let [.., high, low] = member.serial.as_slice() else { return member.issued_at().plus(life / 2) };
    let share = u32::from(u16::from_be_bytes([*high, *low]));
    member.issued_at().plus(life / 20 * 9).plus(life / 10 * share / u32::from(u16::MAX))
}

/// From then on a certificate that wasn't renewed is worth a warning: a quarter of its life is left.
pub(super) fn warns_at(member: &Member) -> UnixMillis {
    member.not_after.minus(member.life() / 4)
}

/// Whether a certificate that isn't valid at `now` can still be renewed by the node key: it has ended, or its issuer was dropped, and the
/// enrolment hasn't ended.
pub(super) fn is_renewable(member: &Member, error: &LeafError, now: UnixMillis) -> bool {
    matches!(error, LeafError::Expired { .. } | LeafError::IssuerDropped) && now < member.enrolled.until
}

/// Takes a renewed certificate into use: stored first, then shown in new handshakes and in the overlay. Live connections go on with what they
/// began with.
pub(super) async fn renew(inner: &Arc<Inner>, renewed: Membership) -> Result<Member, AdoptError> {
    let now = UnixMillis::now();
    adopt(inner, |held| {
        // Grants and root documents may have come since the request was made.
        let anchors = held.anchors().joined(renewed.anchors(), now)?;
        Ok(Some(renewed.under(anchors.unwrap_or_else(|| held.anchors().clone()))?))
    })
    .await?;
    inner.standing.counts.renewed.fetch_add(1, Ordering::Relaxed);
    Ok(inner.standing.member())
}

/// Takes grants into use that this node lacks; whether there was one. Neighbours are told.
pub(super) async fn learn(inner: &Arc<Inner>, grants: &[IssuerGrant]) -> Result<bool, AdoptError> {
    let now = UnixMillis::now();
    adopt(inner, |held| {
        let merged = held.anchors().merged(grants, now)?;
        Ok(merged.map(|anchors| held.under(anchors)).transpose()?)
    })
    .await
}

/// As [`learn`], with the root documents of `other`, which were verified.
pub(super) async fn learn_of(inner: &Arc<Inner>, other: &TrustAnchors) -> Result<bool, AdoptError> {
    let now = UnixMillis::now();
    adopt(inner, |held| {
        let joined = held.anchors().joined(other, now)?;
        Ok(joined.map(|anchors| held.under(anchors)).transpose()?)
    })
    .await
}

/// Judges grants from now on by these versions of the root document, all from the first on; whether they are news.
pub(super) async fn rooted(inner: &Arc<Inner>, versions: &[SignedRoot]) -> Result<bool, AdoptError> {
    adopt(inner, |held| {
        let rooted = held.anchors().going_by(versions)?;
        Ok(rooted.map(|anchors| held.under(anchors)).transpose()?)
    })
    .await
}

/// Replaces the membership by what `make` makes of it; nothing if that is `None`.
async fn adopt(
    inner: &Arc<Inner>,
    make: impl FnOnce(&Membership) -> Result<Option<Membership>, AdoptError>,
) -> Result<bool, AdoptError> {
    let standing = &inner.standing;
    let _alone = standing.changing.lock().await;
    let held = standing.membership();
    let Some(made) = make(&held)? else { return Ok(false) };
    let (made, task) = (Arc::new(made), inner.clone());
    let stored = made.clone();
    let written = tokio::task::spawn_blocking(move || {
        let Standing { home, node, passphrase, .. } = &task.standing;
        home::store_membership(home, node.node_id(), &stored, passphrase.as_ref())
    });
    written.await.map_err(|_| AdoptError::Interrupted)??;

    inner.endpoints.tls().replace(&TlsMaterial::new(&made)?)?;
    let (anchors, before) = (Arc::new(made.anchors().clone()), standing.anchors());
    let grants = anchors.grants() != before.grants() || anchors.roots() != before.roots();
    record(inner, &before, &anchors);
    let leaf = made.leaf_der() != held.leaf_der();
    standing.anchors.store(anchors.clone());
    standing.membership.store(made.clone());
    if let Some(issuer) = standing.held_issuer()
        && let Err(error) = issuer.set_anchors(anchors)
    {
        tracing::error!(%error, "this node's issuer doesn't fit the mesh's grants");
    }
    if leaf && !trust::log::may_wait(inner, &held, &made) {
        inner.overlay.input(|core, now| core.set_member(now, made.leaf_der().to_vec()))?;
    }
    if grants {
        // Members may have been told of already whose issuers were not known until now.
        inner.overlay.input(|core, now| core.compare(now));
        standing.grants.send_replace(());
    }
    Ok(true)
}

/// Writes into the audit trail which grants count now, and which do no more.
fn record(inner: &Inner, before: &TrustAnchors, after: &TrustAnchors) {
    let grant = |grant: &IssuerGrant, outcome| Event::Grant {
        issuer: grant.statement.issuer,
        number: grant.statement.number,
        outcome,
    };
    for new in after.in_force().filter(|new| !before.counts(new)) {
        inner.audit.record(grant(new, Outcome::Done));
    }
    for old in before.in_force().filter(|old| !after.counts(old)) {
        let (issuer, number) = (old.statement.issuer, old.statement.number);
        tracing::warn!(%issuer, number, "a grant counts no more");
        inner.audit.record(grant(old, Outcome::Refused(Words::clean("dropped"))));
    }
}
