//! Names of meshes, nodes and roles, and the SPIFFE ID made of both.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name: one DNS label (RFC 1035). Shorter than a NodeId's 64 digits, so no name can be read as one.
pub const NAME_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No characters.
    #[error("a name may not be empty")]
    Empty,
    /// More than [`NAME_MAX`] characters.
    #[error("a name has at most 63 characters")]
    TooLong,
    /// A character outside `a-z 0-9 -`.
    #[error("a name has only a-z, 0-9 and '-', found {0:?}")]
    BadCharacter(char),
    /// Starts or ends with `-`.
    #[error("a name starts and ends with a letter or digit")]
    BadEnd,
}

fn check(text: &str) -> Result<(), NameError> {
    if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(NameError::BadCharacter(bad));
    }
    match text.len() {
        0 => Err(NameError::Empty),
        len if len > NAME_MAX => Err(NameError::TooLong),
        _ if text.starts_with('-') || text.ends_with('-') => Err(NameError::BadEnd),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($name:ident) => {
        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Name of a node, unique in its mesh: 1–63 of `a-z 0-9 -`, starting and ending with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

name!(NodeName);

/// Name of a mesh; same alphabet as [`NodeName`]. It is the SPIFFE trust domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MeshName(String);

name!(MeshName);

/// Name of a role that policy speaks of; same alphabet as [`NodeName`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

name!(RoleName);

/// `spiffe://<mesh>/node/<name>` and no other spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    mesh: MeshName,
    name: NodeName,
}

/// A text that is not `spiffe://<mesh>/node/<name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SPIFFE ID of a node reads spiffe://<mesh>/node/<name>")]
pub struct ParseSpiffeError;

impl SpiffeId {
    /// The SPIFFE ID of the node `name` in `mesh`.
    pub fn node(mesh: &MeshName, name: &NodeName) -> Self {
        Self { mesh: mesh.clone(), name: name.clone() }
    }

    /// The trust domain.
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/node/{}", self.mesh, self.name)
    }
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeError;

    fn from_str(text: &str) -> Result<Self, ParseSpiffeError> {
        let rest = text.strip_prefix("spiffe://").ok_or(ParseSpiffeError)?;
        let (mesh, name) = rest.split_once("/node/").ok_or(ParseSpiffeError)?;
        Ok(Self {
            mesh: mesh.parse().map_err(|_| ParseSpiffeError)?,
            name: name.parse().map_err(|_| ParseSpiffeError)?,
        })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = ParseSpiffeError;

    fn try_from(text: String) -> Result<Self, ParseSpiffeError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "alice", "node-1", "0", &"x".repeat(63)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for (bad, error) in [
            ("", NameError::Empty),
            ("Alice", NameError::BadCharacter('A')),
            ("a b", NameError::BadCharacter(' ')),
            ("ä", NameError::BadCharacter('ä')),
            ("a/b", NameError::BadCharacter('/')),
            ("-a", NameError::BadEnd),
            ("a-", NameError::BadEnd),
            (&"a".repeat(64), NameError::TooLong),
        ] {
            assert_eq!(bad.parse::<NodeName>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn spiffe_ids_are_exact() {
        let id = SpiffeId::node(&"lab".parse().unwrap(), &"alice".parse().unwrap());
        assert_eq!(id.to_string(), "spiffe://lab/node/alice");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "spiffe://lab/node/",
            "spiffe://lab/node/alice/",
            "SPIFFE://lab/node/alice",
            "spiffe://lab/node/alice?x",
            "spiffe://lab/user/alice",
            "spiffe:///node/alice",
            "spiffe://lab/node/node/alice",
            "spiffe://lab:1/node/alice",
            " spiffe://lab/node/alice",
        ] {
            assert_eq!(bad.parse::<SpiffeId>(), Err(ParseSpiffeError), "{bad}");
        }
    }
}
