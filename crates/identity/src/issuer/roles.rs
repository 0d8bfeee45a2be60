//! Roles that an operator gives to a member, or takes from it. Its next certificate names them.

use std::collections::BTreeSet;

use super::{Enrolled, Issuer, StoreError};
use crate::ids::{NodeId, UnixMillis};
use crate::leaf::roles_are_canonical;
use crate::names::{NodeName, RoleName};

/// Why roles stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RolesError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This issuer neither admitted the node nor renewed its certificate.
    #[error("this issuer does not know the node")]
    UnknownMember,
    /// The node has to join again.
    #[error("the node's enrolment ended at {at}")]
    Ended {
        /// When.
        at: UnixMillis,
    },
    /// More than a certificate names.
    #[error("a node has at most 16 roles")]
    TooMany,
}

impl Issuer {
    /// Changes a member's roles; its name, and all roles that it has then. Durable when this returns, in use from its next certificate on.
    ///
    /// # Errors
    /// [`RolesError`].
    pub fn change_roles(
        &self,
        node: &NodeId,
        add: &BTreeSet<RoleName>,
        remove: &BTreeSet<RoleName>,
        now: UnixMillis,
    ) -> Result<(NodeName, Vec<RoleName>), RolesError> {
        let txn = self.store.begin()?;
        let name = txn.node_name(node)?.ok_or(RolesError::UnknownMember)?;
        let known = txn.enrolment(node)?.ok_or(RolesError::UnknownMember)?;
        if known.until <= now {
            return Err(RolesError::Ended { at: known.until });
        }
        let held: BTreeSet<RoleName> = known.roles.iter().chain(add).cloned().collect();
        let roles: Vec<RoleName> = held.difference(remove).cloned().collect();
        if !roles_are_canonical(&roles) {
            return Err(RolesError::TooMany);
        }
        if roles != known.roles {
            // The enrolment that lasts longest is the one that counts: so this one counts at every issuer, once a certificate says it.
            let until = known.until.max(now.plus(self.lives().enrolment()));
            txn.put_enrolment(node, &Enrolled { roles: roles.clone(), from: known.from, until })?;
            // The log hears of it with the next leaf.
            txn.put_unlogged(node)?;
            txn.commit()?;
        }
        Ok((name, roles))
    }
}
