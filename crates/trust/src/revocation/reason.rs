//! Why a node was revoked, in the words of a person.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most characters of a reason: a sentence that fits a line of a log.
pub const REASON_MAX: usize = 200;

/// A text that isn't a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReasonError {
    /// Too long.
    #[error("a reason has at most {REASON_MAX} characters")]
    TooLong,
    /// A character that would break a line or a terminal.
    #[error("a reason has no control characters")]
    Control,
}

/// At most [`REASON_MAX`] characters of one line; it may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

impl Reason {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = ReasonError;

    fn try_from(text: String) -> Result<Self, ReasonError> {
        match text {
            _ if text.chars().nth(REASON_MAX).is_some() => Err(ReasonError::TooLong),
            _ if text.chars().any(char::is_control) => Err(ReasonError::Control),
            _ => Ok(Self(text)),
        }
    }
}

impl std::str::FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, ReasonError> {
        text.to_owned().try_into()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_short_line() {
        assert_eq!("laptop stolen".parse::<Reason>().unwrap().as_str(), "laptop stolen");
        assert!("ä".repeat(200).parse::<Reason>().is_ok());
        assert_eq!("ä".repeat(201).parse::<Reason>(), Err(ReasonError::TooLong));
        assert_eq!("a\nb".parse::<Reason>(), Err(ReasonError::Control));
        assert_eq!("\u{1b}[31m".parse::<Reason>(), Err(ReasonError::Control));
    }
}
