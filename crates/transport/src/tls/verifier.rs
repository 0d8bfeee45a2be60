//! What rustls asks about a peer's certificate.

use std::sync::Arc;
use std::time::Duration;

use meshara_identity::{LeafError, Member, TrustAnchors, UnixMillis};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};

use super::gate::JoinFlag;
use super::{Expect, ML_DSA_65, Names, Revoked, State};

/// Accepts members of the mesh, or one of them.
#[derive(Debug)]
pub(super) struct MemberVerifier {
    anchors: Option<Arc<TrustAnchors>>,
    revoked: Arc<Revoked>,
    names: Arc<Names>,
    expect: Expect,
    flag: JoinFlag,
}

impl MemberVerifier {
    pub(super) fn new(state: &State, expect: Expect) -> Self {
        let (revoked, names) = (state.revoked.clone(), state.names.clone());
        Self { anchors: Some(state.anchors.clone()), revoked, names, expect, flag: JoinFlag::default() }
    }

    /// Refuses everyone.
    pub(super) fn nobody() -> Self {
        let (revoked, names, flag) = (Arc::default(), Arc::default(), JoinFlag::default());
        Self { anchors: None, revoked, names, expect: Expect::AnyMember, flag }
    }

    pub(super) fn with_flag(self, flag: JoinFlag) -> Self {
        Self { flag, ..self }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Member, Error> {
        // Issuers are known by their grants; a chain is only the leaf.
        if !rest.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let anchors = self.anchors.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        let now = UnixMillis(0).plus(Duration::from_secs(now.as_secs()));
        let member = anchors.verify_leaf(leaf, now).map_err(|error| certificate_error(&error))?;
        if self.revoked.refuses(&member) {
            return Err(CertificateError::Revoked.into());
        }
        let wrong = matches!(self.expect, Expect::Node(node) if node != member.node_id);
        if wrong || self.names.admit(&member, &self.revoked, now).is_err() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(member)
    }
}

/// rustls sends the alert that belongs to each: 45, 48, 49, 42, 43 (RFC 8446, 6.2).
fn certificate_error(error: &LeafError) -> CertificateError {
    match error {
        LeafError::Expired { .. } | LeafError::IssuerNotValid { .. } => CertificateError::Expired,
        LeafError::NotYetValid { .. } => CertificateError::NotValidYet,
        LeafError::UnknownIssuer | LeafError::IssuerDropped => CertificateError::UnknownIssuer,
        LeafError::WrongMesh { .. } => CertificateError::ApplicationVerificationFailure,
        LeafError::BadSpiffeId => CertificateError::NotValidForName,
        LeafError::BadPurpose => CertificateError::InvalidPurpose,
        _ => CertificateError::BadEncoding,
    }
}

fn verify_handshake(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, leaf, signature, &ML_DSA_65)
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, rest, now).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_handshake(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ML_DSA_65.supported_schemes()
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn offer_client_auth(&self) -> bool {
        !self.flag.is_join()
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.flag.is_join()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, rest, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_handshake(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ML_DSA_65.supported_schemes()
    }
}

/// A newcomer's: any certificate, as long as the server owns its key. `MeshInfo::check` judges it afterwards.
#[derive(Debug)]
pub(super) struct PossessionVerifier;

impl ServerCertVerifier for PossessionVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if rest.is_empty() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::BadEncoding.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_handshake(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ML_DSA_65.supported_schemes()
    }
}
