//! Peers that an honest node never is: they believe every certificate, and show what they like.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshara_identity::home::Identity;
use meshara_transport::tls::{ALPN_LINK, Tls};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureAlgorithm,
    SignatureScheme,
};

/// A server whose every connection gets a fresh configuration, as the driver does it.
pub(crate) struct Server {
    endpoint: Endpoint,
    config: Box<dyn Fn() -> quinn::ServerConfig + Send>,
}

impl Server {
    pub(crate) fn new(config: impl Fn() -> quinn::ServerConfig + Send + 'static) -> Self {
        let endpoint = Endpoint::server(config(), (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { endpoint, config: Box::new(config) }
    }

    pub(crate) fn link(tls: Tls) -> Self {
        Self::new(move || tls.server_config())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> Result<Connection, ConnectionError> {
        let incoming = self.endpoint.accept().await.unwrap();
        incoming.accept_with(Arc::new((self.config)()))?.await
    }
}

/// Believes every certificate, so that only the other side can refuse.
#[derive(Debug)]
pub(crate) struct Credulous(pub(crate) Arc<CryptoProvider>);

macro_rules! credulous_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    credulous_signatures!();
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    credulous_signatures!();
}

/// Answers every request with its certificate, whatever algorithms the other side offers.
#[derive(Debug)]
struct Insistent(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Insistent {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Insistent {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Signs with its own algorithm although it was not offered.
#[derive(Debug)]
struct Stubborn(Arc<dyn SigningKey>);

impl SigningKey for Stubborn {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(&[SignatureScheme::ED25519])
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

/// What a strange peer is made of.
pub(crate) struct Strange {
    provider: Arc<CryptoProvider>,
    key: Option<Arc<CertifiedKey>>,
    alpns: Vec<Vec<u8>>,
}

impl Strange {
    pub(crate) fn new() -> Self {
        Self { provider: Arc::new(aws_lc_rs::default_provider()), key: None, alpns: vec![ALPN_LINK.to_vec()] }
    }

    pub(crate) fn classical(mut self) -> Self {
        let kx_groups = vec![aws_lc_rs::kx_group::X25519];
        self.provider = Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() });
        self
    }

    pub(crate) fn alpns(mut self, alpns: &[&[u8]]) -> Self {
        self.alpns = alpns.iter().map(|alpn| alpn.to_vec()).collect();
        self
    }

    pub(crate) fn certificate(mut self, der: &[u8], pkcs8: &[u8]) -> Self {
        let key = PrivateKeyDer::try_from(pkcs8.to_vec()).unwrap();
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        self.key = Some(Arc::new(CertifiedKey::new(vec![CertificateDer::from(der.to_vec())], key)));
        self
    }

    pub(crate) fn member(self, identity: &Identity) -> Self {
        let membership = &identity.membership;
        self.certificate(membership.leaf_der(), &membership.leaf_key().pkcs8_der().unwrap())
    }

    pub(crate) fn ed25519(self) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["meshara".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        self.certificate(certificate.der(), key.serialized_der())
    }

    pub(crate) fn stubborn(mut self) -> Self {
        let CertifiedKey { cert, key, .. } = &*self.key.unwrap();
        self.key = Some(Arc::new(CertifiedKey::new(cert.clone(), Arc::new(Stubborn(key.clone())))));
        self
    }

    pub(crate) fn client(self) -> quinn::ClientConfig {
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(self.provider)));
        let mut config = match self.key {
            Some(key) => config.with_client_cert_resolver(Arc::new(Insistent(key))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpns;
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }

    pub(crate) fn server(self) -> Server {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Credulous(self.provider)))
            .with_cert_resolver(Arc::new(Insistent(self.key.unwrap())));
        config.alpn_protocols = self.alpns;
        let crypto = Arc::new(QuicServerConfig::try_from(config).unwrap());
        let config = quinn::ServerConfig::with_crypto(crypto);
        Server::new(move || config.clone())
    }
}
