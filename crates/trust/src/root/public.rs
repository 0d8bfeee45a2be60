//! Files that are shown to others: a signer's public keys, and the chain of root documents.

use meshara_identity::RootPublic;
use meshara_identity::wire::{self, WireError};

use super::document::SignedRoot;
use super::offline::OfflineError;

/// What a file of public keys starts with.
const KEY_MAGIC: &[u8] = b"MESHARA-PUBLIC-KEY\n";
/// What a chain of root documents starts with.
const CHAIN_MAGIC: &[u8] = b"MESHARA-ROOTS\n";

/// Longest file of public keys: the two have 1,984 bytes.
pub const PUBLIC_KEY_FILE_MAX: usize = 4096;

/// Longest chain: as long as what a node keeps of it.
pub const CHAIN_FILE_MAX: usize = 9 * 1024 * 1024;

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

/// Reads [`encode_chain`]'s form. No signature is verified yet.
pub fn decode_chain(bytes: &[u8]) -> Result<Vec<SignedRoot>, OfflineError> {
    let body = bytes.strip_prefix(CHAIN_MAGIC).ok_or(OfflineError::NotThis { expected: "root documents" })?;
    Ok(wire::decode(body, CHAIN_FILE_MAX)?)
}
