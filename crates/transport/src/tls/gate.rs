//! The server's side of one connection: whether a certificate is required depends on what the ClientHello offers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;

use super::verifier::MemberVerifier;
use super::{ALPN_JOIN, Expect, ServerConfig, State, TlsError, provider};

/// Set by the certificate resolver, which sees the ClientHello first; read by the client verifier and the session store.
///
/// One per connection. It starts as "certificate required".
#[derive(Debug, Clone, Default)]
pub(super) struct JoinFlag(Arc<AtomicBool>);

impl JoinFlag {
    pub(super) fn is_join(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// TLS configuration for one connection.
pub(super) fn server_config(
    state: &State,
    time: &Arc<dyn TimeProvider>,
    alpns: &[&[u8]],
    sessions: &Arc<ServerSessionMemoryCache>,
) -> Result<ServerConfig, TlsError> {
    let flag = JoinFlag::default();
    let verifier = MemberVerifier::new(state, Expect::AnyMember);
    let verifier = verifier.with_flag(flag.clone());
    let resolver = Resolver { own: state.own.clone(), flag: flag.clone(), joins: alpns.contains(&ALPN_JOIN) };
    let mut config = ServerConfig::builder_with_details(provider(), time.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    config.session_storage = Arc::new(Sessions { inner: sessions.clone(), flag });
    // A client keeps one ticket for one node; each costs the server 6 KB.
    config.send_tls13_tickets = 1;
    Ok(config)
}

#[derive(Debug)]
struct Resolver {
    own: Arc<SingleCertAndKey>,
    flag: JoinFlag,
    joins: bool,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Only a client that offers nothing but joining is let in without certificate: with any other protocol
        // offered beside it, that one could be chosen.
        let join = self.joins
            && hello
                .alpn()
                .is_some_and(|mut offered| offered.next() == Some(ALPN_JOIN) && offered.next().is_none());
        self.flag.0.store(join, Ordering::Relaxed);
        self.own.resolve(hello)
    }
}

/// Keeps joins out of resumption: a ticket of a connection without certificate must never open a link.
#[derive(Debug)]
struct Sessions {
    inner: Arc<ServerSessionMemoryCache>,
    flag: JoinFlag,
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        !self.flag.is_join() && self.inner.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        if self.flag.is_join() { None } else { self.inner.get(key) }
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        if self.flag.is_join() { None } else { self.inner.take(key) }
    }

    fn can_cache(&self) -> bool {
        !self.flag.is_join()
    }
}
