//! Roles that an operator gives to a member, or takes from it. Its next certificate names them, whichever issuer makes that: each change is
//! written into the log at once, where the other issuers read it.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::store::Txn;
use super::{CLOCK_SKEW_MAX, Enrolled, Issuer, RecordError, RoleChange, StoreError};
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
    /// This issuer goes by the change, and logs it as soon as it can; the others don't know of it yet.
    #[error("the roles are changed at this issuer alone until its log takes the change: {0}")]
    Unlogged(#[from] RecordError),
}

impl Issuer {
    /// Changes a member's roles; its name, and all roles that it has then. Durable and logged when this returns, in use from the member's
    /// next certificate on.
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
        let last = self.role_change(&txn, node, now)?;
        let before = last.as_ref().map_or(&known.roles, |last| &last.roles);
        let held: BTreeSet<RoleName> = before.iter().chain(add).cloned().collect();
        let roles: Vec<RoleName> = held.difference(remove).cloned().collect();
        if !roles_are_canonical(&roles) {
            return Err(RolesError::TooMany);
        }
        // Said also where it changes nothing here: another issuer may have given other roles.
        if last.as_ref().is_none_or(|last| last.roles != roles) {
            let at = last.map_or(now, |last| now.max(UnixMillis(last.at.0.saturating_add(1))));
            txn.put_role_change(node, &RoleChange { at, roles: roles.clone() })?;
            txn.put_enrolment(node, &Enrolled { roles: roles.clone(), ..known })?;
            txn.commit()?;
            self.unlogged_roles.store(true, Ordering::Relaxed);
        } else {
            drop(txn);
        }
        self.log_role_changes()?;
        Ok((name, roles))
    }

    /// Logs the changes of roles that are in no log yet, after a start or a log that failed. Costs nothing when there is none. Blocks.
    ///
    /// # Errors
    /// [`RolesError::Store`], [`RolesError::Unlogged`]: what is left is logged by the next call.
    pub fn log_role_changes(&self) -> Result<(), RolesError> {
        let Some(record) = self.record.get() else { return Ok(()) };
        // One at a time, so that no older change follows a newer one.
        let _alone = self.logging_roles.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unlogged_roles.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let logged = self.store.begin().and_then(|txn| txn.unlogged_role_changes());
        let logged = logged.map_err(RolesError::from).and_then(|changes| {
            for (node, change) in changes {
                record.record_roles(&node, &change)?;
                self.store.role_change_logged(&node, &change)?;
            }
            Ok(())
        });
        if logged.is_err() {
            self.unlogged_roles.store(true, Ordering::Relaxed);
        }
        logged
    }

    /// What an operator said last of a node's roles, here or at another issuer.
    pub(super) fn role_change(
        &self,
        txn: &Txn,
        node: &NodeId,
        now: UnixMillis,
    ) -> Result<Option<RoleChange>, StoreError> {
        let elsewhere = self.gate.get().and_then(|gate| gate.roles(node, now));
        // Said while this clock was wrong: nobody else hears it, and nothing could ever follow it.
        let own = txn.role_change(node)?.filter(|own| own.at <= now.plus(CLOCK_SKEW_MAX));
        Ok(own.max(elsewhere))
    }

    /// An enrolment with the roles that an operator gave its node last, if one did.
    pub(super) fn with_roles(
        &self,
        txn: &Txn,
        node: &NodeId,
        enrolled: Enrolled,
        now: UnixMillis,
    ) -> Result<Enrolled, StoreError> {
        Ok(match self.role_change(txn, node, now)? {
            Some(RoleChange { roles, .. }) => Enrolled { roles, ..enrolled },
            None => enrolled,
        })
    }
}
