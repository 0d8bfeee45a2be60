//! The identity files of a home directory, and what `init`, `join`, `up` and `root export` do with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::anchors::{TrustAnchors, TrustError};
use crate::grant::{GRANT_MAX, GrantOffer, IssuerGrant, IssuerKey};
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::{Issuer, IssuerError};
use crate::join::{JoinClient, JoinError};
use crate::keys::{KeyError, LeafKey, NodeKey, RoutingKey};
use crate::leaf::IssueError;
use crate::lives::Lives;
use crate::membership::{Membership, MembershipError};
use crate::names::{MeshName, NodeName};
use crate::root::RootKey;
use crate::sealed::{self, FileError, FileKind, Passphrase};
use crate::ticket::Ticket;
use crate::wire::{self, WireError};

/// File of the node's long-lived keys.
pub const KEYSTORE: &str = "keystore";
/// File of root public, grants, leaf and leaf key.
pub const MEMBERSHIP: &str = "membership";
/// File of the CA key and its grant, on a node that issues.
pub const ISSUER_KEY: &str = "issuer.key";
/// File of the CA key of a node that would issue, until its grant is signed.
pub const PENDING_ISSUER_KEY: &str = "issuer.pending";
/// File of tickets, names and serials, on a node that issues.
pub const ISSUER_STATE: &str = "issuer.redb";
/// File of the mesh root, on the node that made the mesh.
pub const ROOT_KEY: &str = "root.key";
/// File of the keys with which this node signs revocations, policy and freshness, where it is one of several signers.
pub const AUTHORITY_KEY: &str = "authority.key";
/// File of the workload roots, on a node that issues.
pub const WORKLOAD_KEY: &str = "workload.key";

/// Longest content of the key files: an issuer's has its grant.
const KEY_FILE_MAX: usize = 64 * 1024 + GRANT_MAX;

/// Why a home's identity could not be made or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// A file; names it and the remedy.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file whose checksum is right holds what cannot be used.
    #[error("{path}: {error}; {remedy}", path = path.display(), remedy = sealed::remedy(path))]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: MembershipError,
    },
    /// The keystore and another file are not of the same node.
    #[error("{path}: belongs to node {found}, the keystore to {expected}; restore both from the same backup", path = path.display())]
    OtherNode {
        /// The membership or issuer file.
        path: PathBuf,
        /// Node of the keystore.
        expected: NodeId,
        /// Node of that file.
        found: NodeId,
    },
    /// The issuer's files are of another mesh than the one that is being made.
    #[error("{path}: an unfinished init of mesh {found} left it, this one makes {expected}; finish that with --mesh {found}, or use another --home", path = path.display())]
    OtherMesh {
        /// The issuer's key file.
        path: PathBuf,
        /// Mesh that is being made.
        expected: MeshName,
        /// Mesh of the file.
        found: MeshName,
    },
    /// The issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The reply to a join request.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Fresh grants make no trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Something does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A complete identity: this node's keys and its place in a mesh.
#[derive(Debug)]
pub struct Identity {
    /// Long-lived key.
    pub node: NodeKey,
    /// Key of routing records.
    pub routing: RoutingKey,
    /// Mesh, issuers and own leaf.
    pub membership: Membership,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct KeystoreContent {
    node: [u8; 32],
    routing: [u8; 32],
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct IssuerContent {
    seed: [u8; 32],
    #[zeroize(skip)]
    grant: IssuerGrant,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct PendingContent {
    seed: [u8; 32],
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct RootContent {
    seeds: [[u8; 32]; 2],
}

/// As [`create_mesh_with`], with the default lives.
pub fn create_mesh(
    home: &Path,
    mesh: &MeshName,
    name: &NodeName,
    passphrase: Option<&Passphrase>,
    now: UnixMillis,
) -> Result<Identity, HomeError> {
    create_mesh_with(home, mesh, name, Lives::default(), passphrase, now)
}

/// `init`: makes root, issuer, keystore, own leaf. The membership comes last and makes the home a member's: until it is there
/// nothing counts as made. Each file that is there already is used as it is and never overwritten, so an interrupted `init`
/// is finished by the next one (with the lives of the first), a keystore left by a refused join serves, and a mesh begins from an imported
/// root.
pub fn create_mesh_with(
    home: &Path,
    mesh: &MeshName,
    name: &NodeName,
    lives: Lives,
    passphrase: Option<&Passphrase>,
    now: UnixMillis,
) -> Result<Identity, HomeError> {
    refuse_existing(&home.join(MEMBERSHIP))?;
    let (node, routing) = load_or_create_keys(home, passphrase)?;
    let root = load_or_create_root(home, passphrase)?;
    let offer = GrantOffer::new(mesh.clone(), node.node_id(), 1, lives, now);
    let (issuer_key, grant) = load_or_create_issuer(home, &root, &offer, passphrase)?;
    let anchors = TrustAnchors::new(root.public().clone(), mesh.clone(), vec![grant.clone()])?;

    let state = home.join(ISSUER_STATE);
    let make = if exists(&state) { Issuer::open } else { Issuer::create };
    let issuer = make(&state, issuer_key, grant, anchors.clone())?;
    let leaf_key = LeafKey::generate()?;
    let leaf =
        issuer.enrol_self(name, node.node_id(), routing.public_key(), leaf_key.public_key(), None, now)?;
    let path = home.join(MEMBERSHIP);
    let membership =
        Membership::new(anchors, leaf, leaf_key).map_err(|error| HomeError::Content { path, error })?;
    finish(home, node, routing, membership, passphrase)
}

/// The NodeId of this home's keys, which are made if there are none: so that an issuer may list the node before it joins.
pub fn make_keys(home: &Path, passphrase: Option<&Passphrase>) -> Result<NodeId, HomeError> {
    Ok(load_or_create_keys(home, passphrase)?.0.node_id())
}

/// First half of `join`: the keystore (made if there is none) and the request.
pub fn begin_join(
    home: &Path,
    ticket: Ticket,
    name: NodeName,
    passphrase: Option<&Passphrase>,
    now: UnixMillis,
) -> Result<(JoinClient, NodeKey, RoutingKey), HomeError> {
    // A home with an issuer is the beginning of a mesh of its own.
    for file in [MEMBERSHIP, ISSUER_KEY, ISSUER_STATE] {
        refuse_existing(&home.join(file))?;
    }
    let (node, routing) = load_or_create_keys(home, passphrase)?;
    let client = JoinClient::new(ticket, name, &node, &routing, now)?;
    Ok((client, node, routing))
}

/// Last step of `join`: writes the membership that [`JoinClient::open_reply`] gave.
pub fn finish(
    home: &Path,
    node: NodeKey,
    routing: RoutingKey,
    membership: Membership,
    passphrase: Option<&Passphrase>,
) -> Result<Identity, HomeError> {
    let path = home.join(MEMBERSHIP);
    check_same_node(&path, node.node_id(), &membership)?;
    sealed::create(&path, FileKind::Membership, &membership.encode()?, passphrase)?;
    Ok(Identity { node, routing, membership })
}

/// Replaces the membership of `identity` by a renewed one, on disk first.
pub fn renew(
    home: &Path,
    identity: &mut Identity,
    membership: Membership,
    passphrase: Option<&Passphrase>,
) -> Result<(), HomeError> {
    store_membership(home, identity.node.node_id(), &membership, passphrase)?;
    identity.membership = membership;
    Ok(())
}

/// Replaces the membership of a home, of the same node.
pub fn store_membership(
    home: &Path,
    node: NodeId,
    membership: &Membership,
    passphrase: Option<&Passphrase>,
) -> Result<(), HomeError> {
    let path = home.join(MEMBERSHIP);
    check_same_node(&path, node, membership)?;
    Ok(sealed::replace(&path, FileKind::Membership, &membership.encode()?, passphrase)?)
}

/// Makes a member an issuer: writes its CA key with the grant, and an empty state. It counts as one once the membership holds the grant, so
/// what an interruption leaves is nothing, and is written over.
pub fn become_issuer(
    home: &Path,
    key: IssuerKey,
    grant: IssuerGrant,
    anchors: TrustAnchors,
    passphrase: Option<&Passphrase>,
) -> Result<Issuer, HomeError> {
    let content = IssuerContent { seed: **key.seed(), grant: grant.clone() };
    let bytes = Zeroizing::new(wire::encode(&content)?);
    sealed::replace(&home.join(ISSUER_KEY), FileKind::Issuer, &bytes, passphrase)?;
    let state = home.join(ISSUER_STATE);
    let make = if exists(&state) { Issuer::open } else { Issuer::create };
    Ok(make(&state, key, grant, anchors)?)
}

/// Gives the issuer of a home its next grant, which `anchors` hold: on the disk, then in use. The membership of the home holds it already, so
/// that an interruption leaves an issuer with either grant.
///
/// # Errors
/// The grant is for another key, or `anchors` don't hold it; the disk.
pub fn regrant_issuer(
    home: &Path,
    issuer: &Issuer,
    grant: IssuerGrant,
    anchors: Arc<TrustAnchors>,
    passphrase: Option<&Passphrase>,
) -> Result<(), HomeError> {
    if !issuer.has_key_of(&grant) {
        return Err(IssuerError::WrongGrant.into());
    }
    let content = IssuerContent { seed: *issuer.seed(), grant: grant.clone() };
    let bytes = Zeroizing::new(wire::encode(&content)?);
    sealed::replace(&home.join(ISSUER_KEY), FileKind::Issuer, &bytes, passphrase)?;
    Ok(issuer.regrant(grant, anchors)?)
}

/// The CA key with which this node would issue, until the mesh's root has signed a grant for it: made when it is first asked for, then the
/// same, so that a grant that is signed days later finds its key.
pub fn pending_issuer(home: &Path, passphrase: Option<&Passphrase>) -> Result<IssuerKey, HomeError> {
    if let Some(key) = load_pending_issuer(home, passphrase)? {
        return Ok(key);
    }
    let key = IssuerKey::generate()?;
    let bytes = Zeroizing::new(wire::encode(&PendingContent { seed: **key.seed() })?);
    sealed::create(&home.join(PENDING_ISSUER_KEY), FileKind::PendingIssuer, &bytes, passphrase)?;
    Ok(key)
}

/// As [`pending_issuer`], without making one.
pub fn load_pending_issuer(
    home: &Path,
    passphrase: Option<&Passphrase>,
) -> Result<Option<IssuerKey>, HomeError> {
    let path = home.join(PENDING_ISSUER_KEY);
    if !exists(&path) {
        return Ok(None);
    }
    let bytes = sealed::read(&path, FileKind::PendingIssuer, passphrase)?;
    let content: PendingContent = decode_content(&path, &bytes)?;
    Ok(Some(IssuerKey::from_seed(Zeroizing::new(content.seed))?))
}

/// Removes the key of [`pending_issuer`], once this node issues with it.
pub fn end_pending_issuer(home: &Path) -> Result<(), HomeError> {
    let path = home.join(PENDING_ISSUER_KEY);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::io(&path, "remove", &error).into())
        }
        _ => Ok(()),
    }
}

/// Renews the leaf of a node that issues when less than half of its life is left. Tells whether it did. A leaf that has not begun stays:
/// then the clock is wrong. So does one that would not last longer, since the issuer's grant ends.
pub fn renew_issuer(
    home: &Path,
    identity: &mut Identity,
    issuer: &Issuer,
    passphrase: Option<&Passphrase>,
    now: UnixMillis,
) -> Result<bool, HomeError> {
    let member = identity.membership.member();
    let fresh = now.plus(member.life() / 2) <= member.not_after || issuer.grant_end() <= member.not_after;
    if now < member.not_before || fresh {
        return Ok(false);
    }
    let leaf_key = LeafKey::generate()?;
    let (name, node_id, routing) = (&member.name, member.node_id, identity.routing.public_key());
    let leaf =
        issuer.enrol_self(name, node_id, routing, leaf_key.public_key(), Some(&member.enrolled), now)?;
    let membership = Membership::new(identity.membership.anchors().clone(), leaf, leaf_key)
        .map_err(|error| HomeError::Content { path: home.join(MEMBERSHIP), error })?;
    renew(home, identity, membership, passphrase)?;
    Ok(true)
}

/// Loads the identity of a home. An ended leaf loads: it can be shown and renewed; see [`Membership::valid_at`].
pub fn load(home: &Path, passphrase: Option<&Passphrase>) -> Result<Identity, HomeError> {
    // The membership is written last: when it is missing, init or join never finished.
    let path = home.join(MEMBERSHIP);
    let bytes = sealed::read(&path, FileKind::Membership, passphrase)?;
    let (node, routing) = load_keys(&home.join(KEYSTORE), passphrase)?;
    let membership =
        Membership::decode(&bytes).map_err(|error| HomeError::Content { path: path.clone(), error })?;
    check_same_node(&path, node.node_id(), &membership)?;
    Ok(Identity { node, routing, membership })
}

/// Whether this home's node issues certificates. One of its two files is enough to say so: the other one was lost.
pub fn is_issuer(home: &Path) -> bool {
    [ISSUER_KEY, ISSUER_STATE].iter().any(|file| exists(&home.join(file)))
}

/// Opens the issuer of a home; `None` when the node does not issue. Either file without the other is [`FileError::Missing`], unless no
/// grant of this node is known: then they are what an interruption of [`become_issuer`] left.
pub fn open_issuer(
    home: &Path,
    anchors: &TrustAnchors,
    passphrase: Option<&Passphrase>,
) -> Result<Option<Issuer>, HomeError> {
    if !is_issuer(home) {
        return Ok(None);
    }
    let (key, grant) = load_issuer_key(&home.join(ISSUER_KEY), passphrase)?;
    let mut grants = anchors.grants().iter();
    let known = grants.any(|known| known.statement.issuer == grant.statement.issuer);
    // A grant of several signers was checked before its key was written.
    if !known && (grant.is_signed_by(anchors.root()) || grant.statement.mesh_id == Some(anchors.mesh_id())) {
        return Ok(None);
    }
    Ok(Some(Issuer::open(&home.join(ISSUER_STATE), key, grant, anchors.clone())?))
}

/// Loads the mesh root of the node that made the mesh.
pub fn load_root(home: &Path, passphrase: Option<&Passphrase>) -> Result<RootKey, HomeError> {
    read_root(&home.join(ROOT_KEY), FileKind::Root, passphrase)
}

/// `root export`: writes the home's root to `backup`, sealed with `backup_passphrase`; never over an existing file.
pub fn export_root(
    home: &Path,
    passphrase: Option<&Passphrase>,
    backup: &Path,
    backup_passphrase: &Passphrase,
) -> Result<(), HomeError> {
    let root = load_root(home, passphrase)?;
    write_root(backup, FileKind::RootBackup, &root, Some(backup_passphrase))
}

/// Puts the root of a backup into a home that has none.
pub fn import_root(
    home: &Path,
    passphrase: Option<&Passphrase>,
    backup: &Path,
    backup_passphrase: &Passphrase,
) -> Result<RootKey, HomeError> {
    let root = read_root(backup, FileKind::RootBackup, Some(backup_passphrase))?;
    sealed::private_directory(home)?;
    write_root(&home.join(ROOT_KEY), FileKind::Root, &root, passphrase)?;
    Ok(root)
}

/// Makes the keys of a signer, in a new file.
pub fn create_signer(path: &Path, passphrase: Option<&Passphrase>) -> Result<RootKey, HomeError> {
    refuse_existing(path)?;
    let key = RootKey::generate()?;
    write_root(path, FileKind::Signer, &key, passphrase)?;
    Ok(key)
}

/// Loads the keys of a signer; also a mesh root or the backup of one, since the founder is a signer too.
pub fn load_signer(path: &Path, passphrase: Option<&Passphrase>) -> Result<RootKey, HomeError> {
    let kinds = [FileKind::Root, FileKind::RootBackup];
    match read_root(path, FileKind::Signer, passphrase) {
        Err(HomeError::File(FileError::WrongKind { found, .. }))
            if kinds.map(|kind| kind as u8).contains(&found) =>
        {
            let kind = if found == FileKind::Root as u8 { FileKind::Root } else { FileKind::RootBackup };
            read_root(path, kind, passphrase)
        }
        read => read,
    }
}

/// Entry for fuzzing: reads `bytes` as the content of each file; whether it is one of them.
#[doc(hidden)]
pub fn decodes(bytes: &[u8]) -> bool {
    let path = Path::new("fuzzed");
    decode_content::<KeystoreContent>(path, bytes).is_ok()
        || decode_content::<IssuerContent>(path, bytes).is_ok()
        || decode_content::<PendingContent>(path, bytes).is_ok()
        || decode_content::<RootContent>(path, bytes).is_ok()
        || Membership::decode(bytes).is_ok()
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn refuse_existing(path: &Path) -> Result<(), FileError> {
    if exists(path) {
        return Err(FileError::AlreadyExists { path: path.to_owned() });
    }
    Ok(())
}

fn check_same_node(path: &Path, expected: NodeId, membership: &Membership) -> Result<(), HomeError> {
    let found = membership.member().node_id;
    if expected == found {
        return Ok(());
    }
    Err(HomeError::OtherNode { path: path.to_owned(), expected, found })
}

fn load_or_create_keys(
    home: &Path,
    passphrase: Option<&Passphrase>,
) -> Result<(NodeKey, RoutingKey), HomeError> {
    sealed::private_directory(home)?;
    let path = home.join(KEYSTORE);
    if exists(&path) {
        return load_keys(&path, passphrase);
    }
    let (node, routing) = (NodeKey::generate()?, RoutingKey::generate()?);
    let content = KeystoreContent { node: **node.seed(), routing: **routing.seed() };
    let bytes = Zeroizing::new(wire::encode(&content)?);
    sealed::create(&path, FileKind::Keystore, &bytes, passphrase)?;
    Ok((node, routing))
}

fn load_keys(path: &Path, passphrase: Option<&Passphrase>) -> Result<(NodeKey, RoutingKey), HomeError> {
    let bytes = sealed::read(path, FileKind::Keystore, passphrase)?;
    let content: KeystoreContent = decode_content(path, &bytes)?;
    let node = NodeKey::from_seed(Zeroizing::new(content.node))?;
    Ok((node, RoutingKey::from_seed(Zeroizing::new(content.routing))?))
}

fn load_or_create_root(home: &Path, passphrase: Option<&Passphrase>) -> Result<RootKey, HomeError> {
    let path = home.join(ROOT_KEY);
    if exists(&path) {
        return read_root(&path, FileKind::Root, passphrase);
    }
    let root = RootKey::generate()?;
    write_root(&path, FileKind::Root, &root, passphrase)?;
    Ok(root)
}

fn load_or_create_issuer(
    home: &Path,
    root: &RootKey,
    offer: &GrantOffer,
    passphrase: Option<&Passphrase>,
) -> Result<(IssuerKey, IssuerGrant), HomeError> {
    let path = home.join(ISSUER_KEY);
    if exists(&path) {
        let (key, grant) = load_issuer_key(&path, passphrase)?;
        let (found, issuer) = (&grant.statement.mesh, grant.statement.issuer);
        if *found != offer.mesh {
            return Err(HomeError::OtherMesh { path, expected: offer.mesh.clone(), found: found.clone() });
        }
        if issuer != offer.issuer {
            return Err(HomeError::OtherNode { path, expected: offer.issuer, found: issuer });
        }
        return Ok((key, grant));
    }
    let key = IssuerKey::generate()?;
    let grant = offer.sign(key.ca_certificate(offer)?, root)?;
    let content = IssuerContent { seed: **key.seed(), grant: grant.clone() };
    let bytes = Zeroizing::new(wire::encode(&content)?);
    sealed::create(&path, FileKind::Issuer, &bytes, passphrase)?;
    Ok((key, grant))
}

fn load_issuer_key(
    path: &Path,
    passphrase: Option<&Passphrase>,
) -> Result<(IssuerKey, IssuerGrant), HomeError> {
    let bytes = sealed::read(path, FileKind::Issuer, passphrase)?;
    let content: IssuerContent = decode_content(path, &bytes)?;
    Ok((IssuerKey::from_seed(Zeroizing::new(content.seed))?, content.grant.clone()))
}

fn write_root(
    path: &Path,
    kind: FileKind,
    root: &RootKey,
    passphrase: Option<&Passphrase>,
) -> Result<(), HomeError> {
    let content = RootContent { seeds: *root.seeds() };
    let bytes = Zeroizing::new(wire::encode(&content)?);
    Ok(sealed::create(path, kind, &bytes, passphrase)?)
}

fn read_root(path: &Path, kind: FileKind, passphrase: Option<&Passphrase>) -> Result<RootKey, HomeError> {
    let bytes = sealed::read(path, kind, passphrase)?;
    let content: RootContent = decode_content(path, &bytes)?;
    Ok(RootKey::from_seeds(&Zeroizing::new(content.seeds))?)
}

fn decode_content<T: Serialize + serde::de::DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<T, HomeError> {
    wire::decode(bytes, KEY_FILE_MAX)
        .map_err(|error| HomeError::Content { path: path.to_owned(), error: error.into() })
}
