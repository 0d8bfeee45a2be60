//! Files that are shown to others: a signer's public keys, and the chain of root documents.

use meshara_identity::RootPublic;
use meshara_identity::root_chain::VERSIONS_BYTES_MAX;
use meshara_identity::root_document::{SignedRoot, StandingGrants};
use meshara_identity::wire::{self, WireError};

use super::offline::OfflineError;

/// What a file of public keys starts with.
const KEY_MAGIC: &[u8] = b"MESHARA-PUBLIC-KEY\n";
/// What a chain of root documents starts with.
const CHAIN_MAGIC: &[u8] = b"MESHARA-ROOTS\n";

/// Version of a chain that says which grants stand.
const CHAIN_VERSION_2: u8 = 2;

/// Longest file of public keys: the two have 1,984 bytes.
pub const PUBLIC_KEY_FILE_MAX: usize = 4096;

/// Longest chain: as long as what a node keeps of it.
pub const CHAIN_FILE_MAX: usize = VERSIONS_BYTES_MAX + 64 * 1024;

/// A signer's public keys: a line that says what it is, a version byte, postcard.
pub fn encode_public_key(key: &RootPublic) -> Result<Vec<u8>, WireError> {
    Ok([KEY_MAGIC, &wire::encode(key)?].concat())
}

/// Reads [`encode_public_key`]'s form.
pub fn decode_public_key(bytes: &[u8]) -> Result<RootPublic, OfflineError> {
    let body = bytes.strip_prefix(KEY_MAGIC).ok_or(OfflineError::NotThis { expected: "public key" })?;
    Ok(wire::decode(body, PUBLIC_KEY_FILE_MAX)?)
}

/// All versions of a root document from the first: a line that says what it is, a version byte, postcard. Who knows the mesh's id walks
/// them with [`TrustedRoot::walk`](super::TrustedRoot::walk).
pub fn encode_chain(versions: &[SignedRoot]) -> Result<Vec<u8>, WireError> {
    Ok([CHAIN_MAGIC, &wire::encode(&versions)?].concat())
}

/// As [`encode_chain`], with the names of the grants that stand beside those that the newest version names: format version 2. They are
/// signed by nobody, and put nothing in force: a grant that a version names needs signatures of its own.
pub fn encode_chain_with(versions: &[SignedRoot], standing: &StandingGrants) -> Result<Vec<u8>, WireError> {
    Ok([CHAIN_MAGIC, &wire::append(vec![CHAIN_VERSION_2], &(versions, standing))?].concat())
}

/// Reads [`encode_chain`]'s form, or [`encode_chain_with`]'s. No signature is verified yet.
pub fn decode_chain(bytes: &[u8]) -> Result<Vec<SignedRoot>, OfflineError> {
    Ok(decode_chain_with(bytes)?.0)
}

/// As [`decode_chain`], with the names of grants if the file has them.
pub fn decode_chain_with(bytes: &[u8]) -> Result<(Vec<SignedRoot>, Option<StandingGrants>), OfflineError> {
    let body = bytes.strip_prefix(CHAIN_MAGIC).ok_or(OfflineError::NotThis { expected: "root documents" })?;
    if body.first() == Some(&CHAIN_VERSION_2) {
        let (versions, standing) = wire::decode_version(CHAIN_VERSION_2, body, CHAIN_FILE_MAX)?;
        return Ok((versions, Some(standing)));
    }
    Ok((wire::decode(body, CHAIN_FILE_MAX)?, None))
}
