//! A node's routing key without its certificate: the log's entry of the certificate, and the path from it to a head that thousands of entries
//! share. Verified by hashing alone. Knows nothing of who holds which heads.
//!
//! ```text
//! version u8 = 1 | issuer [32] | size of the head u64 | index u64 | count u8 | path [32]* | entry
//! ```

use meshara_identity::NodeId;

use super::entry::{Certificate, ENTRY_MAX, Entry, EntryError};
use super::hash::Hash;
use super::proof::{MerkleError, verify_inclusion};

/// Version of the format, the first byte: a certificate (DER) begins with 0x30.
pub const VERSION: u8 = 1;

/// Longest path. 2^32 entries are 24 years of 10,000 nodes that renew twice an hour; beyond it records hold certificates again.
pub const PROVED_PATH_MAX: usize = 32;

/// Bytes before the path.
const FIXED: usize = 1 + 32 + 8 + 8 + 1;

/// Longest proof.
pub const PROVED_MAX: usize = FIXED + PROVED_PATH_MAX * Hash::LEN + ENTRY_MAX;

/// Why bytes are no proof of a routing key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvedError {
    /// Ends before its fields do.
    #[error("the proof of the routing key is truncated")]
    Truncated,
    /// Longer than any.
    #[error("a proof of a routing key has at most {PROVED_MAX} bytes")]
    TooLong,
    /// Another version.
    #[error("unknown version {0} of a proof of a routing key")]
    UnknownVersion(u8),
    /// More hashes than [`PROVED_PATH_MAX`].
    #[error("a path of {0} hashes where at most {PROVED_PATH_MAX} are allowed")]
    PathTooLong(usize),
    /// The entry doesn't read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry is of no certificate.
    #[error("the entry is not that of a certificate")]
    NotACertificate,
}

/// A certificate's entry, and its way to a head of its issuer's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvedKey {
    /// Whose log.
    pub issuer: NodeId,
    /// Which head: entries in the log then.
    pub size: u64,
    /// The entry's place.
    pub index: u64,
    /// Path to the head's root (RFC 9162, 2.1.3).
    pub path: Vec<Hash>,
    /// The entry.
    pub certificate: Certificate,
}

impl ProvedKey {
    /// The bytes of a member record's body.
    ///
    /// # Errors
    /// The certificate can't be an entry, or the path is too long for this form: the certificate is to be told instead.
    pub fn encode(&self) -> Result<Vec<u8>, ProvedError> {
        let too_long = ProvedError::PathTooLong(self.path.len());
        let count = u8::try_from(self.path.len()).ok().filter(|count| usize::from(*count) <= PROVED_PATH_MAX);
        let count = count.ok_or(too_long)?;
        let entry = Entry::Certificate(self.certificate.clone()).encode()?;
        let mut out = Vec::with_capacity(FIXED + self.path.len() * Hash::LEN + entry.len());
        out.push(VERSION);
        out.extend(self.issuer.0);
        out.extend(self.size.to_be_bytes());
        out.extend(self.index.to_be_bytes());
        out.push(count);
        out.extend(self.path.iter().flat_map(|hash| hash.0));
        out.extend(entry);
        Ok(out)
    }

    /// Reads [`encode`](Self::encode)'s form; nothing is verified.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProvedError> {
        if bytes.len() > PROVED_MAX {
            return Err(ProvedError::TooLong);
        }
        let truncated = || ProvedError::Truncated;
        let (&version, rest) = bytes.split_first().ok_or_else(truncated)?;
        if version != VERSION {
            return Err(ProvedError::UnknownVersion(version));
        }
        let (issuer, rest) = rest.split_first_chunk::<32>().ok_or_else(truncated)?;
        let (size, rest) = rest.split_first_chunk::<8>().ok_or_else(truncated)?;
        let (index, rest) = rest.split_first_chunk::<8>().ok_or_else(truncated)?;
        let (&count, rest) = rest.split_first().ok_or_else(truncated)?;
        let count = usize::from(count);
        if count > PROVED_PATH_MAX {
            return Err(ProvedError::PathTooLong(count));
        }
        let (path, entry) = rest.split_at_checked(count * Hash::LEN).ok_or_else(truncated)?;
        let (path, _) = path.as_chunks::<{ Hash::LEN }>();
        // Whatever is left is the entry, which takes no bytes after its end.
        let Entry::Certificate(certificate) = Entry::decode(entry)? else {
            return Err(ProvedError::NotACertificate);
        };
        Ok(Self {
            issuer: NodeId(*issuer),
            size: u64::from_be_bytes(*size),
            index: u64::from_be_bytes(*index),
            path: path.iter().copied().map(Hash).collect(),
            certificate,
        })
    }

    /// Whether the entry is in the log with this root when it has [`size`](Self::size) entries.
    ///
    /// # Errors
    /// Says why not.
    pub fn verify(&self, root: &Hash) -> Result<(), MerkleError> {
        // What was decoded encodes again.
        let entry =
            Entry::Certificate(self.certificate.clone()).encode().map_err(|_| MerkleError::WrongRoot)?;
        verify_inclusion(&Hash::leaf(&entry), self.index, self.size, &self.path, root)
    }
}

#[cfg(test)]
#[path = "proved_tests.rs"]
mod tests;
