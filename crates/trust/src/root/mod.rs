//! The mesh's root after its founding: documents that name the signers, one version after the other.
//!
//! After TUF's root role (specification 1.0.33, 5.3): each version is approved by the quorum of the one before **and** by its
//! own, versions rise by one, and an ended document signs nothing any more.

mod journal;
mod offline;
mod public;
mod trusted;

pub use journal::{JOURNAL_MAX, Journal, JournalError};
pub use meshara_identity::root_document::{
    Phase, ROOT_LIFE_MAX, ROOT_MAX, RootDocument, SignedRoot, StandingGrant, StandingGrants,
};
pub use offline::{
    DetachedSignature, OfflineError, SIGNATURE_FILE_MAX, STATEMENT_FILE_MAX, Statement, StatementFile,
};
pub use public::{
    CHAIN_FILE_MAX, PUBLIC_KEY_FILE_MAX, decode_chain, decode_chain_with, decode_public_key, encode_chain,
    encode_chain_with, encode_public_key,
};
pub use trusted::{Advanced, RootError, TrustedRoot};
