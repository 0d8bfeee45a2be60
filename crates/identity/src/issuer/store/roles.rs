//! What operators said of members' roles at this issuer, and what of it is in no log yet.
//!
//! A row stays when its node is let go of: one that comes back has the roles that an operator gave it last.

use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, Txn};
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::RoleChange;
use crate::leaf::roles_are_canonical;
use crate::names::RoleName;
use crate::wire;

/// Since version 2: the newest change of a node's roles.
pub(super) const CHANGES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("role_changes");
/// Since version 2: nodes whose newest change may be in no log yet.
pub(super) const UNLOGGED: TableDefinition<'_, [u8; 32], ()> = TableDefinition::new("role_changes_unlogged");

/// Longest row: a time and 16 roles of 63 characters.
const ROW_MAX: usize = 1200;

#[derive(Serialize, Deserialize)]
struct Row {
    at: UnixMillis,
    roles: Vec<RoleName>,
}

impl Txn {
    /// What was said last at this issuer of a node's roles.
    pub(in crate::issuer) fn role_change(&self, node: &NodeId) -> Result<Option<RoleChange>, StoreError> {
        let table = self.0.open_table(CHANGES)?;
        let Some(bytes) = table.get(node.0)? else { return Ok(None) };
        let Row { at, roles } =
            wire::decode(bytes.value(), ROW_MAX).map_err(|_| StoreError::DamagedRecord)?;
        if roles_are_canonical(&roles) {
            Ok(Some(RoleChange { at, roles }))
        } else {
            Err(StoreError::DamagedRecord)
        }
    }

    /// Keeps it, and that no log has it yet.
    pub(in crate::issuer) fn put_role_change(
        &self,
        node: &NodeId,
        change: &RoleChange,
    ) -> Result<(), StoreError> {
        let row = Row { at: change.at, roles: change.roles.clone() };
        let bytes = wire::encode(&row).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(CHANGES)?.insert(node.0, bytes.as_slice())?;
        self.0.open_table(UNLOGGED)?.insert(node.0, ())?;
        Ok(())
    }

    /// What may be in no log yet.
    pub(in crate::issuer) fn unlogged_role_changes(&self) -> Result<Vec<(NodeId, RoleChange)>, StoreError> {
        let nodes: Vec<_> = self
            .0
            .open_table(UNLOGGED)?
            .iter()?
            .map(|row| Ok(NodeId(row?.0.value())))
            .collect::<Result<_, StoreError>>()?;
        let mut changes = Vec::new();
        for node in nodes {
            changes.extend(self.role_change(&node)?.map(|change| (node, change)));
        }
        Ok(changes)
    }
}

impl Store {
    /// This change is in the log, unless there is a newer one meanwhile. Not worth a sync of its own: after a crash it may be logged twice,
    /// which says the same.
    pub(in crate::issuer) fn role_change_logged(
        &self,
        node: &NodeId,
        change: &RoleChange,
    ) -> Result<(), StoreError> {
        let mut txn = self.begin()?;
        if txn.role_change(node)?.as_ref() == Some(change) {
            txn.0.set_durability(redb::Durability::None)?;
            txn.0.open_table(UNLOGGED)?.remove(node.0)?;
            txn.commit()?;
        }
        Ok(())
    }
}
