//! Moving outgoing flows on: sessions, frames, probes, removal and expiry.

use std::{collections::VecDeque, time::Duration};

use meshara_identity::NodeId;
use rand_chacha::rand_core::RngCore;

use crate::{
    core::{Core, millis},
    frame::{Frame, Open},
    outbound::{Channel, Outbound, Pending},
    output::Output,
    timers::Timer,
};

/// How often the outbox is looked through for messages past their time to live: they live for days.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

impl Core {
    pub(crate) fn next_frame(&mut self, now: Duration) -> Option<Output> {
        while let Some(to) = self.sendable.pop_front() {
            let Some(flow) = self.outbound.get_mut(&to) else { continue };
            flow.in_sendable = false;
            let frame = if std::mem::take(&mut flow.open_due) {
                let (incarnation, settled, next) = (flow.incarnation, flow.settled(), flow.next());
                Frame::Open(Open { incarnation, settled, next })
            } else if let Some(data) = flow.next_frame() {
                Frame::Data(data)
            } else {
                continue;
            };
            if flow.probe_at.is_none() {
                flow.progressed = false;
                let at = now + self.config.probe_interval;
                self.timers.arm(&mut flow.probe_at, at, Timer::Probe(to));
            }
            if flow.can_send() {
                self.queue_to_send(to);
            }
            return Some(Output::Transmit { to, frame: frame.encode() });
        }
        None
    }

    /// Moves a flow on after any change: asks for a session, opens the channel or sends.
    pub(crate) fn kick(&mut self, now: Duration, to: NodeId) {
        let Some(flow) = self.outbound.get_mut(&to) else { return };
        if !flow.has_durable() || !flow.incarnation_durable {
            return;
        }
        match flow.channel {
            Channel::Down if flow.connect_at.is_none() => {
                self.events.push_back(Output::Connect { to });
                // Up to a quarter of jitter, so that many nodes do not all dial one that comes back.
                let jitter = f64::from(self.rng.next_u32()) / f64::from(u32::MAX) / 4.0;
                let at = now + flow.connect_wait.mul_f64(1.0 + jitter);
                flow.connect_wait = (flow.connect_wait * 2).min(self.config.connect_max);
                self.timers.arm(&mut flow.connect_at, at, Timer::Connect(to));
            }
            Channel::Up => {
                (flow.channel, flow.open_due) = (Channel::Opening, true);
                self.queue_to_send(to);
            }
            Channel::Ready if flow.can_send() => self.queue_to_send(to),
            Channel::Down | Channel::Opening | Channel::Ready => {}
        }
    }

    /// A receiver that owes an acknowledgement and is silent is asked where it stands.
    pub(crate) fn probe(&mut self, now: Duration, to: NodeId) {
        let Some(flow) = self.outbound.get_mut(&to) else { return };
        flow.probe_at = None;
        if !flow.has_durable() || !matches!(flow.channel, Channel::Opening | Channel::Ready) {
            return;
        }
        if std::mem::take(&mut flow.denied) {
            flow.progressed = false;
            let wait = self.config.probe_interval * 2_u32.saturating_pow(flow.denials);
            flow.denials = flow.denials.saturating_add(1);
            let at = now + wait.min(self.config.denied_max);
            self.timers.arm(&mut flow.probe_at, at, Timer::Probe(to));
            return;
        }
        if std::mem::take(&mut flow.progressed) {
            self.timers.arm(&mut flow.probe_at, now + self.config.probe_interval, Timer::Probe(to));
            return;
        }
        (flow.channel, flow.open_due) = (Channel::Opening, true);
        self.queue_to_send(to);
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        let unix_ms = self.unix_base_ms.saturating_add(millis(now));
        let oldest = unix_ms.saturating_sub(millis(self.config.ttl));
        let old = |(to, flow): (&NodeId, &Outbound)| {
            let count = flow.older_than(oldest);
            (count > 0).then(|| (*to, flow.settled() + count))
        };
        let expired: Vec<_> = self.outbound.iter().filter_map(old).collect();
        for (to, through) in expired {
            for message in self.settle(now, to, through) {
                self.stats.expired += 1;
                self.events.push_back(Output::Expired { to, id: message.id });
            }
        }
    }

    /// Forgets messages of a flow up to `through` and has the store forget them soon.
    pub(crate) fn settle(&mut self, now: Duration, to: NodeId, through: u64) -> VecDeque<Pending> {
        let Some(flow) = self.outbound.get_mut(&to) else { return VecDeque::new() };
        let gone = flow.settle(through);
        if !gone.is_empty() {
            flow.denials = 0;
            self.outbox_messages -= gone.len();
            self.outbox_bytes -= gone.iter().map(|m| m.body.len() as u64).sum::<u64>();
            self.unsettled.insert(to);
            if self.settle_at.is_none() {
                self.timers.arm(&mut self.settle_at, now + self.config.settle_delay, Timer::Settle);
            }
        }
        gone
    }

    pub(crate) fn arm_expiry(&mut self, now: Duration) {
        if self.expiry_at.is_none() && self.outbox_messages > 0 {
            self.timers.arm(&mut self.expiry_at, now + EXPIRY_INTERVAL, Timer::Expiry);
        }
    }

    pub(crate) fn queue_for_store(&mut self, to: NodeId) {
        if let Some(flow) = self.outbound.get_mut(&to)
            && flow.needs_store()
            && !flow.in_unstored
        {
            flow.in_unstored = true;
            self.unstored.push_back(to);
        }
    }

    pub(crate) fn queue_to_send(&mut self, to: NodeId) {
        if let Some(flow) = self.outbound.get_mut(&to)
            && !flow.in_sendable
        {
            flow.in_sendable = true;
            self.sendable.push_back(to);
        }
    }
}
