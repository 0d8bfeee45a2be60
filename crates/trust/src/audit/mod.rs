//! The local trail of security events: a hash chain of JSON lines that `trust audit` verifies.
//!
//! Files `audit-000001.jsonl` and on in one directory. Each line holds the hash of the line before it, so a line that was changed,
//! taken out or put in is found and named. Lines cut off the end are not: compare with a head noted elsewhere.

mod denials;
mod event;
mod line;
mod trail;
mod verify;

pub use denials::{DENIALS_EVERY, Denials};
pub use event::{Event, Outcome, Words, WordsError};
#[doc(hidden)]
pub use line::fuzz;
pub use line::{LINE_MAX, Line, LineHash};
pub use trail::{FILE_MAX, FILES_MAX, Repair, Trail, TrailError};
pub use verify::{Bad, Head, Report, export, verify};
