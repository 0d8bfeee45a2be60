//! The P-256 roots of an issuer: kept in its home, stated with its CA key, signing identities of workloads for the nodes that ask.
//!
//! Each issuer has roots of its own, so no secret travels; the mesh's bundle holds those of all. Leaves hang on a root directly: an
//! intermediate on each node could sign for every node's workloads, because no verifier in the wild holds it to a path.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshara_identity::home::WORKLOAD_KEY;
use meshara_identity::sealed::{self, FileError, FileKind};
use meshara_identity::{
    BACKDATE, IssueError, Issuer, KeyError, MeshId, MeshName, NodeId, NodeName, Passphrase, UnixMillis,
    WireError, fresh_serial, set_dates, wire as encoding,
};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{EntryName, WorkloadId, trust_domain};
use crate::jwt;
use crate::keys::{CaSigner, P256Key, P256Public, Subject, verify};
use crate::roots::{ROOTS_MAX, Root, RootsSignError, RootsStatement, SignedRoots};
use crate::wire::{Answer, Refusal, Reply, Request, is_audience, possession};

/// Life of a root: a year, since it signs from a machine that is on the network.
pub const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A root is stated this long before it signs: nodes ask for roots every few minutes and programs are pushed the bundle, but consumers of
/// the federation bundle, and nodes that were off for the night, look less often.
const PUBLISH: Duration = Duration::from_secs(24 * 3600);

/// Longest content of the file: [`ROOTS_MAX`] roots of 0.9 KB, with room.
const CONTENT_MAX: usize = 16 * 1024;

/// How long what is signed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// Of an X.509-SVID.
    pub x509: Duration,
    /// Of a JWT-SVID.
    pub jwt: Duration,
}

/// An hour, as the leaves of nodes; five minutes for tokens, which anyone who sees one can use.
impl Default for Lives {
    fn default() -> Self {
        Self { x509: Duration::from_secs(3600), jwt: Duration::from_secs(300) }
    }
}

/// Why the roots are not there, or nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The file; names it and the remedy.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is intact and holds what cannot be used.
    #[error("{}: holds no usable workload roots ({error}); restore it from a backup, or move it away: new roots are made then", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ContentError,
    },
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The statement was not signed.
    #[error(transparent)]
    Statement(#[from] RootsSignError),
    /// No root counts at this time: the clock is wrong.
    #[error("no workload root is valid now; check this machine's clock")]
    NoRoot,
}

/// What is wrong with the content of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// It does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No root, or too many.
    #[error("{0} roots")]
    Count(usize),
    /// Of another mesh or node.
    #[error("the roots are of another mesh or node")]
    Foreign,
}

/// What the file holds.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    #[zeroize(skip)]
    mesh: MeshId,
    #[zeroize(skip)]
    issuer: NodeId,
    number: u64,
    roots: Vec<StoredRoot>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredRoot {
    #[zeroize(skip)]
    public: Root,
    /// PKCS#8.
    ca_key: Vec<u8>,
    jwt_key: Vec<u8>,
}

/// One root with its secrets.
struct Secret {
    public: Root,
    ca: P256Key,
    jwt: P256Key,
}

/// The roots at one moment, and what is said about them.
struct Held {
    secrets: Vec<Arc<Secret>>,
    signed: SignedRoots,
}

/// Who asks, as the session proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requester {
    /// The node.
    pub node_id: NodeId,
    /// Its name: its workloads' identities are below it.
    pub name: NodeName,
}

/// Signs identities of workloads.
pub struct Authority {
    path: PathBuf,
    passphrase: Option<Passphrase>,
    mesh: MeshName,
    mesh_id: MeshId,
    me: NodeId,
    issuer: Arc<Issuer>,
    lives: Lives,
    held: Mutex<Arc<Held>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("statement", &self.signed().statement).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the roots in the home of an issuer, whose NodeId is `me`; makes the first one when there is none.
    ///
    /// # Errors
    /// [`AuthorityError`]. A file that doesn't open is never replaced.
    pub fn open(
        home: &Path,
        passphrase: Option<Passphrase>,
        issuer: Arc<Issuer>,
        me: NodeId,
        lives: Lives,
        now: UnixMillis,
    ) -> Result<Self, AuthorityError> {
        let path = home.join(WORKLOAD_KEY);
        let (mesh, mesh_id) = (issuer.anchors().mesh().clone(), issuer.anchors().mesh_id());
        let (secrets, number) = match load(&path, passphrase.as_ref(), mesh_id, me)? {
            Some(held) => held,
            None => {
                let secrets = vec![Arc::new(Secret::make(&mesh, me, 1, now)?)];
                let number = now.0;
                let bytes = encode(mesh_id, me, number, &secrets).map_err(RootsSignError::from)?;
                sealed::create(&path, FileKind::Workload, &bytes, passphrase.as_ref())?;
                (secrets, number)
            }
        };
        let held = Held::new(mesh_id, me, number, secrets, &issuer)?;
        let authority =
            Self { path, passphrase, mesh, mesh_id, me, issuer, lives, held: Mutex::new(Arc::new(held)) };
        authority.refresh(now)?;
        Ok(authority)
    }

    /// Opens the roots of a home as [`Authority::open`] does, and closes them again; nothing is made where there are none.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn check(
        home: &Path,
        passphrase: Option<&Passphrase>,
        mesh: MeshId,
        me: NodeId,
    ) -> Result<(), AuthorityError> {
        load(&home.join(WORKLOAD_KEY), passphrase, mesh, me).map(drop)
    }

    /// Makes the next root when half of the newest one's life is over, and drops those that have ended; whether anything changed. What is
    /// stated is on the disk. Blocks meanwhile.
    ///
    /// # Errors
    /// [`AuthorityError`]; what was held is still held then.
    pub fn refresh(&self, now: UnixMillis) -> Result<bool, AuthorityError> {
        // Only the driver's one task comes here; signing reads what was there before meanwhile.
        let before = self.held();
        let mut secrets: Vec<_> =
            before.secrets.iter().filter(|secret| now < secret.public.not_after).cloned().collect();
        let newest = before.secrets.iter().map(|secret| secret.public.number).max().unwrap_or(0);
        let fresh = |secret: &Arc<Secret>| now.plus(ROOT_LIFE / 2) <= secret.public.not_after;
        if !secrets.iter().any(fresh) && secrets.len() < ROOTS_MAX {
            secrets.push(Arc::new(Secret::make(&self.mesh, self.me, newest + 1, now)?));
        } else if secrets.len() == before.secrets.len() {
            return Ok(false);
        }
        // The time, so that a root which replaces a lost file's is believed over those.
        let number = now.0.max(before.signed.statement.number + 1);
        let bytes = encode(self.mesh_id, self.me, number, &secrets).map_err(RootsSignError::from)?;
        let held = Held::new(self.mesh_id, self.me, number, secrets, &self.issuer)?;
        sealed::replace(&self.path, FileKind::Workload, &bytes, self.passphrase.as_ref())?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
        Ok(true)
    }

    /// What this issuer says about its roots.
    pub fn signed(&self) -> SignedRoots {
        self.held().signed.clone()
    }

    /// Answers a member. It gets identities below its own name and no others.
    pub fn answer(&self, from: &Requester, request: &Request, now: UnixMillis) -> Reply {
        let held = self.held();
        let answer = match request {
            Request::Roots => Ok(Answer::Roots),
            Request::X509 { entry, key, proof } => {
                let id = self.id(from, entry.as_ref());
                match verify(key, &possession(&self.mesh_id, &from.node_id, &id, key), proof) {
                    Ok(()) => self.x509(&held, &id, key, now).map(Answer::X509),
                    Err(_) => Ok(Answer::Refused(Refusal::BadProof)),
                }
            }
            Request::Jwt { audience, .. } if !is_audience(audience) => {
                Ok(Answer::Refused(Refusal::BadAudience))
            }
            Request::Jwt { entry, audience } => {
                let id = self.id(from, entry.as_ref());
                self.jwt(&held, &id, audience, now).map(Answer::Jwt)
            }
        };
        let answer = answer.unwrap_or_else(|error| {
            tracing::warn!(node = %from.name, %error, "no identity was issued for a workload");
            Answer::Refused(Refusal::Internal)
        });
        Reply { roots: held.signed.clone(), answer }
    }

    fn held(&self) -> Arc<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn id(&self, from: &Requester, entry: Option<&EntryName>) -> WorkloadId {
        WorkloadId::new(&self.mesh, &from.name, entry)
    }

    fn x509(
        &self,
        held: &Held,
        id: &WorkloadId,
        key: &P256Public,
        now: UnixMillis,
    ) -> Result<Vec<u8>, AuthorityError> {
        let root = held.signing(now).ok_or(AuthorityError::NoRoot)?;
        let mut params = CertificateParams::default();
        let not_before = now.minus(BACKDATE).max(root.public.not_before);
        set_dates(&mut params, not_before, now.plus(self.lives.x509).min(root.public.not_after))?;
        params.serial_number = Some(fresh_serial()?.to_vec().into());
        params.distinguished_name = DistinguishedName::new();
        // No common name: some verifiers would take it for a host's.
        params.distinguished_name.push(DnType::OrganizationName, self.mesh.as_str());
        params.subject_alt_names = vec![uri(&id.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let ca = rcgen::Issuer::new(ca_params(&self.mesh, self.me, root.public.number)?, CaSigner(&root.ca));
        let leaf = params.signed_by(&Subject(key), &ca).map_err(|_| IssueError::Encoding)?;
        Ok(leaf.der().to_vec())
    }

    fn jwt(
        &self,
        held: &Held,
        id: &WorkloadId,
        audience: &[String],
        now: UnixMillis,
    ) -> Result<String, AuthorityError> {
        let root = held.signing(now).ok_or(AuthorityError::NoRoot)?;
        let end = now.plus(self.lives.jwt).min(root.public.not_after);
        Ok(jwt::sign(&root.jwt, &id.to_string(), audience, now, end)?)
    }
}

impl Held {
    fn new(
        mesh: MeshId,
        issuer: NodeId,
        number: u64,
        secrets: Vec<Arc<Secret>>,
        signer: &Issuer,
    ) -> Result<Self, AuthorityError> {
        let roots = secrets.iter().map(|secret| secret.public.clone()).collect();
        let signed = SignedRoots::sign(RootsStatement { mesh, issuer, number, roots }, signer)?;
        Ok(Self { secrets, signed })
    }

    /// The newest root that verifiers have had time to hear of, else the oldest.
    fn signing(&self, now: UnixMillis) -> Option<&Secret> {
        let valid = || self.secrets.iter().filter(|secret| secret.public.is_valid_at(now));
        let known = |secret: &&Arc<Secret>| secret.public.not_before.plus(BACKDATE + PUBLISH) <= now;
        let by_number = |secret: &&Arc<Secret>| secret.public.number;
        let newest = valid().filter(known).max_by_key(by_number);
        newest.or_else(|| valid().min_by_key(by_number)).map(AsRef::as_ref)
    }
}

impl Secret {
    fn make(mesh: &MeshName, issuer: NodeId, number: u64, now: UnixMillis) -> Result<Self, AuthorityError> {
        let (ca, jwt) = (P256Key::generate()?, P256Key::generate()?);
        // Certificates count whole seconds.
        let whole = |time: UnixMillis| UnixMillis(time.seconds().saturating_mul(1000));
        let (not_before, not_after) = (whole(now.minus(BACKDATE)), whole(now.plus(ROOT_LIFE)));
        let mut params = ca_params(mesh, issuer, number)?;
        set_dates(&mut params, not_before, not_after)?;
        params.serial_number = Some(fresh_serial()?.to_vec().into());
        let certificate = params.self_signed(&CaSigner(&ca)).map_err(|_| IssueError::Encoding)?;
        let jwt_key = jwt.public().clone();
        let public = Root { number, ca_der: certificate.der().to_vec(), jwt_key, not_before, not_after };
        Ok(Self { public, ca, jwt })
    }
}

/// What a signing certificate says apart from its dates; the same again at each issuance, because a leaf names its issuer.
fn ca_params(mesh: &MeshName, issuer: NodeId, number: u64) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, mesh.as_str());
    let name = format!("workload root {} {number}", issuer.short());
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&trust_domain(mesh))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    Ia5String::try_from(text).map(SanType::URI).map_err(|_| IssueError::Encoding)
}

fn encode(
    mesh: MeshId,
    issuer: NodeId,
    number: u64,
    secrets: &[Arc<Secret>],
) -> Result<Zeroizing<Vec<u8>>, WireError> {
    let stored = |secret: &Arc<Secret>| StoredRoot {
        public: secret.public.clone(),
        ca_key: secret.ca.pkcs8().to_vec(),
        jwt_key: secret.jwt.pkcs8().to_vec(),
    };
    let stored = Stored { mesh, issuer, number, roots: secrets.iter().map(stored).collect() };
    encoding::encode(&stored).map(Zeroizing::new)
}

/// Roots, and the number of what was last said about them.
type Loaded = (Vec<Arc<Secret>>, u64);

/// What the file holds; `None` without one.
fn load(
    path: &Path,
    passphrase: Option<&Passphrase>,
    mesh: MeshId,
    me: NodeId,
) -> Result<Option<Loaded>, AuthorityError> {
    let bytes = match sealed::read(path, FileKind::Workload, passphrase) {
        Ok(bytes) => bytes,
        Err(FileError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let content = |error| AuthorityError::Content { path: path.to_owned(), error };
    decode(&bytes, mesh, me).map(Some).map_err(content)
}

fn decode(bytes: &[u8], mesh: MeshId, issuer: NodeId) -> Result<Loaded, ContentError> {
    let stored: Stored = encoding::decode(bytes, CONTENT_MAX)?;
    if stored.mesh != mesh || stored.issuer != issuer {
        return Err(ContentError::Foreign);
    }
    if !(1..=ROOTS_MAX).contains(&stored.roots.len()) {
        return Err(ContentError::Count(stored.roots.len()));
    }
    let key = |pkcs8: &[u8]| P256Key::from_pkcs8(Zeroizing::new(pkcs8.to_vec()));
    let secret = |root: &StoredRoot| {
        let (ca, jwt) = (key(&root.ca_key)?, key(&root.jwt_key)?);
        if *jwt.public() != root.public.jwt_key {
            return Err(ContentError::Key(KeyError::Rejected));
        }
        Ok(Arc::new(Secret { public: root.public.clone(), ca, jwt }))
    };
    let secrets = stored.roots.iter().map(secret).collect::<Result<_, _>>()?;
    Ok((secrets, stored.number))
}

/// Entry for fuzzing: reads `bytes` as the content of the file; whether it is one.
#[doc(hidden)]
pub fn decodes(bytes: &[u8]) -> bool {
    encoding::decode::<Stored>(bytes, CONTENT_MAX).is_ok()
}
