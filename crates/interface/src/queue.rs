//! A queue that drops what waits too long: CoDel (RFC 8289), so that a slow path has a short queue and a fast one loses
//! nothing to a burst.

use std::collections::VecDeque;
use std::time::Duration;

/// Wait that is acceptable as a standing one, RFC 8289 §4.3.
const TARGET: Duration = Duration::from_millis(5);
/// As long as a round trip on most paths, RFC 8289 §4.3.
const INTERVAL: Duration = Duration::from_millis(100);
/// With no more than this waiting nothing is dropped: one unsegmented packet (RFC 8289 calls it the MTU).
const LEAST: usize = 65_536;
/// Bytes that may wait: what a path of 300 Mbit/s carries in [`INTERVAL`], and the bursts of a fast one.
const MAX_BYTES: usize = 4 << 20;
/// Packets that may wait: small ones cost more than their bytes.
const MAX_PACKETS: usize = 8192;

#[derive(Debug)]
struct Waiting<T> {
    since: Duration,
    bytes: usize,
    item: T,
}

/// The queue of one destination. Times are since an arbitrary start and only grow.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    dropped: u64,
    /// When the wait will have been above [`TARGET`] for [`INTERVAL`].
    above_until: Option<Duration>,
    dropping: bool,
    next: Duration,
    count: u32,
    last_count: u32,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            above_until: None,
            dropping: false,
            next: Duration::ZERO,
            count: 0,
            last_count: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Appends; when it is full the newcomer is dropped.
    pub fn push(&mut self, now: Duration, bytes: usize, item: T) {
        if self.bytes + bytes > MAX_BYTES || self.waiting.len() >= MAX_PACKETS {
            self.dropped += 1;
            return;
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting { since: now, bytes, item });
    }

    /// The last in line.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.waiting.back().map(|last| &last.item)
    }

    /// Puts `item` in the place of the last in line, which has waited for it; appends it when there is none.
    pub fn replace_last(&mut self, now: Duration, bytes: usize, item: T) {
        match self.waiting.back_mut() {
            None => self.push(now, bytes, item),
            Some(last) => {
                self.bytes = self.bytes - last.bytes + bytes;
                last.bytes = bytes;
                last.item = item;
            }
        }
    }

    /// What goes next. Drops some of what has waited too long for a while.
    pub fn pop(&mut self, now: Duration) -> Option<T> {
        let (mut item, mut late) = self.take(now)?;
        if self.dropping {
            self.dropping = late;
            while self.dropping && now >= self.next {
                self.dropped += 1;
                self.count = self.count.saturating_add(1);
                drop(item);
                let Some(following) = self.take(now) else {
                    self.dropping = false;
                    return None;
                };
                (item, late) = following;
                self.dropping = late;
                if late {
                    self.next = self.law(self.next);
                }
            }
        } else if late {
            self.dropped += 1;
            drop(item);
            self.dropping = true;
            // Soon after the last time the rate of then is nearly right.
            let since = self.count.saturating_sub(self.last_count);
            let recent = now.saturating_sub(self.next) < INTERVAL * 16;
            self.count = if since > 1 && recent { since } else { 1 };
            self.next = self.law(now);
            self.last_count = self.count;
            item = self.take(now)?.0;
        }
        Some(item)
    }

    /// Time of the next drop: so that the rate of drops grows with the square root of their number.
    fn law(&self, from: Duration) -> Duration {
        from + INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }

    /// The first in line, and whether it has been long enough that it may be dropped.
    fn take(&mut self, now: Duration) -> Option<(T, bool)> {
        let Some(first) = self.waiting.pop_front() else {
            self.above_until = None;
            return None;
        };
        self.bytes -= first.bytes;
        let late = if now.saturating_sub(first.since) < TARGET || self.bytes <= LEAST {
            self.above_until = None;
            false
        } else {
            now >= *self.above_until.get_or_insert(now + INTERVAL)
        };
        Some((first.item, late))
    }

    /// Forgets all that waits; how many packets.
    pub fn clear(&mut self) -> usize {
        let count = self.waiting.len();
        self.waiting.clear();
        self.bytes = 0;
        count
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets dropped since the last call.
    pub const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_passes_whole_and_in_order() {
        let mut queue = Queue::default();
        for n in 0..60 {
            queue.push(MS * 10, 60_000, n);
        }
        // 60 MB/s: the last waits for 60 ms, which is less than the interval.
        let out: Vec<_> = (0..60).map(|n| queue.pop(MS * (10 + n)).unwrap()).collect();
        assert_eq!(out, (0..60).collect::<Vec<_>>());
        assert!(queue.is_empty() && queue.bytes() == 0 && queue.take_dropped() == 0);
        assert_eq!(queue.pop(MS * 100), None);
    }

    #[test]
    fn a_standing_queue_is_made_short() {
        let mut queue = Queue::default();
        let (mut dropped, mut longest) = (0, 0);
        // A sender that doesn't slow down at once: 11 arrive in the time that 10 leave, of 64 KB each; it halves at drops.
        let mut rate: f64 = 1.1;
        let mut due = 0.0;
        for ms in 0..4000_u32 {
            due += rate;
            while due >= 1.0 {
                due -= 1.0;
                queue.push(MS * ms, 60_000, ms);
            }
            if let Some(since) = queue.pop(MS * ms)
                && ms > 2000
            {
                longest = longest.max(ms - since);
            }
            let now = queue.take_dropped();
            dropped += now;
            rate = if now > 0 { rate * 0.7 } else { (rate + 0.001).min(1.1) };
        }
        assert!(dropped > 2, "{dropped}");
        assert!(longest < 60, "{longest} ms");
    }

    #[test]
    fn what_is_left_is_never_dropped_for_its_age() {
        let mut queue = Queue::default();
        queue.push(MS, 60_000, 'a');
        queue.push(MS, 60_000, 'b');
        assert_eq!(queue.pop(MS * 5000), Some('a'));
        assert_eq!(queue.pop(MS * 9000), Some('b'));
        assert_eq!(queue.take_dropped(), 0);
    }

    #[test]
    fn the_last_in_line_can_be_replaced() {
        let mut queue = Queue::default();
        queue.replace_last(MS, 10, 'a');
        queue.push(MS, 20, 'b');
        assert_eq!(queue.last(), Some(&'b'));
        queue.replace_last(MS, 30, 'c');
        assert_eq!(queue.bytes(), 40);
        assert_eq!((queue.pop(MS), queue.pop(MS), queue.pop(MS)), (Some('a'), Some('c'), None));
        assert_eq!((queue.bytes(), queue.take_dropped()), (0, 0));
    }

    #[test]
    fn it_is_bounded_in_bytes_and_in_packets() {
        let mut queue = Queue::default();
        for n in 0..1000 {
            queue.push(MS, 60_000, n);
        }
        assert!(queue.bytes() <= MAX_BYTES);
        assert_eq!(queue.take_dropped() as usize, 1000 - MAX_BYTES / 60_000);
        assert_eq!(queue.clear(), MAX_BYTES / 60_000);
        for n in 0..10_000 {
            queue.push(MS, 40, n);
        }
        assert_eq!(queue.clear(), MAX_PACKETS);
    }
}
