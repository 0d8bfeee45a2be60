//! An issuer that signs any certificate, to show what is wrong with one that is signed well.

use std::time::Duration;

use meshara_identity::{IssuerKey, LeafKey, NodeKey, RootKey, RoutingKey, TrustAnchors};

use super::NOW;

/// A mesh whose issuer signs what the test writes.
pub(crate) struct Forger {
    pub(crate) anchors: TrustAnchors,
    issuer: rcgen::Issuer<'static, CaKey>,
}

struct CaKey(::aws_lc_rs::signature::PqdsaKeyPair);

impl rcgen::PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        ::aws_lc_rs::signature::KeyPair::public_key(&self.0).as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ML_DSA_65
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut signature = vec![0; 3309];
        self.0.sign(message, &mut signature).unwrap();
        Ok(signature)
    }
}

impl Forger {
    pub(crate) fn new() -> Self {
        let (root, key) = (RootKey::generate().unwrap(), IssuerKey::generate().unwrap());
        let node = NodeKey::generate().unwrap().node_id();
        let grant = key.grant(&root, &"lab".parse().unwrap(), node, 1, NOW).unwrap();
        let anchors = TrustAnchors::new(root.public().clone(), "lab".parse().unwrap(), vec![grant]).unwrap();
        let algorithm = &::aws_lc_rs::signature::ML_DSA_65_SIGNING;
        let pair = ::aws_lc_rs::signature::PqdsaKeyPair::from_seed(algorithm, key.seed().as_slice()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let subject = format!("lab issuer {} 1", node.short());
        params.distinguished_name.push(rcgen::DnType::CommonName, subject);
        Self { anchors, issuer: rcgen::Issuer::new(params, CaKey(pair)) }
    }

    /// A leaf that is right apart from what is given; its extension is copied from a real one.
    pub(crate) fn leaf(&self, uris: &[&str], extension: Option<&[u8]>) -> (Vec<u8>, LeafKey) {
        struct Subject(LeafKey);
        impl rcgen::PublicKeyData for Subject {
            fn der_bytes(&self) -> &[u8] {
                self.0.public_key().as_ref()
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                &rcgen::PKCS_ML_DSA_65
            }
        }
        let mut params = rcgen::CertificateParams::default();
        let day = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(NOW.0);
        (params.not_before, params.not_after) =
            (day - Duration::from_secs(60), day + Duration::from_secs(60));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "mallory");
        let uri = |uri: &&str| rcgen::SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let arcs =
            [1, 2, 840, 113_556, 1, 8000, 2554, 31102, 14517, 36900, 16917, 47623, 10_674_973, 13_632_586];
        if let Some(content) = extension {
            params.custom_extensions =
                vec![rcgen::CustomExtension::from_oid_content(&arcs, content.to_vec())];
        }
        let subject = Subject(LeafKey::generate().unwrap());
        let der = params.signed_by(&subject, &self.issuer).unwrap().der().to_vec();
        (der, subject.0)
    }

    pub(crate) fn extension() -> Vec<u8> {
        let routing = RoutingKey::generate().unwrap().public_key();
        [&[4, 65, 1], [9; 32].as_slice(), &routing].concat()
    }
}
