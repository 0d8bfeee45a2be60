//! Patterns of names: `*` stands for any run of characters, `/` among them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest pattern: a node's name, `/` and a service's name, with room.
pub const GLOB_MAX: usize = 160;

/// Most `*` of a pattern; keeps the worst match cheap.
pub const STARS_MAX: usize = 4;

/// Why a text isn't a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// Nothing.
    #[error("a pattern may not be empty; `*` matches every name")]
    Empty,
    /// Too long.
    #[error("a pattern has at most {GLOB_MAX} characters")]
    TooLong,
    /// Too many `*`.
    #[error("a pattern has at most {STARS_MAX} `*`")]
    TooManyStars,
    /// `**`, which says no more than `*`.
    #[error("`**` says no more than `*`")]
    DoubleStar,
    /// A character that names don't have.
    #[error("a pattern has printable ASCII without spaces, found {0:?}")]
    BadCharacter(char),
}

/// A pattern of names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(String);

impl Glob {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches the whole of `name`.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.as_bytes(), name.as_bytes());
        // Where to go on when what follows the last `*` doesn't fit: the pattern behind it, and one byte later.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), rest.split_first()) {
                (Some((b'*', behind)), _) => {
                    retry = Some((behind, rest));
                    pattern = behind;
                }
                (Some((wanted, behind)), Some((found, tail))) if wanted == found => {
                    (pattern, rest) = (behind, tail);
                }
                (None, None) => return true,
                _ => {
                    let Some((behind, from)) = retry else { return false };
                    let Some((_, tail)) = from.split_first() else { return false };
                    retry = Some((behind, tail));
                    (pattern, rest) = (behind, tail);
                }
            }
        }
    }

    /// What stands before the first and behind the last `*`, and whether that is all there is to it; `None` for an exact name.
    pub(super) fn ends(&self) -> Option<(&str, &str, usize)> {
        let (head, behind) = self.0.split_once('*')?;
        let tail = behind.rsplit_once('*').map_or(behind, |(_, tail)| tail);
        Some((head, tail, self.0.matches('*').count()))
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Glob {
    type Error = GlobError;

    fn try_from(text: String) -> Result<Self, GlobError> {
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(GlobError::BadCharacter(bad));
        }
        match text.len() {
            0 => Err(GlobError::Empty),
            len if len > GLOB_MAX => Err(GlobError::TooLong),
            _ if text.contains("**") => Err(GlobError::DoubleStar),
            _ if text.matches('*').count() > STARS_MAX => Err(GlobError::TooManyStars),
            _ => Ok(Self(text)),
        }
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, matches) in [
            ("db/*", "db/postgres", true),
            ("db/*", "db/", true),
            ("db/*", "db", false),
            ("*/ssh", "alice/ssh", true),
            ("*/ssh", "alice/sshd", false),
            ("*", "", true),
            ("web-*-db", "web-db", false),
            ("web-*-db", "web--db", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*ab", "aab", true),
            ("alice", "alice", true),
            ("alice", "alicea", false),
        ] {
            assert_eq!(pattern.parse::<Glob>().unwrap().matches(name), matches, "{pattern} {name}");
        }
        assert_eq!("".parse::<Glob>(), Err(GlobError::Empty));
        assert_eq!("a**".parse::<Glob>(), Err(GlobError::DoubleStar));
        assert_eq!("a b".parse::<Glob>(), Err(GlobError::BadCharacter(' ')));
        assert_eq!("ä".parse::<Glob>(), Err(GlobError::BadCharacter('ä')));
        assert_eq!("a*b*c*d*e*".parse::<Glob>(), Err(GlobError::TooManyStars));
        assert_eq!("a".repeat(161).parse::<Glob>(), Err(GlobError::TooLong));
    }
}
