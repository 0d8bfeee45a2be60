//! TLS of links, sessions and joins: one suite, mutual certificates, and who the peer is.
//!
//! TLS 1.3 with X25519MLKEM768, AES-128-GCM and ML-DSA-65, nothing else; see `docs/identity.md`, "TLS".

mod gate;
mod names;
mod peer;
mod revoked;
mod verifier;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use meshara_identity::{KeyError, Member, Membership, NodeId, TrustAnchors, UnixMillis};
use quinn::Connection;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use zeroize::Zeroizing;

pub use names::{Claim, Contest, Names};
pub use peer::{PeerError, admit, alpn, peer_leaf, verified_member};
pub use revoked::Revoked;
use verifier::{MemberVerifier, PossessionVerifier};

/// ALPN of links between neighbours.
pub const ALPN_LINK: &[u8] = b"meshara-link/1";
/// ALPN of joining, where the client has no certificate yet.
pub const ALPN_JOIN: &[u8] = b"meshara-join/1";
/// ALPN of end-to-end sessions.
pub const ALPN_SESSION: &[u8] = b"meshara-session/1";

/// The server name in every ClientHello: the same for all, so it tells an observer nothing about who is called.
pub const SERVER_NAME: &str = "meshara";

/// Sessions that a server remembers for resumption. Each holds the client's chain, 6 KB: 1.5 MB at most.
const SERVER_SESSIONS: usize = 256;

/// Peers whose client configuration (with its resumption tickets) is kept; more than neighbours and busy sessions.
const CLIENT_PEERS: usize = 256;

/// The only algorithm in certificates and handshakes.
static ML_DSA_65: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ML_DSA_65],
    mapping: &[(SignatureScheme::ML_DSA_65, &[webpki::aws_lc_rs::ML_DSA_65])],
};

/// Why no TLS configuration came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The library refused certificate, key or settings.
    #[error("TLS settings: {0}")]
    Rustls(#[from] rustls::Error),
    /// QUIC's first packets need AES-128-GCM, which the library lacks.
    #[error("TLS settings: {0}")]
    Suite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The leaf key does not encode.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Whom a client expects at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this node.
    Node(NodeId),
    /// Any member of the mesh.
    AnyMember,
}

/// What TLS needs of a membership.
#[derive(Clone)]
pub struct TlsMaterial {
    /// Whom to trust.
    pub anchors: Arc<TrustAnchors>,
    /// Own leaf certificate.
    pub leaf_der: Vec<u8>,
    /// Its key, PKCS#8 DER.
    pub leaf_pkcs8: Zeroizing<Vec<u8>>,
}

impl TlsMaterial {
    /// Takes it from a membership.
    pub fn new(membership: &Membership) -> Result<Self, KeyError> {
        Ok(Self {
            anchors: Arc::new(membership.anchors().clone()),
            leaf_der: membership.leaf_der().to_vec(),
            leaf_pkcs8: membership.leaf_key().pkcs8_der()?,
        })
    }
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial").field("mesh", self.anchors.mesh()).finish_non_exhaustive()
    }
}

/// Makes the TLS side of all connections of a node. The certificate can be replaced while connections live.
pub struct Tls {
    state: ArcSwap<State>,
    revoked: Arc<Revoked>,
    names: Arc<Names>,
    time: Arc<dyn TimeProvider>,
    /// Carries the address-token key, which must outlive each connection's own configuration.
    server: quinn::ServerConfig,
}

/// Client configurations by ALPN and expected node; each holds the tickets of that node.
type Clients = BTreeMap<(Vec<u8>, NodeId), Arc<QuicClientConfig>>;

/// Everything that a new certificate replaces, resumption state included.
struct State {
    anchors: Arc<TrustAnchors>,
    revoked: Arc<Revoked>,
    names: Arc<Names>,
    own: Arc<SingleCertAndKey>,
    link_sessions: Arc<ServerSessionMemoryCache>,
    session_sessions: Arc<ServerSessionMemoryCache>,
    clients: Mutex<Clients>,
    /// Prototype that every client configuration is cloned from; its verifier refuses everyone.
    client: ClientConfig,
    /// Fallback that refuses everyone, should a library refuse a configuration it accepted before.
    closed: Arc<QuicClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("mesh", self.anchors().mesh()).finish_non_exhaustive()
    }
}

impl Tls {
    /// Uses this machine's clock.
    pub fn new(material: &TlsMaterial) -> Result<Self, TlsError> {
        Self::with_time(material, Arc::new(DefaultTimeProvider))
    }

    /// Uses the given clock for every check of a certificate.
    pub fn with_time(material: &TlsMaterial, time: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        let revoked = Arc::<Revoked>::default();
        let names = Arc::<Names>::default();
        let state = State::new(material, &time, &revoked, &names)?;
        let strict = gate::server_config(&state, &time, &[ALPN_LINK], &state.link_sessions)?;
        let server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(strict)?));
        Ok(Self { state: ArcSwap::from_pointee(state), revoked, names, time, server })
    }

    /// Uses a new certificate from now on. Connections that live keep theirs; nothing old is resumed.
    pub fn replace(&self, material: &TlsMaterial) -> Result<(), TlsError> {
        self.state.store(Arc::new(State::new(material, &self.time, &self.revoked, &self.names)?));
        Ok(())
    }

    /// Whom this node trusts.
    pub fn anchors(&self) -> Arc<TrustAnchors> {
        self.state.load().anchors.clone()
    }

    /// Who is revoked: whatever is put in there is refused from then on.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// Whose each name is.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Configuration for dialling a link or session: shows the own certificate, requires the expected peer's.
    ///
    /// Only connections to a named node are resumed: a ticket is then never shown to, or taken from, another.
    pub fn client_config(&self, alpn: &[u8], expect: Expect) -> quinn::ClientConfig {
        let state = self.state.load();
        let crypto = match expect {
            Expect::AnyMember => state.client_crypto(alpn, expect),
            Expect::Node(node) => {
                let mut clients = state.clients.lock().unwrap_or_else(PoisonError::into_inner);
                let key = (alpn.to_vec(), node);
                if clients.len() >= CLIENT_PEERS && !clients.contains_key(&key) {
                    clients.pop_first();
                }
                clients.entry(key).or_insert_with(|| state.client_crypto(alpn, expect)).clone()
            }
        };
        quinn::ClientConfig::new(crypto)
    }

    /// Configuration for ONE incoming connection of the link endpoint (links and joins), for `Incoming::accept_with`.
    ///
    /// Each connection needs its own, because whether a certificate is required depends on what its ClientHello offers.
    /// As an endpoint's default it requires a certificate of whoever does not offer the join ALPN alone.
    pub fn server_config(&self) -> quinn::ServerConfig {
        let state = self.state.load();
        self.server_for(&state, &[ALPN_LINK, ALPN_JOIN], &state.link_sessions)
    }

    /// Configuration for incoming connections of the session endpoint: always a certificate.
    pub fn session_server_config(&self) -> quinn::ServerConfig {
        let state = self.state.load();
        self.server_for(&state, &[ALPN_SESSION], &state.session_sessions)
    }

    fn server_for(
        &self,
        state: &State,
        alpns: &[&[u8]],
        sessions: &Arc<ServerSessionMemoryCache>,
    ) -> quinn::ServerConfig {
        let mut config = self.server.clone();
        // Settings that were accepted when this was made are accepted again; if not, the strict default stays.
        if let Ok(crypto) = gate::server_config(state, &self.time, alpns, sessions)
            && let Ok(crypto) = QuicServerConfig::try_from(crypto)
        {
            config.crypto = Arc::new(crypto);
        }
        config
    }

    /// Who the peer of a connection is, at this moment; a refused connection is closed with the code of its error.
    ///
    /// To be called on every connection, accepted or dialled: resumption skips the verifiers.
    pub fn member(&self, connection: &Connection) -> Result<Member, PeerError> {
        self.expected_member(connection, Expect::AnyMember)
    }

    /// As [`member`](Self::member), and it must be the expected one.
    pub fn expected_member(&self, connection: &Connection, expect: Expect) -> Result<Member, PeerError> {
        let now = self.now()?;
        let member = admit(connection, &self.anchors(), expect, now)?;
        let refused = if self.revoked.contains(&member.node_id) {
            PeerError::Revoked { node: member.node_id }
        } else if self.revoked.contains(&member.issuer) {
            PeerError::IssuerRevoked { issuer: member.issuer }
        } else {
            match self.names.admit(&member, &self.revoked, now) {
                Ok(()) => return Ok(member),
                Err(holder) => PeerError::NameHeld { name: member.name, holder },
            }
        };
        Err(refused.close(connection))
    }

    /// The time that certificates are checked at.
    fn now(&self) -> Result<UnixMillis, PeerError> {
        let time = self.time.current_time().ok_or(PeerError::NoClock)?;
        Ok(UnixMillis(0).plus(Duration::from_secs(time.as_secs())))
    }
}

impl State {
    fn new(
        material: &TlsMaterial,
        time: &Arc<dyn TimeProvider>,
        revoked: &Arc<Revoked>,
        names: &Arc<Names>,
    ) -> Result<Self, TlsError> {
        if let Ok(own) = material.anchors.inspect_leaf(&material.leaf_der) {
            names.own(&own);
        }
        let provider = provider();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(material.leaf_pkcs8.to_vec()));
        let chain = vec![CertificateDer::from(material.leaf_der.clone())];
        let own = CertifiedKey::from_der(chain, key, &provider)?;
        let own = Arc::new(SingleCertAndKey::from(own));
        let client = ClientConfig::builder_with_details(provider, time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(MemberVerifier::nobody()))
            .with_client_cert_resolver(own.clone());
        let closed = Arc::new(QuicClientConfig::try_from(client.clone())?);
        Ok(Self {
            anchors: material.anchors.clone(),
            revoked: revoked.clone(),
            names: names.clone(),
            own,
            link_sessions: ServerSessionMemoryCache::new(SERVER_SESSIONS),
            session_sessions: ServerSessionMemoryCache::new(SERVER_SESSIONS),
            clients: Mutex::default(),
            client,
            closed,
        })
    }

    fn client_crypto(&self, alpn: &[u8], expect: Expect) -> Arc<QuicClientConfig> {
        let mut config = self.client.clone();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = match expect {
            Expect::Node(_) => Resumption::in_memory_sessions(1),
            Expect::AnyMember => Resumption::disabled(),
        };
        let verifier = MemberVerifier::new(self, expect);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        QuicClientConfig::try_from(config).map_or_else(|_| self.closed.clone(), Arc::new)
    }
}

/// Configuration of a newcomer: no certificate of its own, and of the server only proof that it owns its key.
///
/// The newcomer cannot verify more yet: which issuers the mesh has, it learns from `MeshInfo` on this connection. It
/// then checks [`peer_leaf`] under its ticket's fingerprint ([`MeshInfo::check`](meshara_identity::MeshInfo::check))
/// before it sends anything. Nothing is resumed.
pub fn join_client_config() -> Result<quinn::ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PossessionVerifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?)))
}

/// aws-lc with everything taken out but one algorithm of each kind.
///
/// AES-128-GCM is also what QUIC protects its first packets with, and the fastest where the processor has AES.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        signature_verification_algorithms: ML_DSA_65,
        ..aws_lc_rs::default_provider()
    })
}

/// Random bytes for numbering, not for secrets: zeros when the system has no randomness.
pub(crate) fn random() -> [u8; 4] {
    let mut bytes = [0; 4];
    // Numbers that start at zero are as good; only frames of an earlier life are told apart less well.
    let _ = ::aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
