//! A bundle: logs with all that it takes to verify them, in a directory. And the audit itself, which reads nothing but such files.
//!
//! ```text
//! mesh                   root, name and grants of the mesh
//! logs/<issuer>/keys     the issuer's statement of its log's keys, signed by its CA key
//! logs/<issuer>/…        checkpoint, checkpoints/, tile/: the log (C2SP tlog-tiles)
//! ```

use std::io;
use std::path::{Path, PathBuf};

use meshara_identity::{MeshId, MeshInfo, MeshInfoError, NodeId, TrustAnchors, UnixMillis, sealed};
use meshara_trust::log::export::{export, witnesses};
use meshara_trust::log::keys::STATEMENT_MAX;
use meshara_trust::log::{
    AuditReport, Certificate, DiskFiles, Files, LogError, LogStatement, Problem, StatementError, Witness,
    WitnessPolicy, audit, one_of_each_key,
};

use super::others::{self, KEYS};
use crate::api::{AuditInfo, AuditedLog};

/// The mesh that the logs are of.
const MESH: &str = "mesh";

/// Why a bundle was not written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Files.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The directory exists and isn't empty.
    #[error("{path}: is not empty; name a new directory", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// It doesn't say which mesh it is of.
    #[error("{path}: {error}", path = path.display())]
    Mesh {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: MeshInfoError,
    },
    /// It is of another mesh than expected.
    #[error("the bundle is of mesh {found}, expected is {expected}")]
    OtherMesh {
        /// What was asked for.
        expected: MeshId,
        /// What it is of.
        found: MeshId,
    },
    /// A log's keys.
    #[error("{path}: {error}", path = path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: StatementError,
    },
    /// A log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no log in it.
    #[error("{path}: holds no log", path = path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> BundleError + use<'_> {
    move |error| BundleError::Io { path: path.to_owned(), error }
}

/// A log in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) issuer: NodeId,
    pub(crate) statement: LogStatement,
    pub(crate) directory: PathBuf,
    pub(crate) fetched: bool,
}

/// Writes a bundle of the logs that a home holds: its own, and those that an audit copied. Needs no running node, and hinders none.
///
/// # Errors
/// [`BundleError`]; `to` must not exist, or be empty.
pub fn write_bundle(home: &Path, to: &Path) -> Result<u64, BundleError> {
    std::fs::create_dir_all(to).map_err(at(to))?;
    if std::fs::read_dir(to).map_err(at(to))?.next().is_some() {
        return Err(BundleError::NotEmpty { path: to.to_owned() });
    }
    let (own, logs) = (home.join(super::own::DIRECTORY), home.join(others::DIRECTORY));
    let mut places = vec![own];
    if let Ok(entries) = std::fs::read_dir(&logs) {
        places.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    places.retain(|place| place.join("checkpoint").exists() && place.join(KEYS).exists());
    if places.is_empty() {
        return Err(BundleError::Empty { path: home.to_owned() });
    }
    let mesh_path = logs.join(super::MESH_INFO);
    let mesh = std::fs::read(&mesh_path).map_err(at(&mesh_path))?;
    let info = MeshInfo::decode(&mesh)
        .map_err(|error| BundleError::Mesh { path: mesh_path.clone(), error: error.into() })?;
    let anchors =
        info.anchors().map_err(|error| BundleError::Mesh { path: mesh_path, error: error.into() })?;
    for place in &places {
        let (issuer, statement) = statement(place, &anchors)?;
        let into = to.join(others::DIRECTORY).join(issuer.to_string());
        let files = DiskFiles::open(&into)?;
        export(&DiskFiles::read_only(place), statement.public(), &files)?;
        let keys = statement
            .encode()
            .map_err(|error| BundleError::Keys { path: place.join(KEYS), error: error.into() })?;
        files.create(KEYS, &keys).and_then(|()| files.sync_directory("")).map_err(at(&into))?;
        drop(files);
        // Only a log that is being written needs a lock.
        let lock = into.join("lock");
        std::fs::remove_file(&lock).map_err(at(&lock))?;
    }
    std::fs::write(to.join(MESH), mesh).map_err(at(to))?;
    sealed::sync_directory(&to.join(MESH)).map_err(|error| BundleError::Io {
        path: to.to_owned(),
        error: io::Error::other(error.to_string()),
    })?;
    Ok(places.len() as u64)
}

fn statement(place: &Path, anchors: &TrustAnchors) -> Result<(NodeId, LogStatement), BundleError> {
    let path = place.join(KEYS);
    let bytes = DiskFiles::read_only(place).read(KEYS, STATEMENT_MAX as u64).map_err(at(&path))?;
    let keys = |error| BundleError::Keys { path: path.clone(), error };
    let statement = LogStatement::decode(&bytes).map_err(|error| keys(error.into()))?;
    let (issuer, _) = statement.verify(anchors).map_err(keys)?;
    Ok((issuer, statement))
}

/// Audits a bundle. `mesh` is the one that it must be of; without it, the caller compares the id that comes back. `threshold` witnesses must have
/// cosigned a checkpoint of each log.
///
/// # Errors
/// [`BundleError`]: there is nothing to audit. What is wrong with the logs is in the report.
pub fn audit_bundle(
    bundle: &Path,
    mesh: Option<MeshId>,
    threshold: usize,
    now: UnixMillis,
) -> Result<(MeshId, AuditInfo), BundleError> {
    let path = bundle.join(MESH);
    let bytes = DiskFiles::read_only(bundle)
        .read(MESH, meshara_identity::membership::MESH_INFO_MAX as u64)
        .map_err(at(&path))?;
    let wrong = |error: MeshInfoError| BundleError::Mesh { path: path.clone(), error };
    let info = MeshInfo::decode(&bytes).map_err(|error| wrong(error.into()))?;
    let anchors = info.anchors().map_err(|error| wrong(error.into()))?;
    let found = anchors.mesh_id();
    if let Some(expected) = mesh.filter(|expected| *expected != found) {
        return Err(BundleError::OtherMesh { expected, found });
    }
    let logs = bundle.join(others::DIRECTORY);
    let mut places = Vec::new();
    for entry in std::fs::read_dir(&logs).map_err(at(&logs))? {
        let directory = entry.map_err(at(&logs))?.path();
        let (issuer, statement) = statement(&directory, &anchors)?;
        places.push(Place { issuer, statement, directory, fetched: false });
    }
    if places.is_empty() {
        return Err(BundleError::Empty { path: logs });
    }
    places.sort_by_key(|place| place.issuer);
    Ok((found, audit_places(&anchors, &places, &[], threshold, now).info))
}

/// The mesh that a home's logs are of; `None` before its node ran.
pub fn mesh_of(home: &Path) -> Option<MeshId> {
    Some(anchors_of(home)?.mesh_id())
}

/// Whom a home's node trusted when it last kept that beside its logs, verified from the root down; `None` before it ran.
pub(crate) fn anchors_of(home: &Path) -> Option<TrustAnchors> {
    let path = home.join(others::DIRECTORY).join(super::MESH_INFO);
    MeshInfo::decode(&std::fs::read(path).ok()?).ok()?.anchors().ok()
}

/// What auditing several logs found.
pub(crate) struct Audited {
    pub(crate) info: AuditInfo,
    /// Whether all that is wrong may be so because it is a second old.
    pub(crate) young: bool,
}

/// Audits logs that stand in directories. `live` are certificates in use, with their issuers. Blocks.
pub(crate) fn audit_places(
    anchors: &TrustAnchors,
    places: &[Place],
    live: &[(NodeId, Certificate)],
    threshold: usize,
    now: UnixMillis,
) -> Audited {
    let info = AuditInfo { mesh_id: anchors.mesh_id().to_string(), ..AuditInfo::default() };
    let mut audited = Audited { info, young: true };
    let files: Vec<DiskFiles> = places.iter().map(|place| DiskFiles::read_only(&place.directory)).collect();
    let logs: Vec<_> = places
        .iter()
        .zip(&files)
        .map(|(place, files)| (files as &dyn Files, place.statement.public()))
        .collect();
    let witnesses = match witnesses(&logs, anchors.mesh()) {
        Ok(witnesses) => witnesses,
        Err(error) => {
            audited.problem(error.to_string(), false);
            Vec::new()
        }
    };
    let mut fewest = None;
    for (place, (files, public)) in places.iter().zip(&logs) {
        let own: Vec<Certificate> =
            live.iter().filter(|(issuer, _)| *issuer == place.issuer).map(|(_, live)| live.clone()).collect();
        let others: Vec<Witness> =
            witnesses.iter().filter(|witness| witness.node() != place.issuer).cloned().collect();
        let others = one_of_each_key(others);
        let nodes = others.iter().map(Witness::node).collect::<std::collections::BTreeSet<_>>().len();
        let (policy, missing) = (WitnessPolicy::new(threshold.min(nodes), others), threshold > nodes);
        let origin = public.origin().to_string();
        let report = policy.map_err(|error| error.to_string()).and_then(|policy| {
            audit(*files, public, &policy, &own, now, &mut |_, _| {}).map_err(|error| error.to_string())
        });
        match report {
            Ok(report) => {
                if missing && report.head.size > 0 {
                    let text = format!("{origin}: {nodes} of {threshold} witnesses cosigned");
                    audited.problem(text, true);
                }
                fewest = Some(fewest.map_or(report.witnesses, |fewest: usize| fewest.min(report.witnesses)));
                audited.add(place, &origin, &report);
            }
            Err(error) => audited.problem(format!("{origin}: {error}"), false),
        }
    }
    audited.info.witnesses = fewest.unwrap_or_default() as u64;
    for (issuer, certificate) in live {
        if !places.iter().any(|place| place.issuer == *issuer) {
            let text =
                format!("the certificate of {}: nothing is known of its issuer's log", certificate.name);
            audited.problem(text, true);
        }
    }
    audited.finish()
}

impl Audited {
    pub(crate) fn problem(&mut self, text: String, young: bool) {
        self.young &= young;
        self.info.problems.push(text);
    }

    fn add(&mut self, place: &Place, origin: &str, report: &AuditReport) {
        self.info.entries += report.entries;
        self.info.certificates += report.certificates;
        for problem in &report.problems {
            let young = matches!(problem, Problem::NotLogged { .. } | Problem::Witnesses(_));
            self.problem(format!("{origin}: {problem}"), young);
        }
        let more = report.problem_count.saturating_sub(report.problems.len() as u64);
        if more > 0 {
            self.problem(format!("{origin}: {more} more problems"), false);
        }
        self.info.logs.push(AuditedLog {
            issuer: place.issuer.to_string(),
            origin: origin.to_owned(),
            size: report.head.size,
            head: report.head.root.to_string(),
            witnessed: report.witnessed,
            witnesses: report.witnesses as u64,
            fetched: place.fetched,
        });
    }

    pub(crate) fn finish(mut self) -> Self {
        self.info.ok = self.info.problems.is_empty();
        self
    }
}
