//! SPIFFE IDs of workloads.

use std::fmt;
use std::str::FromStr;

use meshara_identity::{MeshName, NodeName};

/// Name of a registered workload, unique on its node; same alphabet as the names of nodes.
pub type EntryName = NodeName;

/// `spiffe://<mesh>/workload/<node>` or `spiffe://<mesh>/workload/<node>/<entry>`, and no other spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId {
    mesh: MeshName,
    node: NodeName,
    entry: Option<EntryName>,
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
