//! What the keys of a signer have signed: so that no key ever approves two contents of one number.

use meshara_identity::root::Purpose;
use meshara_identity::wire::{self, WireError};
use serde::{Deserialize, Serialize};

use super::offline::{OfflineError, Statement, StatementFile};
use crate::sets::{KeyId, SetHash};

/// Most keys times kinds of statement. Far more than one signer has; a full journal signs nothing new.
const ENTRIES_MAX: usize = 256;
/// Longest encoded journal: 80 bytes an entry.
pub const JOURNAL_MAX: usize = 64 + ENTRIES_MAX * 96;

/// Why a statement isn't to be signed by this key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another content of this number was signed.
    #[error(
        "this key has signed another {word} {number} already: signing this one too would be proof that the signer contradicts \
         itself"
    )]
    Contradiction {
        /// What kind of statement.
        word: &'static str,
        /// Its number.
        number: u64,
    },
    /// A later number was signed.
    #[error("this key has signed {word} {signed} already, which is later than {number}")]
    Older {
        /// What kind of statement.
        word: &'static str,
        /// The number offered.
        number: u64,
        /// The number signed.
        signed: u64,
    },
    /// It follows another set than the one that was signed.
    #[error(
        "{word} {number} follows another {word} than the one that this key has signed: propose it anew, with a number that \
         skips one"
    )]
    OtherPredecessor {
        /// What kind of statement.
        word: &'static str,
        /// Its number.
        number: u64,
    },
    /// No room.
    #[error("the journal of signatures is full")]
    Full,
    /// The statement.
    #[error(transparent)]
    Statement(#[from] OfflineError),
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The newest that one key signed of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    key: KeyId,
    purpose: Purpose,
    number: u64,
    /// Of a set: the hash of its head. Of a root document or a grant: the statement's.
    hash: SetHash,
}

/// The newest that each key signed of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal(Vec<Entry>);

impl Journal {
    /// The highest number that `key` signed about `purpose`; 0 for none.
    pub fn highest(&self, key: KeyId, purpose: Purpose) -> u64 {
        self.entry(key, purpose).map_or(0, |entry| entry.number)
    }

    /// Takes what another journal holds of the same keys: of each kind the higher number counts.
    ///
    /// # Errors
    /// [`JournalError::Full`].
    pub fn include(&mut self, other: Self) -> Result<(), JournalError> {
        for entry in other.0 {
            let full = self.0.len() >= ENTRIES_MAX;
            let same = |held: &&mut Entry| held.key == entry.key && held.purpose == entry.purpose;
            match self.0.iter_mut().find(same) {
                Some(held) if held.number < entry.number => *held = entry,
                Some(_) => {}
                None if full => return Err(JournalError::Full),
                None => self.0.push(entry),
            }
        }
        Ok(())
    }

    fn entry(&self, key: KeyId, purpose: Purpose) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key && entry.purpose == purpose)
    }

    /// Notes that `key` is about to sign the statement; whether that is news, and the journal has to be stored first.
    ///
    /// `instead`: of a root document or a grant, the signer says that the other content was never published and never will be. Versions can't skip
    /// one, as numbers of sets do; so a proposal that was given up has to be replaced.
    ///
    /// # Errors
    /// [`JournalError`]: it must not sign it. Nothing changed.
    pub fn note(&mut self, key: KeyId, file: &StatementFile, instead: bool) -> Result<bool, JournalError> {
        let (purpose, statement) = (file.purpose(), file.statement()?);
        let (word, number) = (statement.word(), statement.number());
        let hash = match &statement {
            Statement::Root(_) | Statement::Grant(_) => SetHash(file.hash()),
            Statement::Revocations(head, _) | Statement::Policy(head, _) => head.hash()?,
        };
        if let Some(held) = self.entry(key, purpose) {
            if held.number == number && held.hash == hash {
                return Ok(false);
            }
            let replaced = instead && matches!(statement, Statement::Root(_) | Statement::Grant(_));
            if held.number == number && !replaced {
                return Err(JournalError::Contradiction { word, number });
            }
            if held.number > number {
                return Err(JournalError::Older { word, number, signed: held.number });
            }
            let next = held.number.checked_add(1) == Some(number);
            if next && statement.previous().is_some_and(|previous| previous != held.hash) {
                return Err(JournalError::OtherPredecessor { word, number });
            }
        }
        let made = Entry { key, purpose, number, hash };
        let full = self.0.len() >= ENTRIES_MAX;
        match self.0.iter_mut().find(|entry| entry.key == key && entry.purpose == purpose) {
            Some(entry) => *entry = made,
            None if full => return Err(JournalError::Full),
            None => self.0.push(made),
        }
        Ok(true)
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form; at most one entry for each key and kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let journal: Self = wire::decode(bytes, JOURNAL_MAX)?;
        let twice = journal.0.iter().enumerate().any(|(at, one)| {
            let same = |other: &Entry| other.key == one.key && other.purpose == one.purpose;
            journal.0.iter().skip(at + 1).any(same)
        });
        if twice { Err(WireError::Malformed) } else { Ok(journal) }
    }
}
