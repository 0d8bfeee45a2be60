//! Every certificate that leaves is in the log before; every change of roles is there at once.

use meshara_identity::issuer::{Issuance, Record, RecordError, RoleChange};
use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::{Certificate, Enrolment, Entry, LogError, Roles};

use super::OwnLog;

impl Record for OwnLog {
    fn record(&self, issuance: &Issuance<'_>) -> Result<Vec<u8>, RecordError> {
        let Issuance { member, leaf_der, enrolment, .. } = issuance;
        let failed = |error: LogError| RecordError(error.to_string());
        let barred = self.barred();
        if barred.contains(&member.node_id) {
            return Err(RecordError("the node is revoked".into()));
        }
        let odd = || RecordError("its serial number is none of ours".into());
        let certificate = Certificate::of(member, leaf_der).ok_or_else(odd)?;
        let enrolment = enrolment.map(|enrolled| {
            Entry::Enrolment(Enrolment {
                node: member.node_id,
                name: member.name.clone(),
                roles: enrolled.roles.clone(),
                from: enrolled.from,
                until: enrolled.until,
            })
        });
        let entries: Vec<Entry> = enrolment.into_iter().chain([Entry::Certificate(certificate)]).collect();
        if member.node_id == self.me {
            // Also before the node has asked anybody whether its log is the newest copy: without a certificate it could not ask.
            self.append_unsigned(&entries).map_err(failed)?;
            return Ok(Vec::new());
        }
        let logged = self.append(&entries).map_err(failed)?;
        let Some(last) = logged.last() else { return Ok(Vec::new()) };
        let promise = self.with(|log| log.promise(last, UnixMillis::now())).map_err(failed)?;
        promise.encode().map_err(|error| RecordError(error.to_string()))
    }

    fn record_roles(&self, node: &NodeId, change: &RoleChange) -> Result<(), RecordError> {
        let RoleChange { at, roles } = change.clone();
        let appended = self.append(&[Entry::Roles(Roles { node: *node, roles, at })]);
        appended.map(|_| ()).map_err(|error| RecordError(error.to_string()))
    }
}
