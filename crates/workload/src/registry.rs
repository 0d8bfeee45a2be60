//! Which programs, besides the node's own, may have which identity.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::caller::{Attested, FileId};
use crate::id::EntryName;

/// Most registrations of a node: every caller is held against each.
pub const REGISTRATIONS_MAX: usize = 256;

/// Longest path of a program (`PATH_MAX` of Linux).
const PATH_MAX: usize = 4096;

/// What a caller must be. Both conditions hold together; at least one is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Effective user id at the time of connecting.
    pub uid: Option<u32>,
    /// Absolute path of the program's file.
    pub exe: Option<PathBuf>,
}

/// Why a workload was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It would be everybody's.
    #[error("a workload is registered by user id, by program, or both")]
    Empty,
    /// A path that is not absolute, or has `..` or the like in it.
    #[error("{} is not an absolute, plain path", .0.display())]
    BadPath(PathBuf),
    /// [`REGISTRATIONS_MAX`] is reached.
    #[error("256 workloads are registered already: remove some")]
    Full,
}

/// All registrations of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry(BTreeMap<EntryName, Registration>);

impl Registration {
    /// Whether it can be met, and not by everybody.
    pub fn check(&self) -> Result<(), RegistryError> {
        if self.uid.is_none() && self.exe.is_none() {
            return Err(RegistryError::Empty);
        }
        match &self.exe {
            Some(path) if !is_plain(path) => Err(RegistryError::BadPath(path.clone())),
            _ => Ok(()),
        }
    }

    fn is_met(&self, caller: &Attested, file_of: &impl Fn(&Path) -> Option<FileId>) -> bool {
        let uid = self.uid.is_none_or(|uid| uid == caller.uid);
        // The file itself is compared, not its name: in a mount namespace of its own a caller can give any file any name.
        let exe = self.exe.as_ref().is_none_or(|path| caller.exe.is_some() && file_of(path) == caller.exe);
        uid && exe
    }

    /// More conditions come first.
    fn rank(&self) -> u8 {
        u8::from(self.uid.is_none()) + u8::from(self.exe.is_none())
    }
}

/// Absolute, with no part that a look at the text doesn't settle.
fn is_plain(path: &Path) -> bool {
    use std::path::Component;
    path.is_absolute()
        && path.as_os_str().len() <= PATH_MAX
        && path.to_str().is_some()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

impl Registry {
    /// Registers a workload, or replaces its conditions.
    pub fn add(&mut self, name: EntryName, registration: Registration) -> Result<(), RegistryError> {
        registration.check()?;
        if self.0.len() >= REGISTRATIONS_MAX && !self.0.contains_key(&name) {
            return Err(RegistryError::Full);
        }
        self.0.insert(name, registration);
        Ok(())
    }

    /// Takes a registration out; `None` when there is none.
    pub fn remove(&mut self, name: &EntryName) -> Option<Registration> {
        self.0.remove(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&EntryName, &Registration)> {
        self.0.iter()
    }

    /// Whether a workload of this name is registered.
    pub fn contains(&self, name: &EntryName) -> bool {
        self.0.contains_key(name)
    }

    /// The identities of a caller, the one to use by default first: registered ones, those with more conditions first, then (`None`)
    /// that of the node's own programs if the caller is one.
    pub(crate) fn entitled(
        &self,
        caller: &Attested,
        own_uid: u32,
        file_of: impl Fn(&Path) -> Option<FileId>,
    ) -> Vec<Option<EntryName>> {
        let mut met: Vec<_> = self.0.iter().filter(|(_, entry)| entry.is_met(caller, &file_of)).collect();
        // Stable: names stay in order.
        met.sort_by_key(|(_, entry)| entry.rank());
        let mut entitled: Vec<_> = met.into_iter().map(|(name, _)| Some(name.clone())).collect();
        if caller.uid == own_uid {
            entitled.push(None);
        }
        entitled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DB: FileId = FileId { device: 1, inode: 7 };

    fn name(text: &str) -> EntryName {
        text.parse().unwrap()
    }

    fn entry(uid: Option<u32>, exe: Option<&str>) -> Registration {
        Registration { uid, exe: exe.map(PathBuf::from) }
    }

    fn names(registry: &Registry, uid: u32, exe: Option<FileId>) -> Vec<String> {
        let file_of = |path: &Path| (path == Path::new("/usr/bin/db")).then_some(DB);
        let entitled = registry.entitled(&Attested { uid, pid: 1, exe }, 1000, file_of);
        entitled
            .into_iter()
            .map(|entry| entry.map_or_else(|| "own".into(), |name| name.to_string()))
            .collect()
    }

    #[test]
    fn every_condition_counts() {
        let mut registry = Registry::default();
        registry.add(name("any-db"), entry(None, Some("/usr/bin/db"))).unwrap();
        registry.add(name("both"), entry(Some(2000), Some("/usr/bin/db"))).unwrap();
        registry.add(name("gone"), entry(Some(2000), Some("/usr/bin/gone"))).unwrap();
        registry.add(name("user"), entry(Some(2000), None)).unwrap();
        assert_eq!(names(&registry, 2000, Some(DB)), ["both", "any-db", "user"]);
        assert_eq!(names(&registry, 2000, Some(FileId { device: 2, ..DB })), ["user"]);
        assert_eq!(
            names(&registry, 2000, None),
            ["user"],
            "an unknown program meets no path, not even a missing one"
        );
        assert_eq!(names(&registry, 3000, Some(DB)), ["any-db"]);
        assert!(names(&registry, 3000, None).is_empty());
        assert_eq!(names(&registry, 1000, Some(DB)), ["any-db", "own"]);
        assert_eq!(names(&registry, 1000, None), ["own"]);
        registry.remove(&name("any-db")).unwrap();
        assert!(names(&registry, 3000, Some(DB)).is_empty());
    }

    #[test]
    fn what_cannot_be_met_or_is_everybodys_is_refused() {
        let mut registry = Registry::default();
        assert_eq!(registry.add(name("a"), entry(None, None)), Err(RegistryError::Empty));
        for bad in ["db", "./db", "/usr/../bin/db"] {
            let refused = registry.add(name("a"), entry(Some(0), Some(bad)));
            assert_eq!(refused, Err(RegistryError::BadPath(bad.into())));
        }
        for n in 0..REGISTRATIONS_MAX {
            registry.add(name(&format!("w{n}")), entry(Some(1), None)).unwrap();
        }
        assert_eq!(registry.add(name("more"), entry(Some(1), None)), Err(RegistryError::Full));
        registry.add(name("w0"), entry(Some(2), None)).unwrap();
    }
}
