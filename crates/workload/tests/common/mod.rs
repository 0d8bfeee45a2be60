//! One node that issues, with its Workload API on a socket in a temporary directory.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared by the tests, each uses a part; a test may stop at the first surprise"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshara_identity::{Issuer, NodeId, TrustAnchors, UnixMillis, create_mesh, home};
use meshara_workload::authority::Requester;
use meshara_workload::wire::{Reply, Request};
use meshara_workload::{Authority, Issuers, Lives, Registry, Workloads, serve};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

pub(crate) struct Mesh {
    pub(crate) home: tempfile::TempDir,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) anchors: Arc<TrustAnchors>,
    pub(crate) me: Requester,
}

pub(crate) fn mesh() -> Mesh {
    mesh_of("lab", UnixMillis::now())
}

pub(crate) fn mesh_of(name: &str, now: UnixMillis) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let name = name.parse().unwrap();
    let identity = create_mesh(dir.path(), &name, &"alice".parse().unwrap(), None, now).unwrap();
    let issuer = home::open_issuer(dir.path(), identity.membership.anchors(), None).unwrap().unwrap();
    let me = Requester { node_id: identity.node.node_id(), name: "alice".parse().unwrap() };
    Mesh { home: dir, anchors: issuer.anchors(), issuer: Arc::new(issuer), me }
}

impl Mesh {
    pub(crate) fn authority(&self, lives: Lives, now: UnixMillis) -> Authority {
        Authority::open(self.home.path(), None, self.issuer.clone(), self.me.node_id, lives, now).unwrap()
    }
}

/// The node is its own issuer, as long as it is up.
pub(crate) struct Local {
    pub(crate) authority: Arc<Authority>,
    pub(crate) anchors: Arc<TrustAnchors>,
    pub(crate) me: Requester,
    pub(crate) up: Arc<AtomicBool>,
    pub(crate) revoked: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl Issuers for Local {
    async fn ask(&self, request: Request) -> Option<Reply> {
        // As it would travel.
        let request = Request::decode(&request.encode().unwrap()).unwrap();
        let up = self.up.load(Ordering::SeqCst);
        let reply = up.then(|| self.authority.answer(&self.me, &request, UnixMillis::now()))?;
        Some(Reply::decode(&reply.encode().unwrap()).unwrap())
    }

    fn anchors(&self) -> Arc<TrustAnchors> {
        self.anchors.clone()
    }

    fn is_revoked(&self, node: &NodeId) -> bool {
        self.revoked.lock().unwrap().contains(node)
    }
}

pub(crate) struct Api {
    pub(crate) mesh: Mesh,
    pub(crate) workloads: Arc<Workloads<Local>>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) up: Arc<AtomicBool>,
    pub(crate) revoked: Arc<Mutex<BTreeSet<NodeId>>>,
    socket: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The user id that this test runs as.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A node whose own programs run as `own`.
pub(crate) fn api(lives: Lives, own: u32) -> Api {
    api_of(mesh(), lives, own)
}

pub(crate) fn api_of(mesh: Mesh, lives: Lives, own: u32) -> Api {
    let authority = Arc::new(mesh.authority(lives, UnixMillis::now()));
    let up = Arc::new(AtomicBool::new(true));
    let revoked = Arc::default();
    let revoked: Arc<Mutex<BTreeSet<NodeId>>> = revoked;
    let local = Local {
        authority: authority.clone(),
        anchors: mesh.anchors.clone(),
        me: mesh.me.clone(),
        up: up.clone(),
        revoked: revoked.clone(),
    };
    let known = vec![authority.signed()];
    let workloads =
        Arc::new(Workloads::new(mesh.me.clone(), own, local, Registry::default(), known, UnixMillis::now()));
    // Other users must reach it.
    let socket = tempfile::tempdir().unwrap();
    open_to_all(socket.path(), 0o755);
    let listener = UnixListener::bind(socket.path().join("workload.sock")).unwrap();
    open_to_all(&socket.path().join("workload.sock"), 0o666);
    let task = tokio::spawn(serve(listener, workloads.clone(), std::future::pending()));
    Api { mesh, workloads, authority, up, revoked, socket, task }
}

impl Api {
    pub(crate) fn path(&self) -> PathBuf {
        self.socket.path().join("workload.sock")
    }

    /// As `SPIFFE_ENDPOINT_SOCKET` has it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// A directory that every user may enter.
    pub(crate) fn shared(&self) -> &Path {
        self.socket.path()
    }

    pub(crate) async fn client(&self) -> spiffe::WorkloadApiClient {
        spiffe::WorkloadApiClient::connect_to(self.endpoint()).await.unwrap()
    }
}

pub(crate) fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Fails a test that would hang; a machine under load may stand still for a while.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.unwrap()
}
