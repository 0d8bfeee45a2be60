//! Other trust domains: what is held of their keys, where it is fetched, and the endpoint where they fetch ours (SPIFFE_Federation).
//!
//! A foreign bundle verifies identities of its own trust domain and of no other.

mod endpoint;
mod fetch;
mod foreign;
mod jwk;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshara_identity::MeshName;

pub use self::endpoint::serve_bundle;
pub use self::fetch::{EndpointUrl, FetchError, ParseUrlError, ServerTrust, fetch};
pub use self::foreign::{BundleError, DOCUMENT_MAX, ForeignBundle};
pub(crate) use self::jwk::ALGORITHMS;
use crate::id::TrustDomain;
use crate::svids::{Issuers, Workloads};

/// Most foreign trust domains of a node. All bundles go to each program in one message, of which stock gRPC clients take 4 MiB: twice as
/// much as these are.
pub const FEDERATED_MAX: usize = 32;

/// The bundles of foreign trust domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Federation(BTreeMap<TrustDomain, Arc<ForeignBundle>>);

/// Why a bundle was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// It is the mesh's own trust domain, whose keys nobody else states.
    #[error("{0} is this mesh's own trust domain")]
    Own(TrustDomain),
    /// [`FEDERATED_MAX`] is reached.
    #[error("the bundles of 32 trust domains are held already: remove some")]
    Full,
}

impl Federation {
    /// Takes a bundle, in place of the one held for its trust domain.
    ///
    /// # Errors
    /// [`FederationError`]; what was held is still held then.
    pub fn add(&mut self, own: &MeshName, bundle: ForeignBundle) -> Result<(), FederationError> {
        let domain = bundle.trust_domain();
        if domain.as_str() == own.as_str() {
            return Err(FederationError::Own(domain.clone()));
        }
        if self.0.len() >= FEDERATED_MAX && !self.0.contains_key(domain) {
            return Err(FederationError::Full);
        }
        self.0.insert(domain.clone(), Arc::new(bundle));
        Ok(())
    }

    /// What is held of a trust domain.
    pub fn get(&self, domain: &str) -> Option<&Arc<ForeignBundle>> {
        self.0.get(domain)
    }

    /// All, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ForeignBundle>> {
        self.0.values()
    }
}

impl<I: Issuers> Workloads<I> {
    /// Takes the bundle of a foreign trust domain. Streams hear of it at once. The caller keeps it.
    ///
    /// # Errors
    /// [`FederationError`].
    pub fn federate(&self, bundle: ForeignBundle) -> Result<(), FederationError> {
        let own = self.issuers.anchors().mesh().clone();
        let mut result = Ok(());
        self.federation.send_if_modified(|held| {
            let mut federation = Federation::clone(held);
            result = federation.add(&own, bundle);
            let changed = result.is_ok() && federation != **held;
            if changed {
                *held = Arc::new(federation);
            }
            changed
        });
        result
    }

    /// Trusts a foreign trust domain no more; `None` when it wasn't. Streams hear of it at once.
    pub fn unfederate(&self, domain: &TrustDomain) -> Option<Arc<ForeignBundle>> {
        let mut removed = None;
        self.federation.send_if_modified(|held| {
            let mut federation = Federation::clone(held);
            removed = federation.0.remove(domain);
            if removed.is_some() {
                *held = Arc::new(federation);
            }
            removed.is_some()
        });
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(domain: &str) -> ForeignBundle {
        ForeignBundle::parse(domain.parse().unwrap(), br#"{"keys":[]}"#).unwrap()
    }

    #[test]
    fn the_own_domain_and_too_many_are_refused() {
        let own: MeshName = "lab".parse().unwrap();
        let mut federation = Federation::default();
        assert_eq!(federation.add(&own, bundle("lab")), Err(FederationError::Own("lab".parse().unwrap())));
        for n in 0..FEDERATED_MAX {
            federation.add(&own, bundle(&format!("td{n}"))).unwrap();
        }
        assert_eq!(federation.add(&own, bundle("more")), Err(FederationError::Full));
        federation.add(&own, bundle("td0")).unwrap();
        assert!(federation.get("td0").is_some() && federation.get("lab").is_none());
    }
}
