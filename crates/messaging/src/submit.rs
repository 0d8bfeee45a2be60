//! Taking messages from the application.

use std::time::Duration;

use bytes::Bytes;
use meshara_identity::NodeId;
use rand_chacha::rand_core::RngCore;

use crate::{
    MessageId, SubmitError,
    core::Core,
    outbound::{Outbound, Pending},
};

impl Core {
    /// Takes a message for `to`. Its identifier comes back in `Acked`, `Rejected` or `Expired`.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is kept then.
    pub fn submit(
        &mut self,
        now: Duration,
        to: NodeId,
        body: Bytes,
        sent_at_unix_ms: u64,
    ) -> Result<MessageId, SubmitError> {
        self.check_room(to, body.len())?;
        if !self.outbound.contains_key(&to) {
            let flow = Outbound::new(self.rng.next_u64(), false, 1, 0, self.config.connect_min);
            self.outbound.insert(to, flow);
        }
        let id = self.ids.next(sent_at_unix_ms, &mut self.rng);
        self.outbox_messages += 1;
        self.outbox_bytes += body.len() as u64;
        self.stats.submitted += 1;
        if let Some(flow) = self.outbound.get_mut(&to) {
            flow.push(Pending { id, sent_at_unix_ms, body, submitted: now });
        }
        self.queue_for_store(to);
        self.arm_expiry(now);
        Ok(id)
    }

    fn check_room(&self, to: NodeId, size: usize) -> Result<(), SubmitError> {
        let config = &self.config;
        let max = config.max_message.min(crate::MAX_MESSAGE);
        if size > max {
            return Err(SubmitError::TooLarge { size, max });
        }
        if to == self.local {
            return Err(SubmitError::ToSelf);
        }
        if let (Some(failure), Some(_)) = (&self.failure, self.retry_at) {
            return Err(SubmitError::Store(failure.clone()));
        }
        let size = size as u64;
        match self.outbound.get(&to) {
            None if self.outbound.len() >= config.destinations => {
                return Err(SubmitError::TooManyDestinations { max: config.destinations });
            }
            Some(flow)
                if flow.pending.len() >= config.outbox_messages_per_peer
                    || flow.bytes + size > config.outbox_bytes_per_peer =>
            {
                return Err(SubmitError::PeerQueueFull { messages: flow.pending.len(), bytes: flow.bytes });
            }
            _ => {}
        }
        if self.outbox_messages >= config.outbox_messages || self.outbox_bytes + size > config.outbox_bytes {
            return Err(SubmitError::QueueFull { messages: self.outbox_messages, bytes: self.outbox_bytes });
        }
        Ok(())
    }
}
