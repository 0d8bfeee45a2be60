//! The logs of the mesh's issuers: this node writes its own if it issues, follows the others, and cosigns what it found consistent.

mod ask;
mod attest;
pub(crate) mod audit;
pub(crate) mod bundle;
mod follow;
mod names;
mod others;
mod own;
mod own_record;
mod peers;
mod publish;
mod record;
pub(crate) mod routing;
mod serve;
mod stated;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use meshara_identity::{
    Issuer, KeyError, Membership, MeshInfo, MeshName, NodeId, NodeName, Passphrase, RoutingKey, TrustAnchors,
    sealed,
};
use meshara_trust::log::{Checkpoint, DiskFiles, Hash, LogError};
use tokio::sync::Semaphore;

use self::attest::Attestations;
pub(crate) use self::attest::run as run_attest;
pub(crate) use self::follow::run as run_follow;
use self::names::Names;
pub(crate) use self::names::{Granted, counted};
use self::others::Others;
pub(crate) use self::own::{OpenError, OwnLog};
pub(crate) use self::own_record::{may_wait, run as run_own_record};
pub(crate) use self::publish::run as run_publish;
pub(crate) use self::serve::serve;
use crate::api::LogStatus;
use crate::node::Inner;

/// Questions about logs answered at once, all sessions together; each holds a bundle of 0.5 MB at most, and reads from disk.
const SERVED: usize = 16;

/// Witnesses that a checkpoint should have, or as many as there are.
pub(crate) const WITNESSES: usize = 3;

/// Root, name and grants of the mesh, beside the logs of others: what a bundle needs to be verified.
const MESH_INFO: &str = "mesh";

/// The logs, as one node knows them.
pub(crate) struct Logs {
    pub(super) me: NodeId,
    pub(super) mesh: MeshName,
    pub(super) name: NodeName,
    home: PathBuf,
    /// Seals the keys of its own log.
    passphrase: Option<Passphrase>,
    /// Signs for other issuers' checkpoints, as a witness.
    routing: RoutingKey,
    own: OnceLock<Arc<OwnLog>>,
    pub(in crate::node) others: Others,
    pub(crate) attestations: Attestations,
    /// Whose names are, in the logs of others.
    pub(crate) names: Names,
    places: Semaphore,
}

impl Logs {
    /// What a home holds of the logs of others. Blocks.
    pub(crate) fn open(
        home: &Path,
        own: &Membership,
        routing: &RoutingKey,
        passphrase: Option<Passphrase>,
    ) -> Result<Self, KeyError> {
        let logs = Self {
            me: own.member().node_id,
            mesh: own.anchors().mesh().clone(),
            name: own.member().name.clone(),
            home: home.to_owned(),
            routing: RoutingKey::from_seed(routing.seed().clone())?,
            own: OnceLock::new(),
            others: Others::open(home.join(others::DIRECTORY), own.anchors()),
            attestations: Attestations::default(),
            names: Names::default(),
            passphrase,
            places: Semaphore::new(SERVED),
        };
        if let Err(error) = logs.keep_mesh(own.anchors()) {
            tracing::warn!(%error, "what a bundle of logs needs could not be kept");
        }
        Ok(logs)
    }

    /// Opens the log of the issuer that this node is, makes it if there is none, and lets the issuer record there what it gives out from
    /// now on. To be called before the issuer answers anybody. Blocks.
    ///
    /// What the logs of others say of names and roles is read before, as far as it is copied here: it must not be forgotten for the seconds until
    /// they are asked again, or a role that was taken elsewhere would come back with the next certificate.
    ///
    /// A log that was begun for a grant that came to nothing serves the next one, which is for the same CA key.
    pub(crate) fn issue(&self, issuer: &Issuer, own: &Membership) -> Result<(), OpenError> {
        if let Some(own) = self.own() {
            own.statement().verify(&issuer.anchors()).map_err(|_| OpenError::OtherKey)?;
            issuer.record_with(own.clone());
            return Ok(());
        }
        let own = Arc::new(OwnLog::open(&self.home, issuer, own, self.passphrase.as_ref())?);
        for other in self.others.all() {
            if let Err(error) = self.names.read(&other) {
                tracing::error!(issuer = %other.issuer, %error, "the copy of this issuer's log can't be read");
            }
        }
        issuer.record_with(own.clone());
        let _ = self.own.set(own);
        Ok(())
    }

    /// Keeps what a bundle needs to be verified. Blocks.
    pub(super) fn keep_mesh(&self, anchors: &TrustAnchors) -> Result<(), String> {
        let directory = self.home.join(others::DIRECTORY);
        let bytes = MeshInfo::of(anchors).encode().map_err(|error| error.to_string())?;
        sealed::private_directory(&directory).map_err(|error| error.to_string())?;
        own::keep(&DiskFiles::read_only(&directory), MESH_INFO, &bytes).map_err(|error| error.to_string())
    }

    /// The log that this node writes, if it issues.
    pub(crate) fn own(&self) -> Option<&Arc<OwnLog>> {
        self.own.get()
    }

    /// What is known of the log: of this node's own, else of the largest of the others. Never blocks.
    pub(crate) fn status(&self) -> LogStatus {
        let note = match self.own() {
            Some(own) => Some(own.checkpoint()),
            None => self.others.newest(),
        };
        let Some(note) = note else { return LogStatus::default() };
        let Ok(checkpoint) = Checkpoint::parse(note.text()) else {
            return LogStatus::default();
        };
        LogStatus {
            size: checkpoint.head.size,
            head: Some(checkpoint.head.root.to_string()),
            // Two lines are the log's own.
            witnesses: note.signatures.len().saturating_sub(2) as u64,
        }
    }

    /// Whether an entry is in this node's own log: its index.
    pub(super) fn find_own(&self, leaf: &Hash) -> Option<u64> {
        self.own().and_then(|own| own.find(leaf))
    }
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("own", &self.own.get()).finish_non_exhaustive()
    }
}

/// This running node issues from now on: before `issuer` answers anybody, what it gives out is logged.
pub(crate) async fn begin(inner: &Arc<Inner>, issuer: &Arc<Issuer>) -> Result<(), OpenError> {
    let (work, issuer) = (inner.clone(), issuer.clone());
    let begun = inner.logs.own().is_some();
    let opened =
        tokio::task::spawn_blocking(move || work.logs.issue(&issuer, &work.standing.membership())).await;
    opened.unwrap_or(Err(OpenError::Interrupted))?;
    if let Some(own) = inner.logs.own().filter(|_| !begun) {
        inner.spawn(run_publish(inner.clone(), own.clone()));
    }
    Ok(())
}

/// Whether a home has a log of its own, or the keys of one.
pub(crate) fn is_begun(home: &Path) -> bool {
    home.join(own::KEY).exists() || home.join(own::DIRECTORY).join("checkpoint").exists()
}

/// Whether the log has to be opened again before it says more.
fn stops(error: &LogError) -> bool {
    matches!(error, LogError::Stopped(_) | LogError::Io { .. })
}
