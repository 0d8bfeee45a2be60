//! SPIFFE IDs of workloads.

use std::fmt;
use std::str::FromStr;

use meshara_identity::{MeshName, NodeName};

/// Longest SPIFFE ID, bytes (SPIFFE-ID, 2.3).
const ID_MAX: usize = 2048;
/// Longest name of a trust domain (the same).
const DOMAIN_MAX: usize = 255;

/// Name of a registered workload, unique on its node; same alphabet as the names of nodes.
pub type EntryName = NodeName;

/// `spiffe://<mesh>/workload/<node>` or `spiffe://<mesh>/workload/<node>/<entry>`, and no other spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId {
    mesh: MeshName,
    node: NodeName,
    entry: Option<EntryName>,
}

/// Name of a trust domain: 1–255 of `a-z 0-9 . - _` (SPIFFE-ID, 2.1 and 2.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// A text that names no trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a trust domain has 1 to 255 of the characters a-z 0-9 . - _")]
pub struct ParseTrustDomainError;

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which bundles are filed under.
    pub fn id(&self) -> String {
        format!("spiffe://{}", self.0)
    }

    /// The trust domain of a SPIFFE ID that has a path.
    ///
    /// # Errors
    /// [`ParseTrustDomainError`] when `text` is no such ID.
    pub fn of(text: &str) -> Result<Self, ParseTrustDomainError> {
        member_of(text).ok_or(ParseTrustDomainError)?.parse()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = ParseTrustDomainError;

    fn from_str(text: &str) -> Result<Self, ParseTrustDomainError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if (1..=DOMAIN_MAX).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseTrustDomainError)
        }
    }
}

/// The name of the trust domain of a SPIFFE ID, if it is one with a path.
pub(crate) fn member_of(id: &str) -> Option<&str> {
    let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    (id.len() <= ID_MAX && path.split('/').all(is_segment)).then_some(domain)
}

/// A segment of a SPIFFE ID's path (SPIFFE-ID, 2.2).
fn is_segment(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !matches!(text, "" | "." | "..") && text.bytes().all(plain)
}

/// A text that is not the SPIFFE ID of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a SPIFFE ID of a workload reads spiffe://<mesh>/workload/<node> or spiffe://<mesh>/workload/<node>/<entry>"
)]
pub struct ParseWorkloadIdError;

impl WorkloadId {
    /// The ID of `entry` on `node`; without an entry that of the node's own programs.
    pub fn new(mesh: &MeshName, node: &NodeName, entry: Option<&EntryName>) -> Self {
        Self { mesh: mesh.clone(), node: node.clone(), entry: entry.cloned() }
    }

    /// The node's name.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The trust domain.
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// The registered workload; `None` for the node's own programs.
    pub fn entry(&self) -> Option<&EntryName> {
        self.entry.as_ref()
    }
}

/// `spiffe://<mesh>`: the SPIFFE ID of the trust domain, which signing certificates carry and bundles are filed under.
pub fn trust_domain(mesh: &MeshName) -> String {
    format!("spiffe://{mesh}")
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/workload/{}", self.mesh, self.node)?;
        match &self.entry {
            Some(entry) => write!(f, "/{entry}"),
            None => Ok(()),
        }
    }
}

impl FromStr for WorkloadId {
    type Err = ParseWorkloadIdError;

    fn from_str(text: &str) -> Result<Self, ParseWorkloadIdError> {
        let rest = text.strip_prefix("spiffe://").ok_or(ParseWorkloadIdError)?;
        let (mesh, path) = rest.split_once("/workload/").ok_or(ParseWorkloadIdError)?;
        let (node, entry) = match path.split_once('/') {
            Some((node, entry)) => (node, Some(entry)),
            None => (path, None),
        };
        let name = |text: &str| text.parse().map_err(|_| ParseWorkloadIdError);
        Ok(Self {
            mesh: mesh.parse().map_err(|_| ParseWorkloadIdError)?,
            node: name(node)?,
            entry: entry.map(name).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_trust_domains_are_told() {
        assert_eq!(TrustDomain::of("spiffe://lab/workload/alice").unwrap().as_str(), "lab");
        assert_eq!(TrustDomain::of("spiffe://a.b-c_1/X").unwrap().id(), "spiffe://a.b-c_1");
        let long = format!("spiffe://lab/{}", "a".repeat(ID_MAX - 13));
        assert!(TrustDomain::of(&long).is_ok());
        for bad in [
            "spiffe://lab",
            "spiffe://lab/",
            "spiffe:///a",
            "spiffe://lab/a//b",
            "spiffe://lab/a/..",
            "spiffe://lab/a?b",
            "spiffe://Lab/a",
            "https://lab/a",
            &format!("{long}a"),
            &format!("spiffe://{}/a", "a".repeat(256)),
        ] {
            assert_eq!(TrustDomain::of(bad), Err(ParseTrustDomainError), "{bad}");
        }
    }

    #[test]
    fn ids_are_exact() {
        let (mesh, node, entry) = ("lab".parse().unwrap(), "alice".parse().unwrap(), "db".parse().unwrap());
        let own = WorkloadId::new(&mesh, &node, None);
        let db = WorkloadId::new(&mesh, &node, Some(&entry));
        assert_eq!(own.to_string(), "spiffe://lab/workload/alice");
        assert_eq!(db.to_string(), "spiffe://lab/workload/alice/db");
        for id in [own, db] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in [
            "spiffe://lab/workload/",
            "spiffe://lab/workload/alice/",
            "spiffe://lab/workload//db",
            "spiffe://lab/workload/alice/db/x",
            "spiffe://lab/node/alice",
            "spiffe://lab/workload",
            "SPIFFE://lab/workload/alice",
            "spiffe://lab:1/workload/alice",
            "spiffe://lab/workload/alice?x",
            "spiffe://lab/workload/Alice",
            "spiffe:///workload/alice",
        ] {
            assert_eq!(bad.parse::<WorkloadId>(), Err(ParseWorkloadIdError), "{bad}");
        }
    }
}
