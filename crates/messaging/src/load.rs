//! Taking up the durable state at start.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    LoadError, Snapshot,
    core::Core,
    outbound::{Outbound, Pending},
};

impl Core {
    pub(crate) fn load(&mut self, now: Duration, snapshot: Snapshot) -> Result<(), LoadError> {
        let mut first_of = BTreeMap::new();
        for row in &snapshot.outbox {
            first_of.entry(row.to).or_insert(row.seq);
        }
        for row in snapshot.flows {
            let first = first_of.get(&row.to).copied().unwrap_or(row.next_seq);
            if first == 0 || row.next_seq < first {
                return Err(LoadError::Outbox { to: row.to, seq: first });
            }
            let last = row.next_seq - 1;
            let flow = Outbound::new(row.incarnation, true, first, last, self.config.connect_min);
            self.outbound.insert(row.to, flow);
        }
        for row in snapshot.outbox {
            let flow = self.outbound.get_mut(&row.to);
            let flow = flow.filter(|flow| flow.next() == row.seq && row.seq <= flow.loaded());
            let flow = flow.ok_or(LoadError::Outbox { to: row.to, seq: row.seq })?;
            self.outbox_messages += 1;
            self.outbox_bytes += row.body.len() as u64;
            let (id, sent_at_unix_ms, body) = (row.id, row.sent_at_unix_ms, row.body);
            flow.push(Pending { id, sent_at_unix_ms, body, submitted: now });
        }
        let gap = self.outbound.iter().find(|(_, flow)| flow.next() != flow.loaded() + 1);
        if let Some((to, flow)) = gap {
            return Err(LoadError::Outbox { to: *to, seq: flow.next() });
        }
        let all: Vec<_> = self.outbound.keys().copied().collect();
        all.into_iter().for_each(|to| self.kick(now, to));
        self.arm_expiry(now);
        Ok(())
    }
}
