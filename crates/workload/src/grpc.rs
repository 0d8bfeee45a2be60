//! The calls of the Workload API (SPIFFE_Workload_API.md), with the codes that SPIFFE_Workload_Endpoint.md gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meshara_identity::UnixMillis;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::caller::{AttestError, Caller};
use crate::federation::ForeignBundle;
use crate::id::{EntryName, WorkloadId};
use crate::pb;
use crate::pb::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::svids::{IssuanceError, Issuers, Standing, Workloads};
use crate::wire::is_audience;

/// Metadata that every call must have, so that a program which is tricked into a plain HTTP request gets nothing.
const HEADER: &str = "workload.spiffe.io";

/// What clients know from other implementations, and some look for.
const NO_IDENTITY: &str = "no identity issued";

/// A stream looks again at least this often: clocks are set, machines sleep, and a caller may have ended.
const LOOK: Duration = Duration::from_secs(60);
/// …and at most this often.
const PAUSE: Duration = Duration::from_millis(100);

/// The gRPC side of [`Workloads`].
pub(crate) struct Api<I>(pub(crate) Arc<Workloads<I>>);

/// What a stream tells, and when it is to be looked at again.
trait Feed<I>: Send + 'static {
    type Message: Clone + PartialEq + Send + 'static;

    fn now(
        workloads: &Workloads<I>,
        entitled: Vec<Option<EntryName>>,
    ) -> impl Future<Output = Result<(Self::Message, Option<UnixMillis>), Status>> + Send;
}

struct X509Svids;
struct X509Bundles;
struct JwtBundles;

impl<I: Issuers> Feed<I> for X509Svids {
    type Message = pb::X509svidResponse;

    async fn now(
        workloads: &Workloads<I>,
        entitled: Vec<Option<EntryName>>,
    ) -> Result<(Self::Message, Option<UnixMillis>), Status> {
        let mut held = Vec::with_capacity(entitled.len());
        for entry in &entitled {
            let svid = workloads.x509(entry.as_ref()).await.map_err(unavailable)?;
            held.push((hint(entry.as_ref()), svid));
        }
        // Only now: the last answer may have brought a new root.
        let bundle = Bytes::from(workloads.bundle().borrow().x509_der(UnixMillis::now()));
        let renew_at = held.iter().map(|(_, svid)| svid.renew_at).min();
        let svids = held.into_iter().map(|(hint, svid)| pb::X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: svid.leaf_der.into(),
            x509_svid_key: Bytes::copy_from_slice(svid.key.pkcs8()),
            bundle: bundle.clone(),
            hint,
        });
        let svids = svids.collect();
        let federated_bundles = foreign(workloads, ForeignBundle::x509_der);
        Ok((pb::X509svidResponse { svids, crl: Vec::new(), federated_bundles }, renew_at))
    }
}

impl<I: Issuers> Feed<I> for X509Bundles {
    type Message = pb::X509BundlesResponse;

    async fn now(
        workloads: &Workloads<I>,
        _: Vec<Option<EntryName>>,
    ) -> Result<(Self::Message, Option<UnixMillis>), Status> {
        let mut bundles = foreign(workloads, ForeignBundle::x509_der);
        bundles.extend(own(workloads, |bundle, now| bundle.x509_der(now))?);
        Ok((pb::X509BundlesResponse { bundles, ..Default::default() }, None))
    }
}

impl<I: Issuers> Feed<I> for JwtBundles {
    type Message = pb::JwtBundlesResponse;

    async fn now(
        workloads: &Workloads<I>,
        _: Vec<Option<EntryName>>,
    ) -> Result<(Self::Message, Option<UnixMillis>), Status> {
        let mut bundles = foreign(workloads, ForeignBundle::jwks);
        bundles.extend(own(workloads, |bundle, now| bundle.jwks(now))?);
        Ok((pb::JwtBundlesResponse { bundles }, None))
    }
}

#[tonic::async_trait]
impl<I: Issuers> SpiffeWorkloadApi for Api<I> {
    type FetchX509SVIDStream = ReceiverStream<Result<pb::X509svidResponse, Status>>;
    type FetchX509BundlesStream = ReceiverStream<Result<pb::X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = ReceiverStream<Result<pb::JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.follow::<X509Svids, _>(&request).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.follow::<X509Bundles, _>(&request).await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.follow::<JwtBundles, _>(&request).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<Response<pb::JwtsvidResponse>, Status> {
        let caller = caller(&request)?;
        let pb::JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        if !is_audience(&audience) {
            return Err(Status::invalid_argument("a token needs 1 to 16 audiences of at most 512 bytes"));
        }
        let mut entitled = self.entitled(&caller)?;
        if !spiffe_id.is_empty() {
            let wanted = spiffe_id
                .parse::<WorkloadId>()
                .map_err(|error| Status::invalid_argument(format!("the requested SPIFFE ID: {error}")))?;
            entitled.retain(|entry| self.0.id(entry.as_ref()) == wanted);
            if entitled.is_empty() {
                return Err(Status::permission_denied("the requested SPIFFE ID is not this process's"));
            }
        }
        let mut svids = Vec::with_capacity(entitled.len());
        for entry in &entitled {
            let svid = self.0.jwt(entry.as_ref(), &audience).await.map_err(unavailable)?;
            let spiffe_id = self.0.id(entry.as_ref()).to_string();
            svids.push(pb::Jwtsvid { spiffe_id, svid, hint: hint(entry.as_ref()) });
        }
        Ok(Response::new(pb::JwtsvidResponse { svids }))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        self.entitled(&*caller(&request)?)?;
        let pb::ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() || svid.is_empty() {
            return Err(Status::invalid_argument("audience and token are needed"));
        }
        let (spiffe_id, claims) =
            self.0.validate(&svid, &audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(pb::ValidateJwtsvidResponse { spiffe_id, claims: Some(structure(claims)) }))
    }
}

impl<I: Issuers> Api<I> {
    fn entitled(&self, caller: &Caller) -> Result<Vec<Option<EntryName>>, Status> {
        entitled(&self.0, caller)
    }

    /// Tells a feed at once, and then whenever it changes, as long as the caller is entitled to an identity.
    async fn follow<F: Feed<I>, R: Sync>(
        &self,
        request: &Request<R>,
    ) -> Result<Response<ReceiverStream<Result<F::Message, Status>>>, Status> {
        let (workloads, caller) = (self.0.clone(), caller(request)?);
        // Before the first look, so that no change falls between.
        let (mut registry, mut standing) = (workloads.registry(), workloads.standing());
        let (mut bundle, mut federation) = (workloads.bundle(), workloads.federation());
        let (mut told, mut look_at) = F::now(&workloads, entitled(&workloads, &caller)?).await?;
        // One waits while the client reads another: it is told the state, not each change.
        let (sender, receiver) = mpsc::channel(1);
        if sender.send(Ok(told.clone())).await.is_err() {
            return Err(Status::cancelled("the client has gone"));
        }
        tokio::spawn(async move {
            loop {
                let left = look_at.map(|at| Duration::from_millis(at.0.saturating_sub(UnixMillis::now().0)));
                let wait = left.unwrap_or(LOOK).clamp(PAUSE, LOOK);
                tokio::select! {
                    () = sender.closed() => return,
                    Ok(()) = registry.changed() => {}
                    Ok(()) = bundle.changed() => {}
                    Ok(()) = federation.changed() => {}
                    Ok(()) = standing.changed() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                let looked = match entitled(&workloads, &caller) {
                    Ok(entitled) => F::now(&workloads, entitled).await,
                    Err(denied) => Err(denied),
                };
                let message = match looked {
                    Ok((message, next)) => {
                        look_at = next;
                        if message == told {
                            continue;
                        }
                        told = message.clone();
                        Ok(message)
                    }
                    Err(status) => Err(status),
                };
                let last = message.is_err();
                if sender.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Who calls, if the mandatory metadata is there (SPIFFE_Workload_Endpoint, 3 and 6).
fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    if values.next().is_none_or(|value| value != "true") || values.next().is_some() {
        return Err(Status::invalid_argument("the metadata workload.spiffe.io: true is missing"));
    }
    request
        .extensions()
        .get::<Arc<Caller>>()
        .cloned()
        .ok_or_else(|| Status::internal("the caller is unknown"))
}

/// The identities of the caller; denied if there are none.
fn entitled<I: Issuers>(workloads: &Workloads<I>, caller: &Caller) -> Result<Vec<Option<EntryName>>, Status> {
    match *workloads.standing().borrow() {
        Standing::Good => {}
        Standing::Ended => {
            let text = "this node's own certificate has ended; it speaks for no program until it has another";
            return Err(Status::unavailable(text));
        }
        Standing::Revoked => {
            return Err(Status::permission_denied(format!("{NO_IDENTITY}: the mesh revoked this node")));
        }
    }
    match workloads.entitled(caller) {
        Ok(entitled) if entitled.is_empty() => {
            tracing::debug!(uid = caller.uid(), "a process without an identity asked for one");
            let uid = caller.uid();
            Err(Status::permission_denied(format!(
                "{NO_IDENTITY}: nothing is registered for this process of user {uid}"
            )))
        }
        Ok(entitled) => Ok(entitled),
        Err(error @ (AttestError::Gone | AttestError::Invisible)) => {
            Err(Status::permission_denied(error.to_string()))
        }
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

/// The mesh's own bundle, which everybody with an identity may have.
fn own<I: Issuers>(
    workloads: &Workloads<I>,
    form: impl Fn(&crate::Bundle, UnixMillis) -> Vec<u8>,
) -> Result<HashMap<String, Bytes>, Status> {
    let (bundle, now) = (workloads.bundle().borrow().clone(), UnixMillis::now());
    if bundle.is_empty_at(now) {
        return Err(Status::unavailable("no issuer of the mesh has told its workload roots yet"));
    }
    Ok(HashMap::from([(bundle.trust_domain(), Bytes::from(form(&bundle, now)))]))
}

/// The bundles of other trust domains, without those that have no key of the kind: clients take an empty one for a broken one.
fn foreign<I: Issuers>(
    workloads: &Workloads<I>,
    form: impl Fn(&ForeignBundle) -> Vec<u8>,
) -> HashMap<String, Bytes> {
    let federation = workloads.federation().borrow().clone();
    let formed = federation.iter().map(|bundle| (bundle.trust_domain().id(), Bytes::from(form(bundle))));
    formed.filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// What tells identities of one caller apart: an entry's name; nothing for the node's own.
fn hint(entry: Option<&EntryName>) -> String {
    entry.map(ToString::to_string).unwrap_or_default()
}

fn unavailable(error: IssuanceError) -> Status {
    Status::unavailable(error.to_string())
}

/// JSON as protobuf has it.
fn structure(claims: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: claims.into_iter().map(|(name, value)| (name, protobuf(value))).collect() }
}

fn protobuf(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        // Every JSON number has one: serde_json keeps no larger ones.
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(protobuf).collect() })
        }
        Json::Object(members) => Kind::StructValue(structure(members)),
    };
    Value { kind: Some(kind) }
}
