//! What signers do without a node and without a network: keys, looking at statements, signing, proposing versions of the root document.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshara_identity::home::{self, AUTHORITY_KEY, HomeError, ROOT_KEY};
use meshara_identity::keys::MlDsaPublic;
use meshara_identity::sealed::FileError;
use meshara_identity::{
    IssuerGrant, MeshId, NodeId, NodeName, Passphrase, RootPublic, TrustError, UnixMillis, WireError,
};
use meshara_trust::policy::write as policy_text;
use meshara_trust::revocation::Revocations;
use meshara_trust::root::{
    CHAIN_FILE_MAX, DetachedSignature, OfflineError, PUBLIC_KEY_FILE_MAX, ROOT_LIFE_MAX, RootDocument,
    RootError, SIGNATURE_FILE_MAX, STATEMENT_FILE_MAX, SignedRoot, StandingGrant, StandingGrants, Statement,
    StatementFile, TrustedRoot, decode_chain, decode_chain_with, decode_public_key, encode_chain_with,
    encode_public_key,
};
use meshara_trust::sets::{KeyId, Quorum, QuorumError, SetBody, SetHead, SetKind, Signer};

use super::signing::JournalFile;
pub use super::signing::SigningError;
use super::{gates, proposals, signing};
use crate::api::Timestamp;
use crate::api::root::{
    GrantInfo, GrantName, KeyInfo, QuorumInfo, RevocationInfo, RootInfo, SignatureInfo, SignerInfo,
    StatementInfo,
};
use crate::node::trust::{files, log};

/// Ending of a file with the public keys of a signer.
const PUBLIC: &str = "pub";

/// Why a signer's command did nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// A key.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What a file holds.
    #[error("{path}: {error}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: OfflineError,
    },
    /// Nothing was signed.
    #[error("nothing was signed: {0}")]
    Signing(#[from] SigningError),
    /// The signer looked at it and said no, or could not be asked.
    #[error("nothing was signed")]
    Declined,
    /// A home without keys.
    #[error("{home}: holds no signer's keys", home = home.display())]
    NoKey {
        /// The home.
        home: PathBuf,
    },
    /// A home without a root document.
    #[error("{home}: holds no root document", home = home.display())]
    NoRoot {
        /// The home.
        home: PathBuf,
    },
    /// The chain doesn't verify.
    #[error("the root documents do not verify: {0}")]
    Root(#[from] RootError),
    /// Signers and threshold.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// What the home holds of issuers.
    #[error("the issuers' grants do not verify: {0}")]
    Grants(TrustError),
    /// An export of an earlier version, which doesn't say which grants stand: a version proposed from it would end every issuer.
    #[error("{path}: does not say which issuers the mesh has: export it again with this version", path = path.display())]
    NamesNoGrants {
        /// The file.
        path: PathBuf,
    },
    /// A signer that was named without keys, and isn't one.
    #[error("{0} is no signer now: give the public keys as {0}=FILE")]
    UnknownSigner(NodeName),
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

fn read(path: &Path, max: usize) -> Result<Vec<u8>, SignerError> {
    let file = fs::File::open(path).map_err(|error| FileError::io(path, "open", &error))?;
    let mut bytes = Vec::new();
    let limit = max as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| FileError::io(path, "read", &error))?;
    if bytes.len() > max {
        let error = WireError::TooLarge { len: bytes.len(), max }.into();
        return Err(SignerError::Content { path: path.to_owned(), error });
    }
    Ok(bytes)
}

fn content<T>(
    path: &Path,
    max: usize,
    decode: impl FnOnce(&[u8]) -> Result<T, OfflineError>,
) -> Result<T, SignerError> {
    let bytes = read(path, max)?;
    decode(&bytes).map_err(|error| SignerError::Content { path: path.to_owned(), error })
}

/// Makes a signer's keys: the secret ones in `path`, the public ones beside it. Without a path the home's own, with which its node signs.
pub fn new_key(
    home: &Path,
    path: Option<&Path>,
    passphrase: Option<&Passphrase>,
) -> Result<KeyInfo, SignerError> {
    let path = path.map_or_else(|| home.join(AUTHORITY_KEY), Path::to_owned);
    let public = signing::beside(&path, PUBLIC);
    let key = home::create_signer(&path, passphrase)?;
    proposals::put(&public, &encode_public_key(key.public())?)?;
    let id = KeyId::of(key.public()).to_string();
    Ok(KeyInfo { key: id, file: path, public, sealed: passphrase.is_some() })
}

/// Writes the public keys of a key file (of the home's own without one) to `to`.
pub fn write_public(
    home: &Path,
    path: Option<&Path>,
    passphrase: Option<&Passphrase>,
    to: &Path,
) -> Result<KeyInfo, SignerError> {
    let (path, key) = key_of(home, path, passphrase)?;
    proposals::put(to, &encode_public_key(key.public())?)?;
    let id = KeyId::of(key.public()).to_string();
    Ok(KeyInfo { key: id, file: path, public: to.to_owned(), sealed: passphrase.is_some() })
}

/// The named key, else the home's own, else the mesh root of a home that made the mesh.
fn key_of(
    home: &Path,
    path: Option<&Path>,
    passphrase: Option<&Passphrase>,
) -> Result<(PathBuf, meshara_identity::RootKey), SignerError> {
    if let Some(path) = path {
        return Ok((path.to_owned(), home::load_signer(path, passphrase)?));
    }
    for name in [AUTHORITY_KEY, ROOT_KEY] {
        let path = home.join(name);
        if path.exists() {
            let key = home::load_signer(&path, passphrase)?;
            return Ok((path, key));
        }
    }
    Err(SignerError::NoKey { home: home.to_owned() })
}

/// What a statement file holds, and what of it is new to a home.
pub fn look(home: &Path, passphrase: Option<&Passphrase>, path: &Path) -> Result<StatementInfo, SignerError> {
    let file = content(path, STATEMENT_FILE_MAX, StatementFile::decode)?;
    let statement =
        file.statement().map_err(|error| SignerError::Content { path: path.to_owned(), error })?;
    Ok(statement_info(path, &statement, Some((home, passphrase))))
}

/// Writes a file that is handed to others, in one step.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), SignerError> {
    Ok(proposals::put(path, bytes)?)
}

/// Signs a statement file, once `agree` has seen what it holds and said yes; where the signature is. Nothing that can't be read is signed.
pub fn sign(
    home: &Path,
    path: &Path,
    key: Option<&Path>,
    passphrase: Option<&Passphrase>,
    to: Option<&Path>,
    instead: bool,
    agree: impl FnOnce(&StatementInfo) -> bool,
) -> Result<(StatementInfo, SignatureInfo), SignerError> {
    let file = content(path, STATEMENT_FILE_MAX, StatementFile::decode)?;
    let statement =
        file.statement().map_err(|error| SignerError::Content { path: path.to_owned(), error })?;
    let info = statement_info(path, &statement, Some((home, passphrase)));
    let (key_path, key) = key_of(home, key, passphrase)?;
    if !agree(&info) {
        return Err(SignerError::Declined);
    }
    let journal = JournalFile::of_key(&key_path)?;
    let signature = signing::sign(&file, &key, &journal, instead)?;
    let to = to.map_or_else(|| proposals::signature_of(path, &signature), Path::to_owned);
    proposals::put(&to, &signature.encode()?)?;
    Ok((info, SignatureInfo { key: signature.key().to_string(), file: to }))
}

/// A statement file and its signatures as bytes, to be published by a node. Without names, the signatures that stand beside it.
pub fn collect(path: &Path, signatures: &[PathBuf]) -> Result<(Vec<u8>, Vec<Vec<u8>>), SignerError> {
    content(path, STATEMENT_FILE_MAX, StatementFile::decode)?;
    let beside = proposals::signatures_beside(path);
    let signatures = if signatures.is_empty() { beside.as_slice() } else { signatures };
    let mut found = Vec::new();
    for path in signatures {
        content(path, SIGNATURE_FILE_MAX, DetachedSignature::decode)?;
        found.push(read(path, SIGNATURE_FILE_MAX)?);
    }
    Ok((read(path, STATEMENT_FILE_MAX)?, found))
}

/// All versions that a home holds.
fn chain_of(home: &Path) -> Result<Vec<SignedRoot>, SignerError> {
    let roots = files::read_roots(home)?;
    if roots.is_empty() { Err(SignerError::NoRoot { home: home.to_owned() }) } else { Ok(roots) }
}

/// The mesh of a chain that wasn't verified: its first version's root has that fingerprint, or it is none.
fn walk(chain: &[SignedRoot], mesh: Option<MeshId>, now: UnixMillis) -> Result<TrustedRoot, SignerError> {
    let claimed = chain.first().map(|first| first.document.mesh).ok_or(RootError::NotFounder)?;
    Ok(TrustedRoot::walk(&mesh.unwrap_or(claimed), chain.iter().cloned(), now)?)
}

/// The root document: of an exported chain, else of the home. Every version is verified, from the mesh's id down.
pub fn show_root(home: &Path, chain: Option<&Path>, mesh: Option<MeshId>) -> Result<RootInfo, SignerError> {
    let now = UnixMillis::now();
    let chain_read = chain_from(home, chain)?;
    Ok(root_info(walk(&chain_read, mesh, now)?.document(), now, None))
}

fn chain_from(home: &Path, chain: Option<&Path>) -> Result<Vec<SignedRoot>, SignerError> {
    chain.map_or_else(|| chain_of(home), |path| content(path, CHAIN_FILE_MAX, decode_chain))
}

/// Writes the chain of root documents that a home holds, and the names of the grants that stand now, for who proposes the next version
/// elsewhere. Nothing in it is secret.
pub fn export_root(home: &Path, passphrase: Option<&Passphrase>, to: &Path) -> Result<RootInfo, SignerError> {
    let chain = chain_of(home)?;
    let now = UnixMillis::now();
    let info = root_info(walk(&chain, None, now)?.document(), now, None);
    let standing = standing_in(home, passphrase, &chain, now)?;
    proposals::put(to, &encode_chain_with(&chain, &standing)?)?;
    Ok(info)
}

/// The grants that stand by what a home holds.
fn standing_in(
    home: &Path,
    passphrase: Option<&Passphrase>,
    chain: &[SignedRoot],
    now: UnixMillis,
) -> Result<StandingGrants, SignerError> {
    let identity = home::load(home, passphrase)?;
    let anchors = identity.membership.anchors();
    // The node writes its membership after its root documents.
    let rooted = anchors.going_by(chain).map_err(SignerError::Grants)?;
    Ok(rooted.as_ref().unwrap_or(anchors).standing(now))
}

/// What a proposed version says otherwise than the one held.
#[derive(Debug, Clone, Default)]
pub struct RootChanges {
    /// Root signers: a name of a present one, or a name with its file of public keys. Empty: as they are.
    pub signers: Vec<(NodeName, Option<PathBuf>)>,
    /// How many of them must approve.
    pub threshold: Option<u8>,
    /// Signers of revocations, policy and freshness, likewise.
    pub authority: Vec<(NodeName, Option<PathBuf>)>,
    /// How many of those must approve.
    pub approvals: Option<u8>,
    /// For how long.
    pub life: Option<Duration>,
}

/// Writes the next version of the root document as a statement to be signed, in the home's `proposals` without a path.
pub fn propose_root(
    home: &Path,
    passphrase: Option<&Passphrase>,
    chain: Option<&Path>,
    changes: &RootChanges,
    to: Option<&Path>,
) -> Result<StatementInfo, SignerError> {
    let now = UnixMillis::now();
    let (versions, grants) = match chain {
        Some(path) => {
            let (versions, grants) = content(path, CHAIN_FILE_MAX, decode_chain_with)?;
            (versions, grants.ok_or_else(|| SignerError::NamesNoGrants { path: path.to_owned() })?)
        }
        None => {
            let versions = chain_of(home)?;
            let grants = standing_in(home, passphrase, &versions, now)?;
            (versions, grants)
        }
    };
    let trusted = walk(&versions, None, now)?;
    let held = trusted.document();
    let life = changes.life.unwrap_or(ROOT_LIFE_MAX);
    let document = RootDocument {
        root: quorum(&held.root, &changes.signers, changes.threshold, held)?,
        authority: quorum(&held.authority, &changes.authority, changes.approvals, held)?,
        grants: Some(grants),
        ..held.following(now, life)
    };
    trusted.could_follow(&document, now)?;
    let file = StatementFile::root(&document)?;
    let path = match to {
        Some(to) => {
            proposals::put(to, &file.encode()?)?;
            to.to_owned()
        }
        None => proposals::write(home, &file, &[], document.root.threshold())?.file,
    };
    Ok(statement_info(&path, &Statement::Root(Box::new(document)), None))
}

/// Signers by name: those with files are new or have other keys than before.
fn quorum(
    before: &Quorum,
    named: &[(NodeName, Option<PathBuf>)],
    threshold: Option<u8>,
    held: &RootDocument,
) -> Result<Quorum, SignerError> {
    let mut signers = Vec::new();
    for (name, file) in named {
        match file {
            Some(file) => {
                let key: RootPublic = content(file, PUBLIC_KEY_FILE_MAX, decode_public_key)?;
                signers.push(Signer { name: name.clone(), key });
            }
            None => {
                // Also one of the other quorum may be named.
                let known = |quorum: &Quorum| -> Vec<Signer> {
                    quorum.signers().filter(|signer| signer.name == *name).cloned().collect()
                };
                let found =
                    [before, &held.root, &held.authority].map(known).into_iter().find(|f| !f.is_empty());
                signers.extend(found.ok_or_else(|| SignerError::UnknownSigner(name.clone()))?);
            }
        }
    }
    if named.is_empty() {
        signers = before.signers().cloned().collect();
    }
    let threshold = match threshold {
        Some(threshold) => threshold,
        None => u8::try_from(before.threshold()).unwrap_or(u8::MAX),
    };
    Ok(Quorum::new(threshold, signers)?)
}

fn quorum_info(quorum: &Quorum) -> QuorumInfo {
    let signer = |signer: &Signer| SignerInfo {
        name: signer.name.to_string(),
        key: KeyId::of(&signer.key).to_string(),
    };
    QuorumInfo { threshold: quorum.threshold() as u64, signers: quorum.signers().map(signer).collect() }
}

fn timestamp(at: UnixMillis) -> Timestamp {
    Timestamp::from_unix_ms(at.0)
}

fn root_info(document: &RootDocument, now: UnixMillis, held: Option<&HeldGrants>) -> RootInfo {
    let QuorumInfo { threshold, signers } = quorum_info(&document.root);
    RootInfo {
        mesh_id: document.mesh.to_string(),
        version: document.version,
        phase: document.phase as u8,
        phase_name: gates::name(document.phase).to_owned(),
        threshold,
        signers,
        authority: quorum_info(&document.authority),
        issued_at: timestamp(document.issued_at),
        expires_at: timestamp(document.expires_at),
        grants: document
            .grants
            .iter()
            .flat_map(StandingGrants::iter)
            .map(|name| grant_name(name, held))
            .collect(),
        valid: now <= document.expires_at,
    }
}

/// A CA key as people compare it: 64 hex digits.
fn hex_of(key: &MlDsaPublic) -> String {
    let hash = blake3::derive_key("meshara 2026-11 ca key fingerprint v1", key.as_ref());
    data_encoding::HEXLOWER.encode(&hash)
}

fn grant_name(grant: &StandingGrant, held: Option<&HeldGrants>) -> GrantName {
    GrantName {
        node_id: grant.issuer.to_string(),
        number: grant.number,
        hash: data_encoding::HEXLOWER.encode(&grant.hash),
        ca: held.and_then(|held| held.get(grant).cloned()),
        held: held.map(|held| held.contains_key(grant)),
    }
}

/// Grants by their names, with the fingerprints of their CA keys.
type HeldGrants = BTreeMap<StandingGrant, String>;

/// The grants of a mesh that count by what a home holds, to compare names with; `None` where it holds nothing of that mesh. Without the
/// passphrase of a sealed home those that its node kept for audits, at its last start or audit.
fn held_grants(home: &Path, passphrase: Option<&Passphrase>, mesh: MeshId) -> Option<HeldGrants> {
    let member = [passphrase, None].into_iter().find_map(|passphrase| home::load(home, passphrase).ok());
    let member = member.map(|identity| identity.membership.anchors().clone());
    let anchors = member.or_else(|| log::bundle::anchors_of(home)).filter(|held| held.mesh_id() == mesh)?;
    // The node writes its membership after its root documents.
    let rooted = files::read_roots(home).ok().and_then(|roots| anchors.going_by(&roots).ok().flatten());
    let anchors = rooted.as_ref().unwrap_or(&anchors);
    let named = |grant: &IssuerGrant| Some((grant.statement.name().ok()?, hex_of(&grant.ca_public()?)));
    Some(anchors.in_force().filter_map(named).collect())
}

/// A statement in the API's form, compared with what a home holds, if one is given with its passphrase.
fn statement_info(
    path: &Path,
    statement: &Statement,
    home: Option<(&Path, Option<&Passphrase>)>,
) -> StatementInfo {
    let now = UnixMillis::now();
    let head = |head: &SetHead| (Some(head.previous.to_string()), timestamp(head.issued_at));
    let mut info = StatementInfo {
        file: path.to_owned(),
        kind: statement.word().to_owned(),
        number: statement.number(),
        mesh_id: statement.mesh().to_string(),
        issued_at: timestamp(now),
        previous: None,
        root: None,
        revoked: None,
        revocations: Vec::new(),
        reinstated: Vec::new(),
        policy: None,
        grant: None,
    };
    match statement {
        Statement::Root(document) => {
            info.issued_at = timestamp(document.issued_at);
            let held = home.and_then(|(home, sealed)| held_grants(home, sealed, document.mesh));
            info.root = Some(root_info(document, now, held.as_ref()));
        }
        Statement::Revocations(of, revocations) => {
            (info.previous, info.issued_at) = head(of);
            info.revoked = Some(revocations.len() as u64);
            let held = home.and_then(|(home, _)| held_revocations(home, of.mesh));
            let entry =
                |node: NodeId, since, reason: &dyn std::fmt::Display, known: Option<bool>| RevocationInfo {
                    node_id: node.to_string(),
                    since: timestamp(since),
                    reason: reason.to_string(),
                    new: known.map(|known| !known),
                };
            let mut revoked = revocations.revoked();
            revoked.sort_by_key(|entry| std::cmp::Reverse(entry.since));
            let known = held.as_ref().map(|held| by_node(held.revoked(), |one| one.node));
            let revoked = revoked.into_iter().map(|one| {
                let known = known.as_ref().map(|known| known.get(&one.node) == Some(&one));
                entry(one.node, one.since, &one.reason, known)
            });
            info.revocations = new_first(revoked.collect());
            let mut back = revocations.reinstated();
            back.sort_by_key(|entry| std::cmp::Reverse(entry.at));
            let known = held.as_ref().map(|held| by_node(held.reinstated(), |one| one.node));
            let back = back.into_iter().map(|one| {
                let known = known.as_ref().map(|known| known.get(&one.node) == Some(&one));
                entry(one.node, one.at, &one.reason, known)
            });
            info.reinstated = new_first(back.collect());
        }
        Statement::Policy(of, policy) => {
            (info.previous, info.issued_at) = head(of);
            info.policy = Some(policy_text(policy));
        }
        Statement::Grant(grant) => {
            info.issued_at = timestamp(grant.not_before);
            info.grant = Some(GrantInfo {
                mesh: grant.mesh.to_string(),
                node_id: grant.issuer.to_string(),
                number: grant.number,
                ca: grant.ca_public().map(|key| hex_of(&key)).unwrap_or_default(),
                leaf_s: grant.lives.leaf_is_set().then(|| grant.lives.leaf(1).as_secs()),
                enrolment_s: grant.lives.enrolment().as_secs(),
                not_before: timestamp(grant.not_before),
                not_after: timestamp(grant.not_after),
            });
        }
        _ => {}
    }
    info
}

/// The revocations that a home holds of this mesh.
fn held_revocations(home: &Path, mesh: MeshId) -> Option<Revocations> {
    let set = files::read_set(home, SetKind::Revocations).ok()??;
    Revocations::decode(&set.body).ok().filter(|_| set.signed.head.mesh == mesh)
}

fn by_node<T>(entries: Vec<T>, node: impl Fn(&T) -> NodeId) -> BTreeMap<NodeId, T> {
    entries.into_iter().map(|one| (node(&one), one)).collect()
}

/// What the proposer dates back doesn't hide behind what is known.
fn new_first(mut entries: Vec<RevocationInfo>) -> Vec<RevocationInfo> {
    entries.sort_by_key(|entry| entry.new != Some(true));
    entries
}
