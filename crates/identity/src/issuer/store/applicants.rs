//! What the issuer remembers for attestation: what tickets ask for, who waits for a decision, who is on the list.

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{StoreError, Txn};
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::attestation::{AttestationKind, Verdict};
use crate::leaf::roles_are_canonical;
use crate::names::{NodeName, RoleName};
use crate::wire;

/// Since version 2: the kinds of attestation that a ticket asks for, if any.
pub(super) const TICKET_KINDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("ticket_kinds");
/// Since version 2: who asked, and what was decided.
pub(super) const APPLICANTS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("applicants");
/// Since version 2: who may join with a ticket for listed nodes.
pub(super) const LISTED: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("listed");

/// Longest row: a name, a time and 16 roles of 63 characters each.
const ROW_MAX: usize = 1200;

/// A node that asked to join with a ticket that asks for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::issuer) struct Applied {
    pub(in crate::issuer) ticket: [u8; 16],
    pub(in crate::issuer) name: NodeName,
    pub(in crate::issuer) since: UnixMillis,
    pub(in crate::issuer) decision: Verdict,
    pub(in crate::issuer) roles: Vec<RoleName>,
}

/// A node that may join with a ticket for listed nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::issuer) struct Listed {
    pub(in crate::issuer) name: Option<NodeName>,
    pub(in crate::issuer) roles: Vec<RoleName>,
}

fn decode<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    roles: impl Fn(&T) -> &[RoleName],
) -> Result<T, StoreError> {
    let row: T = wire::decode(bytes, ROW_MAX).map_err(|_| StoreError::DamagedRecord)?;
    if roles_are_canonical(roles(&row)) { Ok(row) } else { Err(StoreError::DamagedRecord) }
}

fn applied(bytes: &[u8]) -> Result<Applied, StoreError> {
    decode(bytes, |row: &Applied| &row.roles)
}

/// The ticket of a row; `None` of a damaged one, which whoever reads it names.
pub(super) fn ticket_of(bytes: &[u8]) -> Option<[u8; 16]> {
    applied(bytes).ok().map(|row| row.ticket)
}

fn listed(bytes: &[u8]) -> Result<Listed, StoreError> {
    decode(bytes, |row: &Listed| &row.roles)
}

impl Txn {
    /// What a ticket asks for beside itself.
    pub(in crate::issuer) fn ticket_kinds(&self, id: &[u8; 16]) -> Result<Vec<AttestationKind>, StoreError> {
        let table = self.0.open_table(TICKET_KINDS)?;
        let kinds = table.get(id)?.map(|kinds| wire::decode(kinds.value(), ROW_MAX));
        kinds.unwrap_or(Ok(Vec::new())).map_err(|_| StoreError::DamagedRecord)
    }

    pub(in crate::issuer) fn put_ticket_kinds(
        &self,
        id: &[u8; 16],
        kinds: &[AttestationKind],
    ) -> Result<(), StoreError> {
        let bytes = wire::encode(&kinds).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(TICKET_KINDS)?.insert(id, bytes.as_slice())?;
        Ok(())
    }

    pub(in crate::issuer) fn applied(&self, node: &NodeId) -> Result<Option<Applied>, StoreError> {
        let table = self.0.open_table(APPLICANTS)?;
        table.get(node.0)?.map(|row| applied(row.value())).transpose()
    }

    pub(in crate::issuer) fn put_applied(&self, node: &NodeId, row: &Applied) -> Result<(), StoreError> {
        let bytes = wire::encode(row).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(APPLICANTS)?.insert(node.0, bytes.as_slice())?;
        self.1.set(true);
        Ok(())
    }

    /// What was decided has been carried out.
    pub(in crate::issuer) fn remove_applied(&self, node: &NodeId) -> Result<(), StoreError> {
        self.0.open_table(APPLICANTS)?.remove(node.0)?;
        self.1.set(true);
        Ok(())
    }

    pub(in crate::issuer) fn all_applied(&self) -> Result<Vec<(NodeId, Applied)>, StoreError> {
        let table = self.0.open_table(APPLICANTS)?;
        table
            .iter()?
            .map(|row| {
                let (node, row) = row?;
                Ok((NodeId(node.value()), applied(row.value())?))
            })
            .collect()
    }

    /// Forgets who asked first with this ticket, and who asked first of all, until there are fewer than `with_ticket` and `in_all`.
    pub(in crate::issuer) fn make_room_for_applicant(
        &self,
        ticket: &[u8; 16],
        with_ticket: usize,
        in_all: usize,
    ) -> Result<(), StoreError> {
        let mut all = self.all_applied()?;
        all.sort_by_key(|(_, row)| row.since);
        let mut same = all.iter().filter(|(_, row)| row.ticket == *ticket).count();
        let mut left = all.len();
        for (node, row) in &all {
            let crowded = row.ticket == *ticket && same >= with_ticket;
            if crowded || left >= in_all {
                self.remove_applied(node)?;
                left -= 1;
                same -= usize::from(row.ticket == *ticket);
            }
        }
        Ok(())
    }

    pub(in crate::issuer) fn listed(&self, node: &NodeId) -> Result<Option<Listed>, StoreError> {
        let table = self.0.open_table(LISTED)?;
        table.get(node.0)?.map(|row| listed(row.value())).transpose()
    }

    pub(in crate::issuer) fn listed_count(&self) -> Result<u64, StoreError> {
        Ok(self.0.open_table(LISTED)?.len()?)
    }

    pub(in crate::issuer) fn put_listed(&self, node: &NodeId, row: &Listed) -> Result<(), StoreError> {
        let bytes = wire::encode(row).map_err(|_| StoreError::DamagedRecord)?;
        self.0.open_table(LISTED)?.insert(node.0, bytes.as_slice())?;
        Ok(())
    }

    pub(in crate::issuer) fn remove_listed(&self, node: &NodeId) -> Result<Option<Listed>, StoreError> {
        let mut table = self.0.open_table(LISTED)?;
        let removed = table.remove(node.0)?;
        removed.map(|row| listed(row.value())).transpose()
    }

    pub(in crate::issuer) fn all_listed(&self) -> Result<Vec<(NodeId, Listed)>, StoreError> {
        let table = self.0.open_table(LISTED)?;
        table
            .iter()?
            .map(|row| {
                let (node, row) = row?;
                Ok((NodeId(node.value()), listed(row.value())?))
            })
            .collect()
    }
}
