//! The identities that a node's workloads have: asked for when first needed, asked for again at half of their life.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use meshara_identity::{KeyError, NodeId, TrustAnchors, UnixMillis};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::authority::Requester;
use crate::bundle::Bundle;
use crate::caller::{AttestError, Caller, FileId};
use crate::federation::Federation;
use crate::id::{EntryName, WorkloadId};
use crate::jwt::{self, TokenError};
use crate::keys::P256Key;
use crate::registry::{Registration, Registry, RegistryError};
use crate::roots::{RootsError, SignedRoots};
use crate::wire::{Answer, Refusal, Reply, Request, possession};

/// After a failure the next try is this far away: the issuer may be back, and half of a life has room for many tries.
const RETRY: Duration = Duration::from_secs(10);

/// How a node reaches the issuers of its mesh.
pub trait Issuers: Send + Sync + 'static {
    /// Asks them in turn, itself first if it is one; `None` when none answers in time. One that failed counts as silent.
    fn ask(&self, request: Request) -> impl Future<Output = Option<Reply>> + Send;

    /// Whom the node trusts now.
    fn anchors(&self) -> Arc<TrustAnchors>;

    /// Whether a node is revoked.
    fn is_revoked(&self, node: &NodeId) -> bool;
}

/// Whether a node may speak for its programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Good,
    /// Its own certificate has ended; it may again once it has another.
    Ended,
    /// The mesh revoked it.
    Revoked,
}

/// Why there is no identity now. All of it passes: clients try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IssuanceError {
    /// No issuer answers.
    #[error("no issuer of the mesh can be reached")]
    NoIssuer,
    /// The issuer refuses.
    #[error("the issuer refused: {0}")]
    Refused(Refusal),
    /// The issuer's roots are not to be trusted.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// What the issuer gave is not what was asked for.
    #[error("the issuer's answer is not what was asked for")]
    BadAnswer,
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// An X.509-SVID with its key.
#[derive(Debug, Clone)]
pub(crate) struct Svid {
    pub(crate) id: WorkloadId,
    pub(crate) leaf_der: Vec<u8>,
    pub(crate) key: Arc<P256Key>,
    not_after: UnixMillis,
    /// When the next one is to be had.
    pub(crate) renew_at: UnixMillis,
}

/// One identity: whoever asks while it is being asked for waits for that.
type Slot = Arc<AsyncMutex<Option<Svid>>>;

/// Everything behind the Workload API of one node.
pub struct Workloads<I> {
    me: Requester,
    own_uid: u32,
    pub(crate) issuers: I,
    registry: watch::Sender<Arc<Registry>>,
    bundle: watch::Sender<Arc<Bundle>>,
    pub(crate) federation: watch::Sender<Arc<Federation>>,
    standing: watch::Sender<Standing>,
    /// By entry: at most one for each registration, and the node's own.
    slots: Mutex<BTreeMap<Option<EntryName>, Slot>>,
}

impl<I> std::fmt::Debug for Workloads<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workloads").field("node", &self.me.name).finish_non_exhaustive()
    }
}

impl<I: Issuers> Workloads<I> {
    /// For the node `me`, whose own programs run as `own_uid`. `known` are statements that were verified earlier; what doesn't verify any more
    /// is left out.
    pub fn new(
        me: Requester,
        own_uid: u32,
        issuers: I,
        registry: Registry,
        known: Vec<SignedRoots>,
        now: UnixMillis,
    ) -> Self {
        let anchors = issuers.anchors();
        let mut bundle = Bundle::new(anchors.mesh().clone());
        for signed in known {
            let issuer = signed.statement.issuer;
            let accepted = match issuers.is_revoked(&issuer) {
                true => Err(RootsError::Revoked { issuer }),
                false => bundle.accept(&anchors, signed, now),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "workload roots that were kept are not used");
            }
        }
        let (registry, bundle) =
            (watch::Sender::new(Arc::new(registry)), watch::Sender::new(Arc::new(bundle)));
        let (federation, standing) = (watch::Sender::default(), watch::Sender::new(Standing::Good));
        Self { me, own_uid, issuers, registry, bundle, federation, standing, slots: Mutex::default() }
    }

    /// The bundle, and a word whenever it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// The bundles of foreign trust domains, and a word whenever they change.
    pub fn federation(&self) -> watch::Receiver<Arc<Federation>> {
        self.federation.subscribe()
    }

    /// Whether the node may speak for its programs, and a word whenever that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The registrations, and a word whenever they change.
    pub fn registry(&self) -> watch::Receiver<Arc<Registry>> {
        self.registry.subscribe()
    }

    /// Takes what an issuer says of its roots; whether it is new.
    ///
    /// # Errors
    /// [`RootsError`]; the bundle is as before then.
    pub fn learn(&self, signed: SignedRoots, now: UnixMillis) -> Result<bool, RootsError> {
        let anchors = self.issuers.anchors();
        let issuer = signed.statement.issuer;
        let mut result = Ok(false);
        self.bundle.send_if_modified(|held| {
            let mut bundle = Bundle::clone(held);
            let went = self.drop_ended(&mut bundle, &anchors, now);
            result = match self.issuers.is_revoked(&issuer) {
                true => Err(RootsError::Revoked { issuer }),
                false => bundle.accept(&anchors, signed, now),
            };
            let changed = went || matches!(result, Ok(true));
            if changed {
                *held = Arc::new(bundle);
            }
            changed
        });
        result
    }

    /// Goes by what counts now: whether this node may speak for its programs, and which issuers may. The roots of the others leave the
    /// bundle, and streams hear of it at once.
    pub fn reconsider(&self, standing: Standing, now: UnixMillis) {
        self.standing.send_if_modified(|held| std::mem::replace(held, standing) != standing);
        let anchors = self.issuers.anchors();
        self.bundle.send_if_modified(|held| {
            let mut bundle = Bundle::clone(held);
            let went = self.drop_ended(&mut bundle, &anchors, now);
            if went {
                *held = Arc::new(bundle);
            }
            went
        });
    }

    /// Drops the roots of issuers whose grant has ended, or that are revoked; whether any went.
    fn drop_ended(&self, bundle: &mut Bundle, anchors: &TrustAnchors, now: UnixMillis) -> bool {
        let granted = anchors.issuers(now);
        bundle.retain(|issuer| granted.contains(issuer) && !self.issuers.is_revoked(issuer))
    }

    /// Registers a workload, or replaces its conditions. Streams hear of it at once. The caller keeps it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn register(&self, name: EntryName, registration: Registration) -> Result<(), RegistryError> {
        let mut result = Ok(());
        self.registry.send_if_modified(|held| {
            let mut registry = Registry::clone(held);
            result = registry.add(name, registration);
            if result.is_ok() {
                *held = Arc::new(registry);
            }
            result.is_ok()
        });
        result
    }

    /// Takes a registration out; `None` when there is none. Streams that rest on it end.
    pub fn unregister(&self, name: &EntryName) -> Option<Registration> {
        let mut removed = None;
        self.registry.send_if_modified(|held| {
            let mut registry = Registry::clone(held);
            removed = registry.remove(name);
            if removed.is_some() {
                *held = Arc::new(registry);
            }
            removed.is_some()
        });
        if removed.is_some() {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&Some(name.clone()));
        }
        removed
    }

    /// The user id of the node's own programs.
    pub(crate) fn own_uid(&self) -> u32 {
        self.own_uid
    }

    /// The identities of a caller, as it is now.
    pub(crate) fn entitled(&self, caller: &Caller) -> Result<Vec<Option<EntryName>>, AttestError> {
        let attested = caller.attest()?;
        let registry = self.registry.borrow().clone();
        Ok(registry.entitled(&attested, self.own_uid, FileId::of))
    }

    /// The SPIFFE ID of an entry; of the node's own programs without one.
    pub fn id(&self, entry: Option<&EntryName>) -> WorkloadId {
        WorkloadId::new(self.issuers.anchors().mesh(), &self.me.name, entry)
    }

    /// The X.509-SVID of an entry: the one held until half of its life is over, then a new one. When none is to be had, the held one
    /// serves to its end.
    pub(crate) async fn x509(&self, entry: Option<&EntryName>) -> Result<Svid, IssuanceError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(entry.cloned()).or_default().clone()
        };
        let mut held = slot.lock().await;
        let now = UnixMillis::now();
        if let Some(svid) = held.as_ref().filter(|svid| now < svid.renew_at && self.stands(svid, now)) {
            return Ok(svid.clone());
        }
        match self.request_x509(entry, now).await {
            Ok(svid) => {
                tracing::debug!(id = %svid.id, until = %svid.not_after, "an X.509-SVID was issued");
                Ok(held.insert(svid).clone())
            }
            Err(error) => match held.as_mut().filter(|svid| self.stands(svid, now)) {
                Some(svid) => {
                    tracing::warn!(id = %svid.id, until = %svid.not_after, %error, "an X.509-SVID was not renewed; tried again soon");
                    svid.renew_at = now.plus(RETRY).min(svid.not_after);
                    Ok(svid.clone())
                }
                None => Err(error),
            },
        }
    }

    /// A JWT-SVID of an entry.
    pub(crate) async fn jwt(
        &self,
        entry: Option<&EntryName>,
        audience: &[String],
    ) -> Result<String, IssuanceError> {
        let request = Request::Jwt { entry: entry.cloned(), audience: audience.to_vec() };
        let Answer::Jwt(token) = self.ask(request).await? else { return Err(IssuanceError::BadAnswer) };
        let id = self.id(entry).to_string();
        let first = audience.first().map_or("", String::as_str);
        match self.validate(&token, first) {
            Ok((subject, _)) if subject == id => Ok(token),
            _ => Err(IssuanceError::BadAnswer),
        }
    }

    /// Validates a token under the bundle.
    pub(crate) fn validate(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<(String, serde_json::Map<String, serde_json::Value>), TokenError> {
        let (own, others) = (self.bundle.borrow().clone(), self.federation.borrow().clone());
        jwt::validate(token, audience, &own, &others, UnixMillis::now())
    }

    /// Whether an SVID hasn't ended and hangs on a root that is still in the bundle.
    fn stands(&self, svid: &Svid, now: UnixMillis) -> bool {
        let bundle = self.bundle.borrow().clone();
        bundle.leaf_end(&svid.leaf_der, &svid.id.to_string(), svid.key.public(), now).is_some()
    }

    async fn request_x509(&self, entry: Option<&EntryName>, now: UnixMillis) -> Result<Svid, IssuanceError> {
        let id = self.id(entry);
        let key = P256Key::generate()?;
        let mesh = self.issuers.anchors().mesh_id();
        let proof = key.sign(&possession(&mesh, &self.me.node_id, &id, key.public()))?;
        let request = Request::X509 { entry: entry.cloned(), key: key.public().clone(), proof };
        let Answer::X509(leaf_der) = self.ask(request).await? else { return Err(IssuanceError::BadAnswer) };
        let bundle = self.bundle.borrow().clone();
        // The issuer's clock may be a little ahead.
        let not_after = bundle
            .leaf_end(&leaf_der, &id.to_string(), key.public(), now.max(UnixMillis::now()))
            .ok_or(IssuanceError::BadAnswer)?;
        let renew_at = now.plus(half(not_after, now)?);
        Ok(Svid { id, leaf_der, key: Arc::new(key), not_after, renew_at })
    }

    /// Asks an issuer, and takes its roots first: what it signed may hang on a new one.
    async fn ask(&self, request: Request) -> Result<Answer, IssuanceError> {
        let reply = self.issuers.ask(request).await.ok_or(IssuanceError::NoIssuer)?;
        match self.learn(reply.roots, UnixMillis::now()) {
            // Another of its answers was faster, or its clock is behind: the newer roots are held.
            Ok(_) | Err(RootsError::Stale { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match reply.answer {
            Answer::Refused(refusal) => Err(IssuanceError::Refused(refusal)),
            answer => Ok(answer),
        }
    }
}

/// Half of what is left, give or take a tenth, so that SVIDs which began together aren't renewed together for ever.
fn half(not_after: UnixMillis, now: UnixMillis) -> Result<Duration, KeyError> {
    let mut random = [0];
    rand::fill(&mut random).map_err(|_| KeyError::Random)?;
    let [random] = random;
    let left = Duration::from_millis(not_after.0.saturating_sub(now.0));
    Ok(left / 2 - left / 20 + left * u32::from(random) / 2560)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_around_half() {
        for _ in 0..1000 {
            let half = half(UnixMillis(3_600_000), UnixMillis(0)).unwrap();
            assert!((Duration::from_secs(1620)..=Duration::from_secs(1980)).contains(&half), "{half:?}");
        }
    }
}
