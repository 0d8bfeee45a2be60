//! What an issuer remembers, in `issuer.redb`: tickets, their uses, names and serials. One transaction per decision.

mod applicants;
mod roles;

use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::home::ISSUER_STATE;
use crate::ids::{MeshId, NodeId, UnixMillis};
use crate::issuer::Enrolled;
use crate::leaf::roles_are_canonical;
use crate::names::{NodeName, RoleName};
use crate::sealed::{self, FileError};
use crate::wire;

pub(super) use applicants::{Applied, Listed};

/// Version of the tables.
const STORE_VERSION: u8 = 2;

/// The version before, without enrolments and roles. It becomes [`STORE_VERSION`] when it is opened.
const STORE_VERSION_1: u8 = 1;

/// Page cache of redb: the whole file of a mesh of 10,000 fits, and an idle node stays small.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Longest ticket record.
const RECORD_MAX: usize = 256;

/// Longest enrolment: two times and 16 roles of 63 characters.
const ENROLMENT_MAX: usize = 1200;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const TICKETS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("tickets");
/// Ticket id and node id.
const USES: TableDefinition<'_, [u8; 48], u64> = TableDefinition::new("ticket_uses");
const NAMES: TableDefinition<'_, &str, [u8; 32]> = TableDefinition::new("names");
const NODES: TableDefinition<'_, [u8; 32], &str> = TableDefinition::new("nodes");
/// End of the certificate (big-endian milliseconds) and serial, so that ended ones are a range.
const SERIALS: TableDefinition<'_, [u8; 24], [u8; 32]> = TableDefinition::new("serials");

/// Since version 2: until when a node belongs to the mesh, and its roles.
const ENROLMENTS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("enrolments");
/// Since version 2: the roles that a ticket gives, if it gives any.
const TICKET_ROLES: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("ticket_roles");

/// Since version 2: nodes whose enrolment may be in no log yet.
const UNLOGGED: TableDefinition<'_, [u8; 32], ()> = TableDefinition::new("unlogged");

/// An enrolment as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredEnrolment {
    from: UnixMillis,
    until: UnixMillis,
    roles: Vec<RoleName>,
}

/// A ticket as the issuer keeps it: enough to check a request, not enough to make the ticket again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TicketRecord {
    pub(super) hash: [u8; 32],
    pub(super) join_key: [u8; 32],
    pub(super) expires_at: UnixMillis,
    pub(super) uses: u32,
    pub(super) used: u32,
}

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the file open.
    #[error("{path}: in use by another process; stop it, or ask the running node", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is another mesh's.
    #[error("{path}: belongs to another mesh; put this mesh's file in its place", path = path.display())]
    OtherMesh {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed (disk full, for example).
    #[error("issuer store: {0}; free disk space and check the disk")]
    Failed(String),
    /// A record does not decode.
    #[error(
        "{file}: damaged record; {remedy}",
        file = ISSUER_STATE,
        remedy = sealed::remedy(Path::new(ISSUER_STATE))
    )]
    DamagedRecord,
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Failed(error.to_string())
            }
        }
    )*};
}
from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

#[derive(Debug)]
pub(super) struct Store {
    db: Database,
}

impl Store {
    /// Makes the file under another name first, so that an interruption leaves no half a store.
    pub(super) fn create(path: &Path, mesh: &MeshId) -> Result<Self, StoreError> {
        let (temporary, file) = sealed::temporary(path)?;
        let made = Self::make(&temporary, file, mesh).and_then(|store| {
            sealed::link(&temporary, path)?;
            Ok(store)
        });
        let removed = std::fs::remove_file(&temporary);
        let store = made?;
        removed.map_err(|error| FileError::io(&temporary, "remove", &error))?;
        sealed::sync_directory(path)?;
        Ok(store)
    }

    fn make(path: &Path, file: File, mesh: &MeshId) -> Result<Self, StoreError> {
        let store = Self { db: open_database(path, file)? };
        let txn = store.db.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            meta.insert("version", [STORE_VERSION].as_slice())?;
            meta.insert("mesh", mesh.0.as_slice())?;
            txn.open_table(TICKETS)?;
            txn.open_table(USES)?;
            txn.open_table(NAMES)?;
            txn.open_table(NODES)?;
            txn.open_table(SERIALS)?;
            open_second(&txn)?;
        }
        txn.commit()?;
        Ok(store)
    }

    /// Adds the tables of version 2. What they hold of nodes from before, renewals bring.
    fn upgrade(&self) -> Result<(), StoreError> {
        let txn = self.db.begin_write()?;
        open_second(&txn)?;
        txn.open_table(META)?.insert("version", [STORE_VERSION].as_slice())?;
        Ok(txn.commit()?)
    }

    pub(super) fn open(path: &Path, mesh: &MeshId) -> Result<Self, StoreError> {
        let file = sealed::private_options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| FileError::io(path, "open", &error))?;
        sealed::check_mode(path, &file)?;
        let length = file.metadata().map_err(|error| FileError::io(path, "examine", &error))?.len();
        if length == 0 {
            // redb would make a new, empty database of it, and forget every name and ticket.
            return Err(FileError::Damaged { path: path.to_owned(), what: "empty" }.into());
        }
        let store = Self { db: open_database(path, file)? };
        if store.check_meta(path, mesh)? == STORE_VERSION_1 {
            store.upgrade()?;
        }
        Ok(store)
    }

    /// Checks whose store it is; its version.
    fn check_meta(&self, path: &Path, mesh: &MeshId) -> Result<u8, StoreError> {
        let damaged = |what| FileError::Damaged { path: path.to_owned(), what };
        let txn = self.db.begin_read()?;
        let meta = txn.open_table(META).map_err(|_| damaged("tables"))?;
        let version = meta.get("version")?.ok_or_else(|| damaged("no version"))?;
        let version = match version.value() {
            [known @ (STORE_VERSION | STORE_VERSION_1)] => *known,
            [found] => {
                return Err(FileError::UnknownVersion {
                    path: path.to_owned(),
                    found: *found,
                    supported: STORE_VERSION,
                }
                .into());
            }
            _ => return Err(damaged("version").into()),
        };
        let stored = meta.get("mesh")?.ok_or_else(|| damaged("no mesh"))?;
        if stored.value() == mesh.0 {
            Ok(version)
        } else {
            Err(StoreError::OtherMesh { path: path.to_owned() })
        }
    }

    pub(super) fn begin(&self) -> Result<Txn, StoreError> {
        Ok(Txn(self.db.begin_write()?, Cell::new(false)))
    }

    pub(super) fn ticket(&self, id: &[u8; 16]) -> Result<Option<TicketRecord>, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(TICKETS)?;
        table.get(id)?.map(|record| decode(record.value())).transpose()
    }

    /// Whether a node is a member under this name.
    pub(super) fn knows(&self, node: &NodeId, name: &NodeName) -> Result<bool, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(NODES)?;
        Ok(table.get(node.0)?.is_some_and(|known| known.value() == name.as_str()))
    }

    /// The enrolment of a node is in the log. Not worth a sync of its own: after a crash it may be logged twice, which says the same.
    pub(super) fn logged(&self, node: &NodeId) -> Result<(), StoreError> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(redb::Durability::None)?;
        txn.open_table(UNLOGGED)?.remove(node.0)?;
        Ok(txn.commit()?)
    }

    pub(super) fn members(&self) -> Result<Vec<(NodeName, NodeId)>, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(NAMES)?;
        table
            .iter()?
            .map(|row| {
                let (name, node) = row?;
                Ok((parse_name(name.value())?, NodeId(node.value())))
            })
            .collect()
    }
}

/// Makes the tables of version 2.
fn open_second(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(ENROLMENTS)?;
    txn.open_table(TICKET_ROLES)?;
    txn.open_table(UNLOGGED)?;
    txn.open_table(applicants::TICKET_KINDS)?;
    txn.open_table(applicants::APPLICANTS)?;
    txn.open_table(applicants::LISTED)?;
    txn.open_table(roles::CHANGES)?;
    txn.open_table(roles::UNLOGGED)?;
    Ok(())
}

/// Opens and checks a database; damage that makes redb panic is an error like other damage.
fn open_database(path: &Path, file: File) -> Result<Database, StoreError> {
    let damaged = |what| StoreError::File(FileError::Damaged { path: path.to_owned(), what });
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut db =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
        let sound = db.check_integrity()?;
        Ok::<_, redb::DatabaseError>((db, sound))
    }));
    match opened {
        // `false` says that an unclean end was repaired; every committed transaction is still there.
        Ok(Ok((db, _))) => Ok(db),
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch)) => {
            Err(StoreError::InUse { path: path.to_owned() })
        }
        Ok(Err(redb::DatabaseError::UpgradeRequired(found))) => {
            Err(FileError::UnknownVersion { path: path.to_owned(), found, supported: STORE_VERSION }.into())
        }
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(error))))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            Err(FileError::io(path, "use", &error).into())
        }
        Ok(Err(_)) => Err(damaged("database structure")),
        Err(_) => Err(damaged("database content")),
    }
}

fn decode(bytes: &[u8]) -> Result<TicketRecord, StoreError> {
    wire::decode(bytes, RECORD_MAX).map_err(|_| StoreError::DamagedRecord)
}

fn decode_enrolment(bytes: &[u8]) -> Result<Enrolled, StoreError> {
    let stored: StoredEnrolment =
        wire::decode(bytes, ENROLMENT_MAX).map_err(|_| StoreError::DamagedRecord)?;
    let StoredEnrolment { from, until, roles } = stored;
    if roles_are_canonical(&roles) {
        Ok(Enrolled { roles, from, until })
    } else {
        Err(StoreError::DamagedRecord)
    }
}

fn parse_name(text: &str) -> Result<NodeName, StoreError> {
    text.parse().map_err(|_| StoreError::DamagedRecord)
}

/// One decision: dropped, it leaves nothing behind; committed, it is on the disk.
pub(super) struct Txn(WriteTransaction, Cell<bool>);

impl Txn {
    pub(super) fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit()?)
    }

    /// Whether an application was written or removed in it, all that an attestor may do.
    pub(super) fn is_written(&self) -> bool {
        self.1.get()
    }

    pub(super) fn ticket(&self, id: &[u8; 16]) -> Result<Option<TicketRecord>, StoreError> {
        let table = self.0.open_table(TICKETS)?;
        table.get(id)?.map(|record| decode(record.value())).transpose()
    }

    pub(super) fn put_ticket(&self, id: &[u8; 16], record: &TicketRecord) -> Result<(), StoreError> {
        let bytes = wire::encode(record).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(TICKETS)?.insert(id, bytes.as_slice())?;
        Ok(())
    }

    /// The roles that a ticket gives.
    pub(super) fn ticket_roles(&self, id: &[u8; 16]) -> Result<Vec<RoleName>, StoreError> {
        let table = self.0.open_table(TICKET_ROLES)?;
        let roles = table.get(id)?.map(|roles| wire::decode(roles.value(), ENROLMENT_MAX));
        roles.unwrap_or(Ok(Vec::new())).map_err(|_| StoreError::DamagedRecord)
    }

    pub(super) fn put_ticket_roles(&self, id: &[u8; 16], roles: &[RoleName]) -> Result<(), StoreError> {
        let bytes = wire::encode(&roles).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(TICKET_ROLES)?.insert(id, bytes.as_slice())?;
        Ok(())
    }

    /// Until when a node belongs to the mesh, as far as this issuer knows.
    pub(super) fn enrolment(&self, node: &NodeId) -> Result<Option<Enrolled>, StoreError> {
        let table = self.0.open_table(ENROLMENTS)?;
        table.get(node.0)?.map(|bytes| decode_enrolment(bytes.value())).transpose()
    }

    pub(super) fn put_enrolment(&self, node: &NodeId, enrolled: &Enrolled) -> Result<(), StoreError> {
        let Enrolled { roles, from, until } = enrolled.clone();
        let bytes =
            wire::encode(&StoredEnrolment { from, until, roles }).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(ENROLMENTS)?.insert(node.0, bytes.as_slice())?;
        Ok(())
    }

    /// Whether the node's enrolment may be in no log yet.
    pub(super) fn is_unlogged(&self, node: &NodeId) -> Result<bool, StoreError> {
        Ok(self.0.open_table(UNLOGGED)?.get(node.0)?.is_some())
    }

    /// The node's enrolment is to be logged: until that is done, each leaf of its takes the enrolment along.
    pub(super) fn put_unlogged(&self, node: &NodeId) -> Result<(), StoreError> {
        self.0.open_table(UNLOGGED)?.insert(node.0, ())?;
        Ok(())
    }

    pub(super) fn ticket_count(&self) -> Result<u64, StoreError> {
        Ok(self.0.open_table(TICKETS)?.len()?)
    }

    /// Forgets tickets that ended before `before`, with their uses.
    pub(super) fn prune_tickets(&self, before: UnixMillis) -> Result<(), StoreError> {
        let mut table = self.0.open_table(TICKETS)?;
        let mut ended = Vec::new();
        for row in table.iter()? {
            let (id, record) = row?;
            if decode(record.value())?.expires_at < before {
                ended.push(id.value());
            }
        }
        let mut uses = self.0.open_table(USES)?;
        let mut roles = self.0.open_table(TICKET_ROLES)?;
        let mut kinds = self.0.open_table(applicants::TICKET_KINDS)?;
        let mut applicants = self.0.open_table(applicants::APPLICANTS)?;
        applicants
            .retain(|_, row| applicants::ticket_of(row).is_none_or(|ticket| !ended.contains(&ticket)))?;
        for id in ended {
            table.remove(id)?;
            roles.remove(id)?;
            kinds.remove(id)?;
            uses.retain_in(use_key(&id, &NodeId([0; 32]))..=use_key(&id, &NodeId([255; 32])), |_, _| false)?;
        }
        Ok(())
    }

    pub(super) fn has_used(&self, ticket: &[u8; 16], node: &NodeId) -> Result<bool, StoreError> {
        Ok(self.0.open_table(USES)?.get(use_key(ticket, node))?.is_some())
    }

    pub(super) fn put_use(
        &self,
        ticket: &[u8; 16],
        node: &NodeId,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.0.open_table(USES)?.insert(use_key(ticket, node), now.0)?;
        Ok(())
    }

    pub(super) fn node_name(&self, node: &NodeId) -> Result<Option<NodeName>, StoreError> {
        let table = self.0.open_table(NODES)?;
        table.get(node.0)?.map(|name| parse_name(name.value())).transpose()
    }

    pub(super) fn name_owner(&self, name: &NodeName) -> Result<Option<NodeId>, StoreError> {
        Ok(self.0.open_table(NAMES)?.get(name.as_str())?.map(|node| NodeId(node.value())))
    }

    pub(super) fn member_count(&self) -> Result<u64, StoreError> {
        Ok(self.0.open_table(NAMES)?.len()?)
    }

    pub(super) fn put_member(&self, name: &NodeName, node: &NodeId) -> Result<(), StoreError> {
        self.0.open_table(NAMES)?.insert(name.as_str(), node.0)?;
        self.0.open_table(NODES)?.insert(node.0, name.as_str())?;
        Ok(())
    }

    /// Forgets a node and its enrolment: its name is free. Whether it was known.
    pub(super) fn remove_member(&self, node: &NodeId) -> Result<bool, StoreError> {
        let Some(name) = self.node_name(node)? else { return Ok(false) };
        if self.name_owner(&name)? == Some(*node) {
            self.0.open_table(NAMES)?.remove(name.as_str())?;
        }
        self.0.open_table(NODES)?.remove(node.0)?;
        self.0.open_table(ENROLMENTS)?.remove(node.0)?;
        self.0.open_table(UNLOGGED)?.remove(node.0)?;
        Ok(true)
    }

    /// Records a serial and forgets those of certificates that ended before `now`.
    pub(super) fn put_serial(
        &self,
        serial: &[u8; 16],
        not_after: UnixMillis,
        node: &NodeId,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let mut table = self.0.open_table(SERIALS)?;
        table.retain_in(..serial_key(now, &[0; 16]), |_, _| false)?;
        table.insert(serial_key(not_after, serial), node.0)?;
        Ok(())
    }
}

fn use_key(ticket: &[u8; 16], node: &NodeId) -> [u8; 48] {
    let mut key = [0; 48];
    let parts = ticket.iter().chain(&node.0);
    key.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    key
}

fn serial_key(not_after: UnixMillis, serial: &[u8; 16]) -> [u8; 24] {
    let mut key = [0; 24];
    let time = not_after.0.to_be_bytes();
    key.iter_mut().zip(time.iter().chain(serial)).for_each(|(to, from)| *to = *from);
    key
}
