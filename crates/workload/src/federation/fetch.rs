//! Fetches the bundle of another trust domain from its endpoint (SPIFFE_Federation, 5).

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::foreign::{DOCUMENT_MAX, ForeignBundle};
use crate::check;

/// Time for name, connection, handshake and answer together: several round trips around the world and a slow server, many times over.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest URL; those of endpoints have a few dozen bytes.
const URL_MAX: usize = 1024;
/// HTTPS.
const PORT: u16 = 443;

/// Where a trust domain hands out its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    text: String,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// As the header `Host` has it.
    authority: String,
    path: String,
}

/// A text that is no URL of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the URL of a bundle endpoint reads https://HOST[:PORT]/PATH, without a user")]
pub struct ParseUrlError;

impl FromStr for EndpointUrl {
    type Err = ParseUrlError;

    fn from_str(text: &str) -> Result<Self, ParseUrlError> {
        let uri: Uri = text.parse().map_err(|_| ParseUrlError)?;
        let authority = uri.authority().ok_or(ParseUrlError)?;
        let odd = text.len() > URL_MAX || text.contains('#') || authority.as_str().contains('@');
        if uri.scheme_str() != Some("https") || odd || authority.host().is_empty() {
            return Err(ParseUrlError);
        }
        // A port that is none is no default.
        let port = match (authority.port(), authority.port_u16()) {
            (None, _) if authority.as_str() == authority.host() => PORT,
            (Some(_), Some(port)) if port != 0 => port,
            _ => return Err(ParseUrlError),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { text: text.to_owned(), host, port, authority: authority.to_string(), path })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How an endpoint proves itself.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// Profile `https_spiffe`: with the X.509-SVID of this SPIFFE ID, under the bundle held of its trust domain.
    Spiffe {
        /// Its whole SPIFFE ID.
        id: String,
        /// The bundle.
        bundle: Arc<ForeignBundle>,
    },
    /// Profile `https_web`: with a certificate for its host, under the authorities that this machine trusts (`SSL_CERT_FILE` and
    /// `SSL_CERT_DIR`, or those of the system).
    Web,
}

/// Why no bundle was fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No connection.
    #[error("the endpoint can't be reached: {0}")]
    Connect(io::ErrorKind),
    /// The endpoint isn't who it should be, or speaks no TLS 1.3.
    #[error("the endpoint did not prove itself: {0}")]
    Tls(String),
    /// This machine trusts no authority of the web.
    #[error(
        "this machine has no certificate authorities for HTTPS; install them, or use the profile https_spiffe"
    )]
    NoAuthorities,
    /// An answer other than 200. Redirections aren't followed.
    #[error("the endpoint answered with status {0}")]
    Status(u16),
    /// The answer breaks off, or is no HTTP.
    #[error("the endpoint's answer does not read")]
    Http,
    /// The answer is larger than [`DOCUMENT_MAX`].
    #[error("the endpoint's answer is larger than 60 KiB")]
    TooLarge,
    /// No answer in time.
    #[error("the endpoint did not answer within 15 s")]
    Timeout,
}

/// Fetches a document.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(url: &EndpointUrl, trust: ServerTrust) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(TIMEOUT, fetch_unbounded(url, trust)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn fetch_unbounded(url: &EndpointUrl, trust: ServerTrust) -> Result<Vec<u8>, FetchError> {
    let verifier = verifier(trust).await?;
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| FetchError::Connect(io::ErrorKind::InvalidInput))?;
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
    let stream = stream.map_err(|error| FetchError::Connect(error.kind()))?;
    let config = client(verifier).map_err(|error| FetchError::Tls(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|error| FetchError::Tls(error.to_string()))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| FetchError::Http)?;
    let request = Request::get(&url.path)
        .header(HOST, &url.authority)
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Http)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|_| FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::Http }
        })?;
        Ok(body.to_bytes().to_vec())
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        result = &mut answered => result,
        // It ends before the answer was read to its end when the server closes at once.
        _ = connection => answered.await,
    }
}

fn client(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Resumption would skip the check of the certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

async fn verifier(trust: ServerTrust) -> Result<Arc<dyn ServerCertVerifier>, FetchError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    match trust {
        ServerTrust::Spiffe { id, bundle } => {
            roots.add_parsable_certificates(bundle.authorities());
            Ok(Arc::new(SpiffeVerifier { id, roots, provider }))
        }
        ServerTrust::Web => {
            // Reads files.
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let found = found.map_err(|_| FetchError::NoAuthorities)?;
            roots.add_parsable_certificates(found.certs);
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            // It has none only without roots.
            Ok(verifier.map_err(|_| FetchError::NoAuthorities)?)
        }
    }
}

/// Verifies an endpoint by its SPIFFE ID; the host's name says nothing.
#[derive(Debug)]
struct SpiffeVerifier {
    id: String,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        if check::spiffe_id(end_entity).as_deref() != Some(self.id.as_str()) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Never offered.
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_https_and_exact() {
        let url: EndpointUrl = "https://example.org".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("example.org", 443, "/"));
        let url: EndpointUrl = "https://[::1]:8443/bundle?x=1".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 8443, "/bundle?x=1"));
        assert_eq!(url.authority, "[::1]:8443");
        assert_eq!(url.to_string(), "https://[::1]:8443/bundle?x=1");
        for bad in [
            "",
            "example.org",
            "http://example.org/",
            "https://",
            "https:///x",
            "https://u@example.org/",
            "https://u:p@example.org/",
            "https://example.org:0/",
            "https://example.org:99999/",
            "https://example.org:/",
            "https://example.org/#x",
        ] {
            assert_eq!(bad.parse::<EndpointUrl>(), Err(ParseUrlError), "{bad}");
        }
    }
}
