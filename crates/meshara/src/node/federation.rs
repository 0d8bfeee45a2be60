//! Drives federation: keeps the bundles of other trust domains, fetches newer ones from their endpoints, and serves the mesh's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshara_identity::UnixMillis;
use meshara_workload::federation::{BundleError, EndpointUrl, FetchError, ServerTrust, fetch, serve_bundle};
use meshara_workload::{Federation, FederationError, ForeignBundle, TrustDomain, Workloads};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::workload::{MeshIssuers, OpenError, changed};
use super::{BuildError, Inner};
use crate::api::{ApiError, ErrorCode, FederationInfo, FederationRequest, Result, Timestamp};
use crate::config::Config;
use crate::store::{Bucket, Store, StoreError};

/// How often a bundle is fetched whose trust domain doesn't say (SPIFFE_Trust_Domain_and_Bundle, 4.1.2).
const REFRESH: Duration = Duration::from_secs(300);
/// …and what is made of hints that are shorter or longer: a wrong one neither hammers the endpoint nor keeps old keys for ever.
const REFRESH_MIN: Duration = Duration::from_secs(30);
const REFRESH_MAX: Duration = Duration::from_secs(24 * 3600);
/// After a failure the next try is this far away: the keys held count on.
const RETRY: Duration = Duration::from_secs(60);

/// What is remembered of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    document: String,
    url: Option<String>,
    endpoint_id: Option<String>,
}

/// Where a bundle is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    url: EndpointUrl,
    /// With one the profile is `https_spiffe`, else `https_web`.
    endpoint_id: Option<String>,
}

#[derive(Debug)]
struct State {
    source: Option<Source>,
    fetched_at: Option<UnixMillis>,
    last_error: Option<String>,
    /// When it is to be fetched.
    next: UnixMillis,
}

/// The fetching side; the bundles themselves are with the workloads.
#[derive(Debug, Default)]
pub(super) struct Federated {
    /// At most one for each bundle held.
    states: Mutex<BTreeMap<TrustDomain, State>>,
    /// Held while bundle, store and state of a trust domain change together.
    changing: tokio::sync::Mutex<()>,
    /// There is another source.
    sources: Notify,
}

/// Why a bundle was not replaced by a newer one. Nobody needs to tell them apart but people.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the endpoint's answer is no bundle: {0}")]
    Bundle(#[from] BundleError),
    #[error("the endpoint gave an older bundle, number {found}; {held} is held")]
    Older { found: u64, held: u64 },
    #[error("no bundle of {0} is held, under which the endpoint proves itself")]
    NoBundle(String),
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Federated {
    /// Takes what is remembered into use.
    pub(super) async fn open(
        store: &Store,
        workloads: &Workloads<MeshIssuers>,
    ) -> std::result::Result<Self, OpenError> {
        let mut states = BTreeMap::new();
        for (name, stored) in store.list::<Stored>(Bucket::Federation).await? {
            let Stored { document, url, endpoint_id } = stored;
            let odd = || OpenError::Federation(name.clone());
            let domain: TrustDomain = name.parse().map_err(|_| odd())?;
            let bundle = ForeignBundle::parse(domain.clone(), document.as_bytes()).map_err(|_| odd())?;
            workloads.federate(bundle).map_err(|_| odd())?;
            let url = url.map(|url| url.parse()).transpose().map_err(|_| odd())?;
            let source = url.map(|url| Source { url, endpoint_id });
            states.insert(domain, State { source, fetched_at: None, last_error: None, next: UnixMillis(0) });
        }
        Ok(Self { states: Mutex::new(states), ..Self::default() })
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be fetched now, and when there is more to do.
    fn due(&self, now: UnixMillis) -> (Vec<(TrustDomain, Source)>, Option<UnixMillis>) {
        let states = self.states();
        let sources =
            || states.iter().filter_map(|(domain, state)| Some((domain, state, state.source.as_ref()?)));
        let due = sources().filter(|(_, state, _)| state.next <= now);
        let due = due.map(|(domain, _, source)| (domain.clone(), source.clone())).collect();
        (due, sources().map(|(_, state, _)| state.next).filter(|next| *next > now).min())
    }
}

/// Fetches bundles whenever their time has come, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let federated = &inner.workload.federation;
    loop {
        let now = UnixMillis::now();
        let (due, next) = federated.due(now);
        for (domain, source) in due {
            refresh(&inner, &domain, &source).await;
        }
        // Clocks are set and machines sleep: it looks again at least once a minute.
        let wait = next.map_or(RETRY, |next| Duration::from_millis(next.0.saturating_sub(now.0)).min(RETRY));
        let _ = tokio::time::timeout(wait, federated.sources.notified()).await;
    }
}

async fn refresh(inner: &Inner, domain: &TrustDomain, source: &Source) {
    let fetched = fetch_bundle(inner, domain, source).await;
    let federated = &inner.workload.federation;
    let _alone = federated.changing.lock().await;
    // It may have been removed or replaced meanwhile.
    if federated.states().get(domain).is_none_or(|state| state.source.as_ref() != Some(source)) {
        return;
    }
    let taken = match fetched {
        Ok(bundle) => replace(inner, bundle, source).await,
        Err(error) => Err(error),
    };
    let now = UnixMillis::now();
    if let Some(state) = federated.states().get_mut(domain) {
        match taken {
            Ok(hint) => {
                state.next = now.plus(pause(hint));
                (state.fetched_at, state.last_error) = (Some(now), None);
            }
            Err(error) => {
                tracing::warn!(trust_domain = %domain, url = %source.url, %error, "no newer bundle was fetched; the one held counts on");
                state.next = now.plus(RETRY);
                state.last_error = Some(error.to_string());
            }
        }
    }
}

/// How soon a bundle is fetched again.
fn pause(hint: Option<u64>) -> Duration {
    hint.map_or(REFRESH, Duration::from_secs).clamp(REFRESH_MIN, REFRESH_MAX)
}

async fn fetch_bundle(
    inner: &Inner,
    domain: &TrustDomain,
    source: &Source,
) -> std::result::Result<ForeignBundle, RefreshError> {
    let trust = match &source.endpoint_id {
        None => ServerTrust::Web,
        Some(id) => {
            let signer = TrustDomain::of(id).map_err(|_| RefreshError::NoBundle(id.clone()))?;
            let bundle = held(inner).get(signer.as_str()).cloned();
            let bundle = bundle.ok_or_else(|| RefreshError::NoBundle(signer.to_string()))?;
            ServerTrust::Spiffe { id: id.clone(), bundle }
        }
    };
    let document = fetch(&source.url, trust).await?;
    Ok(ForeignBundle::parse(domain.clone(), &document)?)
}

/// Takes a fetched bundle unless it is older; gives its hint.
async fn replace(
    inner: &Inner,
    bundle: ForeignBundle,
    source: &Source,
) -> std::result::Result<Option<u64>, RefreshError> {
    let (domain, hint) = (bundle.trust_domain().clone(), bundle.refresh_hint());
    let before = held(inner).get(domain.as_str()).cloned();
    if before.as_deref() == Some(&bundle) {
        return Ok(hint);
    }
    let numbers = before.and_then(|before| before.sequence()).zip(bundle.sequence());
    if let Some((held, found)) = numbers.filter(|(held, found)| found < held) {
        return Err(RefreshError::Older { found, held });
    }
    tracing::info!(trust_domain = %domain, sequence = bundle.sequence(), "a newer bundle was fetched");
    keep(inner, &bundle, Some(source)).await?;
    inner.workload.workloads.federate(bundle)?;
    Ok(hint)
}

async fn keep(
    inner: &Inner,
    bundle: &ForeignBundle,
    source: Option<&Source>,
) -> std::result::Result<(), StoreError> {
    let stored = Stored {
        document: bundle.document().to_owned(),
        url: source.map(|source| source.url.to_string()),
        endpoint_id: source.and_then(|source| source.endpoint_id.clone()),
    };
    inner.workload.store.put(Bucket::Federation, bundle.trust_domain().as_str(), &stored).await
}

fn held(inner: &Inner) -> Arc<Federation> {
    inner.workload.workloads.federation().borrow().clone()
}

/// The socket of the bundle endpoint, if there is to be one.
pub(super) async fn bind(config: &Config) -> std::result::Result<Option<TcpListener>, BuildError> {
    let Some(addr) = config.bundle_endpoint else { return Ok(None) };
    let failed = |error| BuildError::BundleEndpoint { addr, error };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let bound: SocketAddr = listener.local_addr().map_err(failed)?;
    tracing::info!(addr = %bound, "serving the trust bundle");
    Ok(Some(listener))
}

/// Serves the mesh's bundle to other trust domains until the node stops.
pub(super) async fn serve(inner: Arc<Inner>, listener: TcpListener) {
    let (mut stop, workloads) = (inner.stop.subscribe(), inner.workload.workloads.clone());
    let document = move || {
        let inner = inner.clone();
        async move {
            let document = inner.workload.document().await;
            document
                .inspect_err(|error| tracing::warn!(%error, "the trust bundle was not handed out"))
                .ok()
                .flatten()
                .map(|document| document.to_string().into_bytes())
        }
    };
    serve_bundle(listener, workloads, document, async move {
        let _ = stop.wait_for(|stop| *stop).await;
    })
    .await;
}

/// Trusts another trust domain, or replaces what is held of it.
pub(super) async fn add(inner: &Inner, request: FederationRequest) -> Result<FederationInfo> {
    let FederationRequest { trust_domain, bundle, url, endpoint_id } = request;
    let domain = named(&trust_domain)?;
    let url =
        url.map(|url| url.parse::<EndpointUrl>()).transpose().map_err(|error| invalid(error.to_string()))?;
    if let Some(id) = &endpoint_id {
        TrustDomain::of(id).map_err(|_| invalid(format!("`{id}` is no SPIFFE ID of an endpoint")))?;
        if url.is_none() {
            return Err(invalid("the SPIFFE ID of an endpoint needs the endpoint's URL".into()));
        }
    }
    let source = url.map(|url| Source { url, endpoint_id });
    let federated = &inner.workload.federation;
    let given = bundle.is_some();
    let bundle = match (bundle, &source) {
        (Some(document), _) => ForeignBundle::parse(domain.clone(), document.to_string().as_bytes())
            .map_err(|error| invalid(error.to_string()))?,
        (None, Some(source)) => fetch_bundle(inner, &domain, source).await.map_err(|error| {
            ApiError::new(ErrorCode::Unreachable, error.to_string())
                .hint("or give the bundle as a file; nothing was changed")
        })?,
        (None, None) => return Err(invalid("give the bundle, or the URL where it is fetched".into())),
    };
    let _alone = federated.changing.lock().await;
    let hint = bundle.refresh_hint();
    // In use first: that is where it can be refused.
    inner.workload.workloads.federate(bundle.clone()).map_err(|error| {
        let code = match error {
            FederationError::Full => ErrorCode::Busy,
            _ => ErrorCode::InvalidArgument,
        };
        ApiError::new(code, error.to_string())
    })?;
    keep(inner, &bundle, source.as_ref()).await?;
    let now = UnixMillis::now();
    // One that was given may be old: its endpoint is asked at once.
    let (fetched_at, next) = if given { (None, now) } else { (Some(now), now.plus(pause(hint))) };
    federated.states().insert(domain.clone(), State { source, fetched_at, last_error: None, next });
    federated.sources.notify_one();
    changed(inner, domain.as_str(), "federated");
    Ok(info(inner, &bundle))
}

/// The other trust domains.
pub(super) fn list(inner: &Inner) -> Vec<FederationInfo> {
    held(inner).iter().map(|bundle| info(inner, bundle)).collect()
}

/// Trusts another trust domain no more.
pub(super) async fn remove(inner: &Inner, trust_domain: &str) -> Result<FederationInfo> {
    let domain = named(trust_domain)?;
    let _alone = inner.workload.federation.changing.lock().await;
    let bundle = held(inner).get(domain.as_str()).cloned().ok_or_else(|| {
        ApiError::new(ErrorCode::UnknownTrustDomain, format!("no bundle of trust domain `{domain}` is held"))
            .hint("`meshara trust bundle list` shows those that are")
    })?;
    let removed = info(inner, &bundle);
    inner.workload.store.remove(Bucket::Federation, domain.as_str()).await?;
    inner.workload.workloads.unfederate(&domain);
    inner.workload.federation.states().remove(&domain);
    changed(inner, domain.as_str(), "unfederated");
    Ok(removed)
}

fn info(inner: &Inner, bundle: &ForeignBundle) -> FederationInfo {
    let states = inner.workload.federation.states();
    let state = states.get(bundle.trust_domain());
    let source = state.and_then(|state| state.source.as_ref());
    let (x509_authorities, jwt_authorities) = bundle.counts();
    FederationInfo {
        trust_domain: bundle.trust_domain().to_string(),
        x509_authorities,
        jwt_authorities,
        sequence: bundle.sequence(),
        url: source.map(|source| source.url.to_string()),
        endpoint_id: source.and_then(|source| source.endpoint_id.clone()),
        fetched_at: state.and_then(|state| state.fetched_at).map(|at| Timestamp::from_unix_ms(at.0)),
        last_error: state.and_then(|state| state.last_error.clone()),
    }
}

fn named(text: &str) -> Result<TrustDomain> {
    text.parse().map_err(|error| invalid(format!("`{text}`: {error}")))
}

fn invalid(text: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, text).hint("see `meshara trust bundle add --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_what_is_remembered_is_frozen() {
        let stored = Stored { document: "{}".into(), url: Some("u".into()), endpoint_id: None };
        assert_eq!(postcard::to_allocvec(&stored).unwrap(), [2, b'{', b'}', 1, 1, b'u', 0]);
    }

    #[test]
    fn hints_are_bounded() {
        assert_eq!(pause(None), REFRESH);
        assert_eq!(pause(Some(0)), REFRESH_MIN);
        assert_eq!(pause(Some(3600)), Duration::from_secs(3600));
        assert_eq!(pause(Some(u64::MAX)), REFRESH_MAX);
    }
}
