//! Drives the SPIFFE Workload API: keeps registrations and roots, asks issuers over sessions, answers other nodes where this one issues.
//! Bundles of other trust domains are [`super::federation`]'s.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use meshara_identity::{FileError, Issuer, Member, NodeId, Passphrase, TrustAnchors, UnixMillis};
use meshara_transport::tls::Revoked;
use meshara_trust::audit::{Event, Words};
use meshara_workload::authority::Requester;
use meshara_workload::wire::{Answer, REPLY_MAX, REQUEST_MAX, Refusal, Reply, Request};
use meshara_workload::{
    Authority, AuthorityError, EntryName, Issuers, Lives, Registration, Registry, RegistryError, SignedRoots,
    Standing, Workloads,
};
use quinn::{RecvStream, SendStream};
use tokio::net::UnixListener;

use super::Inner;
use super::control::NodeControl;
use super::federation::{self, Federated};
use super::pipe::RESET;
use super::sessions::Sessions;
use super::streams::Opening;
use crate::api::{
    self, ApiError, ErrorCode, FederationInfo, FederationRequest, Result, WorkloadControl, WorkloadInfo,
    WorkloadRequest,
};
use crate::frames::{read_frame, write_frame};
use crate::store::{Bucket, Store, StoreError};

/// An issuer over the mesh answers within a session's handshake, or the next one is asked.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(4);
/// How often issuers are asked for their roots: a new root signs a day after it was stated.
const REFRESH: Duration = Duration::from_secs(600);
/// The same after a start, and when another issuer was made, until all have told; twice as long after each try.
const REFRESH_FIRST: Duration = Duration::from_secs(2);
/// Setting that remembers the number of the bundle and what it was.
const SEQUENCE_KEY: &str = "workload bundle";
/// Mode of the socket: every caller is attested, and the home's own mode says who can come near.
const SOCKET_MODE: u32 = 0o666;

/// How this node reaches issuers: itself, or others over sessions.
pub(crate) struct MeshIssuers {
    me: Requester,
    anchors: Arc<ArcSwap<TrustAnchors>>,
    sessions: Arc<Sessions>,
    revoked: Arc<Revoked>,
    /// Of this node, once it issues.
    authority: Arc<ArcSwapOption<Authority>>,
}

impl Issuers for MeshIssuers {
    async fn ask(&self, request: Request) -> Option<Reply> {
        let now = UnixMillis::now();
        let mut issuers = self.anchors.load().issuers(now);
        issuers.retain(|issuer| !self.revoked.contains(issuer));
        // What this node signs counts as long as its grant does.
        if issuers.contains(&self.me.node_id)
            && let Some(authority) = self.authority.load_full()
        {
            let reply = authority.answer(&self.me, &request, now);
            if !is_failure(&reply) {
                return Some(reply);
            }
        }
        for issuer in issuers.into_iter().filter(|issuer| *issuer != self.me.node_id) {
            let asked = tokio::time::timeout(ISSUER_TIMEOUT, carry(&self.sessions, issuer, &request)).await;
            match asked {
                // One that was made an issuer a moment ago, or has another version, answers nothing.
                Ok(Some(reply)) if !is_failure(&reply) => return Some(reply),
                _ => tracing::debug!(%issuer, "an issuer did not answer a request for a workload"),
            }
        }
        None
    }

    fn anchors(&self) -> Arc<TrustAnchors> {
        self.anchors.load_full()
    }

    fn is_revoked(&self, node: &NodeId) -> bool {
        self.revoked.contains(node)
    }
}

/// What the Workload API is made of.
pub(crate) struct Parts {
    pub(crate) home: PathBuf,
    pub(crate) passphrase: Option<Passphrase>,
    pub(crate) member: Member,
    pub(crate) issuer: Option<Arc<Issuer>>,
    pub(crate) anchors: Arc<ArcSwap<TrustAnchors>>,
    pub(crate) revoked: Arc<Revoked>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) store: Store,
}

/// The Workload API of a node.
pub(crate) struct Workload {
    home: PathBuf,
    passphrase: Option<Passphrase>,
    me: Requester,
    sessions: Arc<Sessions>,
    pub(super) store: Store,
    pub(crate) workloads: Arc<Workloads<MeshIssuers>>,
    authority: Arc<ArcSwapOption<Authority>>,
    pub(super) federation: Federated,
}

impl Workload {
    /// Opens registrations, known roots and, on an issuer, its own ones.
    ///
    /// # Errors
    /// [`OpenError`]: nothing is replaced that doesn't read.
    pub(crate) async fn open(parts: Parts) -> std::result::Result<Self, OpenError> {
        let Parts { home, passphrase, member, issuer, anchors, revoked, sessions, store } = parts;
        let me = Requester { node_id: member.node_id, name: member.name };
        let mut registry = Registry::default();
        for (name, registration) in store.list::<Registration>(Bucket::Workloads).await? {
            let name: EntryName = name.parse().map_err(|_| OpenError::Registration(name))?;
            registry.add(name, registration)?;
        }
        let mut known = Vec::new();
        for (_, bytes) in store.list::<Vec<u8>>(Bucket::WorkloadRoots).await? {
            match SignedRoots::decode(&bytes) {
                Ok(signed) => known.push(signed),
                Err(error) => tracing::warn!(%error, "workload roots that were kept do not read"),
            }
        }
        let authority = Arc::new(ArcSwapOption::empty());
        let (sessions_, authority_) = (sessions.clone(), authority.clone());
        let issuers =
            MeshIssuers { me: me.clone(), anchors, sessions: sessions_, revoked, authority: authority_ };
        let own_uid = rustix::process::geteuid().as_raw();
        let workloads = Workloads::new(me.clone(), own_uid, issuers, registry, known, UnixMillis::now());
        let workloads = Arc::new(workloads);
        let federation = Federated::open(&store, &workloads).await?;
        let workload = Self { home, passphrase, me, sessions, store, workloads, authority, federation };
        if let Some(issuer) = issuer {
            workload.issue_with(issuer).await?;
        }
        Ok(workload)
    }

    /// From now on this node issues.
    pub(crate) async fn issue_with(&self, issuer: Arc<Issuer>) -> std::result::Result<(), AuthorityError> {
        let (home, passphrase, me) = (self.home.clone(), self.passphrase.clone(), self.me.node_id);
        let opening = tokio::task::spawn_blocking(move || {
            Authority::open(&home, passphrase, issuer, me, Lives::default(), UnixMillis::now())
        });
        // Only a runtime that ends cancels it.
        let Ok(opened) = opening.await else { return Ok(()) };
        let authority = Arc::new(opened?);
        self.learn(authority.signed());
        self.authority.store(Some(authority));
        Ok(())
    }

    /// Goes by what counts now: this node's certificate, and who is revoked.
    pub(crate) fn reconsider(&self, inner: &Inner) {
        let standing = if inner.endpoints.tls().revoked().contains(&self.me.node_id) {
            Standing::Revoked
        } else if inner.standing.is_silent() {
            Standing::Ended
        } else {
            Standing::Good
        };
        self.workloads.reconsider(standing, UnixMillis::now());
    }

    /// Binds the socket in the home.
    pub(crate) fn bind(home: &Path) -> std::io::Result<UnixListener> {
        api::bind_socket(home, meshara_workload::SOCKET_NAME, SOCKET_MODE)
    }

    /// Answers a member that asks this node for identities of its workloads.
    pub(crate) async fn serve(
        inner: &Inner,
        from: &Member,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> Option<()> {
        let revoked = inner.endpoints.tls().revoked();
        let refused = inner.standing.is_silent()
            || revoked.contains(&from.node_id)
            || revoked.contains(&inner.member.node_id);
        let authority = inner.workload.authority.load_full().filter(|_| !refused);
        let Some(authority) = authority else {
            let _ = send.reset(RESET);
            return None;
        };
        let request = read_frame(&mut receive, REQUEST_MAX).await.ok()?;
        let request = Request::decode(&request).ok()?;
        let requester = Requester { node_id: from.node_id, name: from.name.clone() };
        let reply = authority.answer(&requester, &request, UnixMillis::now()).encode().ok()?;
        write_frame(&mut send, &reply).await.ok()?;
        send.finish().ok()?;
        let _ = send.stopped().await;
        Some(())
    }

    /// Keeps roots known and known roots on the disk, for ever.
    pub(crate) async fn run(inner: Arc<Inner>) {
        let workload = &inner.workload;
        let (mut bundle, mut grants) = (workload.workloads.bundle(), inner.standing.grant_changes());
        let mut pause = REFRESH_FIRST;
        loop {
            workload.reconsider(&inner);
            workload.refresh(&inner).await;
            bundle.mark_unchanged();
            if let Err(error) = workload.keep().await {
                tracing::warn!(%error, "workload roots were not kept");
            }
            let wait = if workload.knows_all(&inner) { REFRESH } else { pause };
            pause = (pause * 2).min(REFRESH);
            tokio::select! {
                Ok(()) = bundle.changed() => {}
                Ok(()) = grants.changed() => pause = REFRESH_FIRST,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether every issuer has told its roots.
    fn knows_all(&self, inner: &Inner) -> bool {
        let bundle = self.workloads.bundle().borrow().clone();
        let told = |issuer| bundle.statements().any(|signed| signed.statement.issuer == issuer);
        let revoked = inner.endpoints.tls().revoked();
        let issuers = inner.standing.anchors().issuers(UnixMillis::now());
        issuers.into_iter().all(|issuer| told(issuer) || revoked.contains(&issuer))
    }

    async fn refresh(&self, inner: &Inner) {
        match self.authority.load_full() {
            Some(authority) => {
                let looking = authority.clone();
                let looked = tokio::task::spawn_blocking(move || looking.refresh(UnixMillis::now())).await;
                match looked {
                    Ok(Ok(true)) => tracing::info!("a new workload root was made"),
                    Ok(Err(error)) => tracing::warn!(%error, "the workload roots were not renewed"),
                    _ => {}
                }
                self.learn(authority.signed());
            }
            None => {
                // It may have been made an issuer meanwhile.
                if let Some(issuer) = inner.standing.issuer()
                    && let Err(error) = self.issue_with(issuer).await
                {
                    tracing::warn!(%error, "this node issues no identities for workloads");
                }
            }
        }
        for issuer in inner.standing.other_issuers(UnixMillis::now()) {
            let asked = carry(&self.sessions, issuer, &Request::Roots);
            if let Ok(Some(reply)) = tokio::time::timeout(ISSUER_TIMEOUT, asked).await {
                self.learn(reply.roots);
            }
        }
    }

    fn learn(&self, signed: SignedRoots) {
        let issuer = signed.statement.issuer;
        match self.workloads.learn(signed, UnixMillis::now()) {
            Ok(true) => tracing::info!(%issuer, "an issuer's workload roots are known"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "workload roots were refused"),
        }
    }

    /// Writes the known roots, so that a restart without issuers still verifies; those that count no more go.
    async fn keep(&self) -> std::result::Result<(), StoreError> {
        let bundle = self.workloads.bundle().borrow().clone();
        let held: BTreeSet<_> =
            bundle.statements().map(|signed| signed.statement.issuer.to_string()).collect();
        for (key, _) in self.store.list::<Vec<u8>>(Bucket::WorkloadRoots).await? {
            if !held.contains(&key) {
                self.store.remove(Bucket::WorkloadRoots, &key).await?;
            }
        }
        for signed in bundle.statements() {
            let key = signed.statement.issuer.to_string();
            let Ok(bytes) = signed.encode() else { continue };
            if self.store.get::<Vec<u8>>(Bucket::WorkloadRoots, &key).await?.as_ref() != Some(&bytes) {
                self.store.put(Bucket::WorkloadRoots, &key, &bytes).await?;
            }
        }
        Ok(())
    }

    /// The number of a bundle: higher than before whenever the content is another (SPIFFE_Trust_Domain_and_Bundle, 4.1.1). The time, so that
    /// the numbers of several nodes are about in order.
    async fn sequence(&self, content: &str, now: UnixMillis) -> std::result::Result<u64, StoreError> {
        let hash = *blake3::hash(content.as_bytes()).as_bytes();
        let held: Option<(u64, [u8; 32])> = self.store.get(Bucket::Settings, SEQUENCE_KEY).await?;
        match held {
            Some((sequence, known)) if known == hash => Ok(sequence),
            held => {
                let sequence = held.map_or(now.0, |(sequence, _)| now.0.max(sequence + 1));
                self.store.put(Bucket::Settings, SEQUENCE_KEY, &(sequence, hash)).await?;
                Ok(sequence)
            }
        }
    }

    /// The SPIFFE bundle of the mesh; `None` while no root is known.
    pub(super) async fn document(&self) -> std::result::Result<Option<serde_json::Value>, StoreError> {
        let (bundle, now) = (self.workloads.bundle().borrow().clone(), UnixMillis::now());
        if bundle.is_empty_at(now) {
            return Ok(None);
        }
        let sequence = self.sequence(&bundle.spiffe_json(0, now).to_string(), now).await?;
        Ok(Some(bundle.spiffe_json(sequence, now)))
    }

    fn info(&self, name: &EntryName, registration: &Registration) -> WorkloadInfo {
        WorkloadInfo {
            name: name.to_string(),
            spiffe_id: self.workloads.id(Some(name)).to_string(),
            uid: registration.uid,
            exe: registration.exe.clone(),
        }
    }
}

/// Whether an issuer could not, so that another is to be asked.
fn is_failure(reply: &Reply) -> bool {
    reply.answer == Answer::Refused(Refusal::Internal)
}

/// Why the Workload API did not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The workload roots.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bundle of another trust domain that cannot have been taken.
    #[error(
        "the store holds a bundle of trust domain {0:?} that doesn't read; restore node.redb from a backup"
    )]
    Federation(String),
    /// A registration that cannot have been made.
    #[error("the store names a workload {0:?}, which is no name; restore node.redb from a backup")]
    Registration(String),
    /// The same.
    #[error("the store holds a workload that can't be registered ({0}); restore node.redb from a backup")]
    Registry(#[from] RegistryError),
}

impl OpenError {
    /// The file of the workload roots, if that is what is wrong.
    pub fn file(&self) -> Option<&FileError> {
        match self {
            Self::Authority(AuthorityError::File(error)) => Some(error),
            _ => None,
        }
    }
}

/// Asks one issuer.
async fn carry(sessions: &Sessions, issuer: NodeId, request: &Request) -> Option<Reply> {
    let request = request.encode().ok()?;
    let (mut send, mut receive) = sessions.open_stream(issuer, &Opening::Workload).await.ok()?;
    write_frame(&mut send, &request).await.ok()?;
    send.finish().ok()?;
    let reply = read_frame(&mut receive, REPLY_MAX).await.ok()?;
    Reply::decode(&reply).ok()
}

/// Writes into the audit trail who has an identity here, or is trusted.
pub(super) fn changed(inner: &Inner, name: &str, change: &str) {
    let (name, change) = (Words::clean(name), Words::clean(change));
    inner.audit.record(Event::Workload { name, change });
}

impl WorkloadControl for NodeControl {
    async fn workload_add(&self, request: WorkloadRequest) -> Result<WorkloadInfo> {
        let workload = &self.0.workload;
        let WorkloadRequest { name, uid, exe } = request;
        let name = entry_name(&name)?;
        let registration = Registration { uid, exe };
        workload.workloads.register(name.clone(), registration.clone()).map_err(|error| {
            let code = match error {
                RegistryError::Full => ErrorCode::Busy,
                _ => ErrorCode::InvalidArgument,
            };
            ApiError::new(code, error.to_string()).hint("see `meshara trust workload add --help`")
        })?;
        workload.store.put(Bucket::Workloads, name.as_str(), &registration).await?;
        changed(&self.0, name.as_str(), "registered");
        Ok(workload.info(&name, &registration))
    }

    async fn workload_list(&self) -> Result<Vec<WorkloadInfo>> {
        let workload = &self.0.workload;
        let registry = workload.workloads.registry().borrow().clone();
        Ok(registry.iter().map(|(name, registration)| workload.info(name, registration)).collect())
    }

    async fn workload_remove(&self, name: String) -> Result<WorkloadInfo> {
        let workload = &self.0.workload;
        let name = entry_name(&name)?;
        let removed = workload.workloads.unregister(&name).ok_or_else(|| {
            ApiError::new(ErrorCode::UnknownWorkload, format!("no workload `{name}` is registered"))
                .hint("`meshara trust workload list` shows those that are")
        })?;
        workload.store.remove(Bucket::Workloads, name.as_str()).await?;
        changed(&self.0, name.as_str(), "unregistered");
        Ok(workload.info(&name, &removed))
    }

    async fn trust_bundle(&self) -> Result<serde_json::Value> {
        let document = self.0.workload.document().await?;
        document.ok_or_else(|| {
            let text = "no issuer of the mesh has told its workload roots yet";
            ApiError::new(ErrorCode::Unreachable, text).hint("see `meshara routes`")
        })
    }

    async fn federation_add(&self, request: FederationRequest) -> Result<FederationInfo> {
        federation::add(&self.0, request).await
    }

    async fn federation_list(&self) -> Result<Vec<FederationInfo>> {
        Ok(federation::list(&self.0))
    }

    async fn federation_remove(&self, trust_domain: String) -> Result<FederationInfo> {
        federation::remove(&self.0, &trust_domain).await
    }
}

fn entry_name(text: &str) -> Result<EntryName> {
    text.parse().map_err(|error| {
        ApiError::new(ErrorCode::InvalidArgument, format!("`{text}` can't name a workload: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_registration_is_frozen() {
        let both = Registration { uid: Some(1000), exe: Some("/usr/bin/db".into()) };
        let bytes = [&[1, 0xe8, 7, 1, 11][..], b"/usr/bin/db"].concat();
        assert_eq!(postcard::to_allocvec(&both).unwrap(), bytes);
        assert_eq!(postcard::from_bytes::<Registration>(&bytes).unwrap(), both);
        let uid = Registration { uid: Some(0), exe: None };
        assert_eq!(postcard::to_allocvec(&uid).unwrap(), [1, 0, 0]);
    }
}
