//! What entries of one log must be to each other, checked as they go by.

use std::collections::BTreeMap;

use meshara_identity::issuer::MEMBERS_MAX;
use meshara_identity::{NodeId, NodeName, UnixMillis};

use super::entry::{Certificate, Ended, Enrolment, Entry, Phase};
use super::report::{AuditReport, Problem};

/// What entries must be to each other.
#[derive(Default)]
pub(super) struct Rules {
    /// Whose a name is, and until when.
    names: BTreeMap<NodeName, (NodeId, UnixMillis)>,
    /// The name of a node; none once its enrolment was ended.
    nodes: BTreeMap<NodeId, Option<NodeName>>,
    /// Newest number of each kind, with its statement's hash; grants by issuer.
    numbers: BTreeMap<Numbered, (u64, [u8; 32])>,
    full: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Numbered {
    Root,
    Phase,
    Revocations,
    Policy,
    Grant(NodeId),
}

impl Rules {
    pub(super) fn check(&mut self, index: u64, entry: &Entry, report: &mut AuditReport) {
        let sound = match entry {
            Entry::Enrolment(enrolment) => return self.enrol(index, enrolment, report),
            Entry::Ended(ended) => return self.end(ended),
            Entry::Certificate(certificate) => {
                report.certificates += 1;
                return self.certify(index, certificate, report);
            }
            Entry::Grant { issuer, grant } => self.rises(Numbered::Grant(*issuer), grant.number, grant.hash),
            Entry::Root(statement) => self.rises(Numbered::Root, statement.number, statement.hash),
            // Phases begin at 0, the other numbers at 1.
            Entry::Phase(Phase { phase, hash, .. }) => {
                self.rises(Numbered::Phase, u64::from(*phase) + 1, *hash)
            }
            Entry::Revocations(statement) => {
                self.rises(Numbered::Revocations, statement.number, statement.hash)
            }
            Entry::Policy(statement) => self.rises(Numbered::Policy, statement.number, statement.hash),
            // The last one counts, whatever time it names: a clock may have been wrong.
            Entry::Roles(_) => true,
        };
        if !sound {
            report.add(Problem::Order { index });
        }
    }

    /// The same once more says nothing new: so an entry may be appended again by one who doesn't know whether it was.
    fn rises(&mut self, kind: Numbered, number: u64, hash: [u8; 32]) -> bool {
        let newest = self.numbers.entry(kind).or_insert((number, hash));
        if newest.0 < number {
            *newest = (number, hash);
        }
        *newest == (number, hash)
    }

    fn enrol(&mut self, index: u64, enrolment: &Enrolment, report: &mut AuditReport) {
        let Enrolment { node, name, from, until, .. } = enrolment;
        // Another node may have the name once the enrolment before has ended; a node gets no second name while it has one.
        let taken = self.names.get(name).is_some_and(|(other, end)| other != node && end > from);
        let renamed = matches!(self.nodes.get(node), Some(Some(other)) if other != name);
        if taken || renamed {
            report.add(Problem::Enrolment { index, node: *node, name: name.clone() });
            return;
        }
        if self.nodes.len() as u64 >= MEMBERS_MAX && !self.nodes.contains_key(node) {
            if !self.full {
                report.add(Problem::TooManyMembers);
            }
            self.full = true;
            return;
        }
        self.names.insert(name.clone(), (*node, *until));
        self.nodes.insert(*node, Some(name.clone()));
    }

    /// Frees a name: what was revoked has none.
    fn end(&mut self, Ended { node, .. }: &Ended) {
        if let Some(name) = self.nodes.get_mut(node).and_then(Option::take)
            && self.names.get(&name).is_some_and(|(owner, _)| owner == node)
        {
            self.names.remove(&name);
        }
    }

    /// A certificate without an enrolment in this log is no problem: another issuer's log may have it.
    fn certify(&mut self, index: u64, certificate: &Certificate, report: &mut AuditReport) {
        let Certificate { node, name, not_before, .. } = certificate;
        let other_node = self.names.get(name).is_some_and(|(other, end)| other != node && end > not_before);
        let other_name = self.nodes.get(node).is_some_and(|other| other.as_ref() != Some(name));
        if other_node || other_name {
            report.add(Problem::Certificate { index, node: *node, name: name.clone() });
        }
    }
}
