//! Group commit: everything that waits for the store goes into one batch, and one batch is under way at a time.
//!
//! While a batch is being written the next one gathers, so its size follows the load: a lone message is written at once, and
//! at 20,000 a second a commit of 5 ms carries a hundred.

use std::collections::BTreeMap;

use meshara_identity::NodeId;

use crate::{InboxRow, MarkRow, OutboxRow, StoreOp, Token, core::Core, inbox::Staged, store::FlowRow};

/// What a batch under way will confirm.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) token: Token,
    /// Per flow: its incarnation and the highest number in the batch.
    pub(crate) flows: Vec<(NodeId, u64, u64)>,
    /// Per flow: the highest number that the batch removes.
    pub(crate) settles: Vec<(NodeId, u64)>,
    pub(crate) inbox: Vec<Staged>,
    pub(crate) last_arrival: u64,
}

impl Core {
    /// The next batch, if there is something to store and no other batch is under way.
    pub(crate) fn next_batch(&mut self) -> Option<(Token, Vec<StoreOp>)> {
        let settle = self.settle_due && !self.unsettled.is_empty();
        let wanted = settle || !self.unstored.is_empty() || self.inbox.has_staged();
        if self.batch.is_some() || self.retry_at.is_some() || !wanted {
            return None;
        }
        let mut room = Room { messages: self.config.batch_messages.max(1), bytes: self.config.batch_bytes };
        let (flows, mut ops) = self.batch_outbox(&mut room);
        let inbox = self.batch_inbox(&mut room, &mut ops);
        let settles = self.batch_settles(&mut ops);
        let token = Token(self.next_token);
        self.next_token += 1;
        let last_arrival = self.inbox.last_arrival() + inbox.len() as u64;
        self.batch = Some(Batch { token, flows, settles, inbox, last_arrival });
        Some((token, ops))
    }

    fn batch_outbox(&mut self, room: &mut Room) -> (Vec<(NodeId, u64, u64)>, Vec<StoreOp>) {
        let (mut flows, mut ops) = (Vec::new(), Vec::new());
        // Half of the room at most, or a flood of own messages would hold up the acknowledgement of others'.
        let reserve = Room { messages: room.messages / 2, bytes: room.bytes / 2 };
        while let Some(to) = self.unstored.front().copied() {
            let Some(flow) = self.outbound.get_mut(&to) else {
                self.unstored.pop_front();
                continue;
            };
            while let Some((seq, message)) = flow.peek_unissued() {
                if room.below(&reserve) {
                    break;
                }
                room.take(message.body.len());
                let (id, sent_at_unix_ms, body) = (message.id, message.sent_at_unix_ms, message.body.clone());
                ops.push(StoreOp::OutboxPut(OutboxRow { to, seq, id, sent_at_unix_ms, body }));
                flow.advance_issued();
            }
            let (incarnation, issued) = (flow.incarnation, flow.issued());
            flows.push((to, incarnation, issued));
            ops.push(StoreOp::OutboxFlow(FlowRow { to, incarnation, next_seq: issued + 1 }));
            if flow.peek_unissued().is_some() {
                // The room is used up; the rest of this flow goes to the end of the line.
                self.unstored.rotate_left(1);
                break;
            }
            flow.in_unstored = false;
            self.unstored.pop_front();
        }
        (flows, ops)
    }

    fn batch_inbox(&mut self, room: &mut Room, ops: &mut Vec<StoreOp>) -> Vec<Staged> {
        let mut marks = BTreeMap::new();
        let mut inbox = Vec::new();
        let mut arrival = self.inbox.last_arrival();
        while room.messages > 0 && (room.bytes > 0 || inbox.is_empty()) {
            let Some(staged) = self.inbox.take_staged() else { break };
            room.take(staged.message.body.len());
            arrival += 1;
            let message = &staged.message;
            ops.push(StoreOp::InboxPut(InboxRow {
                arrival,
                from: staged.from,
                id: message.id,
                sent_at_unix_ms: message.sent_at_unix_ms,
                body: message.body.clone(),
            }));
            marks.insert(staged.from, (staged.incarnation, staged.seq));
            inbox.push(staged);
        }
        let mark = |(from, (incarnation, stored))| StoreOp::Mark(MarkRow { from, incarnation, stored });
        ops.extend(marks.into_iter().map(mark));
        inbox
    }

    /// Removals ride along with every batch: they cost little beside the commit itself.
    fn batch_settles(&mut self, ops: &mut Vec<StoreOp>) -> Vec<(NodeId, u64)> {
        self.settle_due = false;
        let settled = |to: &NodeId| Some((*to, self.outbound.get(to)?.settled()));
        let settles: Vec<_> = self.unsettled.iter().filter_map(settled).collect();
        ops.extend(settles.iter().map(|&(to, through)| StoreOp::OutboxSettle { to, through }));
        settles
    }
}

/// What still fits in a batch.
struct Room {
    messages: usize,
    bytes: u64,
}

impl Room {
    fn take(&mut self, body: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(body as u64);
    }

    fn below(&self, reserve: &Self) -> bool {
        self.messages <= reserve.messages || self.bytes <= reserve.bytes
    }
}
