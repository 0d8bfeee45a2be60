//! Messages between nodes at a rate, through the control sockets: each is numbered, so that it is known which were acknowledged, and how
//! often each arrived.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api_stream::{Ender, Kept, lines};
use super::node::Node;
use crate::measure::stall::ms;
use crate::measure::stats::Summary;

/// Messages of one sender under way at once: enough for 100 a second at 160 ms each, as long as twenty nodes that sync to one disk may take.
const LANES: usize = 16;

/// Bytes of a message.
const SIZE: usize = 100;

/// A message that was not acknowledged within this has failed, as its sender was told. Far above any healing.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages marked as read at once, at most as many as the API takes; and how often.
const CONSUME: usize = 256;
const CONSUME_EVERY: Duration = Duration::from_millis(250);

/// A receiver without a message for longer is noted.
const GAP_MS: f64 = 100.0;

/// Failed messages whose reason is kept.
const REASONS: usize = 10;

/// How it went, all pairs together.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    /// Messages that the lab tried to send.
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Acknowledged, and never arrived.
    pub(crate) lost: u64,
    /// Arrived more than once.
    pub(crate) doubled: u64,
    /// Not acknowledged in time: the sender was told.
    pub(crate) failed: u64,
    /// Not acknowledged, and arrived all the same; no error by itself.
    pub(crate) failed_but_arrived: u64,
    /// Acknowledgements a second, over the whole time.
    pub(crate) rate: f64,
    /// From the request to the acknowledgement.
    pub(crate) ack_ms: Option<Summary>,
    /// Times at which a receiver had waited for more than 100 ms: receiver, time, length.
    pub(crate) gaps: Vec<(String, f64, f64)>,
    /// Why the first that failed did, and what else went wrong.
    pub(crate) reasons: Vec<String>,
}

/// What one pair measured.
#[derive(Debug, Default)]
struct Times {
    /// From request to acknowledgement, ms.
    acked: Vec<f32>,
    /// Gaps between arrivals: when one began, from the start, and how long it was; ms.
    gaps: Vec<(f64, f64)>,
}

/// One sender and its receiver.
#[derive(Debug)]
struct Pair {
    to: String,
    from_socket: PathBuf,
    to_socket: PathBuf,
    /// The next number to send.
    next: AtomicUsize,
    acked: Vec<AtomicBool>,
    arrived: Vec<AtomicU8>,
    times: Mutex<Times>,
    reasons: Mutex<Vec<String>>,
}

/// Traffic under way.
#[derive(Debug)]
pub(crate) struct Mail {
    pairs: Vec<Arc<Pair>>,
    lanes: Vec<JoinHandle<()>>,
    receivers: Vec<(Ender, JoinHandle<()>)>,
    lasts: Duration,
    stop: Arc<AtomicBool>,
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for (ender, _) in &self.receivers {
            ender.end();
        }
    }
}

impl Mail {
    /// Each of these senders sends `rate` messages a second to its receiver, for `lasts`. Times count from `start`.
    pub(crate) fn start(
        pairs: &[(&Node, &Node)],
        rate: f64,
        lasts: Duration,
        start: Instant,
    ) -> Result<Self> {
        let count = (rate * lasts.as_secs_f64()).floor() as usize;
        let stop = Arc::new(AtomicBool::new(false));
        let mut mail = Self { pairs: Vec::new(), lanes: Vec::new(), receivers: Vec::new(), lasts, stop };
        for (from, to) in pairs {
            let pair = Arc::new(Pair {
                to: to.name.clone(),
                from_socket: from.home.join("control.sock"),
                to_socket: to.home.join("control.sock"),
                next: AtomicUsize::new(0),
                acked: (0..count).map(|_| AtomicBool::new(false)).collect(),
                arrived: (0..count).map(|_| AtomicU8::new(0)).collect(),
                times: Mutex::default(),
                reasons: Mutex::default(),
            });
            mail.receive(&pair, start)?;
            mail.pairs.push(pair);
        }
        let begun = Instant::now();
        let period = Duration::from_secs_f64(1.0 / rate);
        for (number, pair) in mail.pairs.iter().enumerate() {
            // Senders are spread over the period.
            let offset = period * u32::try_from(number)? / u32::try_from(pairs.len())?;
            for _ in 0..LANES {
                let (pair, stop) = (pair.clone(), mail.stop.clone());
                mail.lanes.push(thread::spawn(move || pair.send(begun + offset, period, &stop)));
            }
        }
        Ok(mail)
    }

    fn receive(&mut self, pair: &Arc<Pair>, start: Instant) -> Result<()> {
        let (lines, ender) = lines(&pair.to_socket, "/v1/messages/follow").context(pair.to.clone())?;
        let read = Arc::new(Mutex::new(Vec::new()));
        let (work, into, stop) = (pair.clone(), read.clone(), self.stop.clone());
        let reader = thread::spawn(move || work.read(lines, &into, &stop, start));
        let (work, stop) = (pair.clone(), self.stop.clone());
        thread::spawn(move || work.consume(&read, &stop));
        self.receivers.push((ender, reader));
        Ok(())
    }

    /// Waits until all was sent, and for what was acknowledged until `grace` is over.
    pub(crate) fn finish(mut self, grace: Duration) -> Outcome {
        for lane in self.lanes.drain(..) {
            let _ = lane.join();
        }
        let begun = Instant::now();
        while self.pairs.iter().any(|pair| pair.lost() > 0) && begun.elapsed() < grace {
            thread::sleep(CONSUME_EVERY);
        }
        // A second arrival comes a moment after the first.
        thread::sleep(CONSUME_EVERY * 2);
        self.stop.store(true, Relaxed);
        for (ender, reader) in self.receivers.drain(..) {
            ender.end();
            let _ = reader.join();
        }
        let mut outcome = Outcome::default();
        let mut times = Vec::new();
        for pair in &self.pairs {
            pair.add_to(&mut outcome, &mut times);
        }
        outcome.rate = outcome.acknowledged as f64 / self.lasts.as_secs_f64();
        outcome.ack_ms = Summary::of(times);
        outcome
    }
}

/// A line of the inbox.
#[derive(Debug, Deserialize)]
struct Received {
    id: serde_json::Value,
    from: String,
    text: String,
}

impl Pair {
    fn send(&self, begun: Instant, period: Duration, stop: &AtomicBool) {
        let path = format!("/v1/send?to={}&timeout_ms={}", self.to, SEND_TIMEOUT.as_millis());
        let mut kept = None;
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let Some(acked) = self.acked.get(number) else { return };
            let due = begun + period.mul_f64(number as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if stop.load(Relaxed) {
                return;
            }
            let text = format!("{number:<SIZE$}");
            let sent = Instant::now();
            match post(&mut kept, &self.from_socket, &path, text.as_bytes()) {
                Ok(()) => {
                    acked.store(true, Relaxed);
                    lock(&self.times).acked.push(ms(sent.elapsed()) as f32);
                }
                Err(error) => {
                    kept = None;
                    self.note(format!("number {number} to {}: {error:#}", self.to));
                }
            }
        }
    }

    fn read(
        &self,
        lines: impl BufRead,
        into: &Mutex<Vec<serde_json::Value>>,
        stop: &AtomicBool,
        start: Instant,
    ) {
        let mut last: Option<f64> = None;
        for line in lines.lines() {
            let Ok(line) = line else { break };
            let now = ms(start.elapsed());
            let Ok(received) = serde_json::from_str::<Received>(&line) else {
                self.note(format!("{} got what the lab did not send: {line}", self.to));
                continue;
            };
            match received.text.trim().parse().ok().and_then(|number: usize| self.arrived.get(number)) {
                Some(arrived) => drop(arrived.fetch_update(Relaxed, Relaxed, |count| count.checked_add(1))),
                None => self.note(format!("{} got what the lab did not send: {line}", self.to)),
            }
            lock(into).push(json!({ "from": received.from, "id": received.id }));
            if let Some(before) = last.replace(now).filter(|before| now - before > GAP_MS) {
                lock(&self.times).gaps.push((before, now - before));
            }
        }
        if !stop.load(Relaxed) {
            self.note(format!("the inbox of {} was no longer readable", self.to));
        }
    }

    /// Marks as read what was read, so that the inbox doesn't fill.
    fn consume(&self, read: &Mutex<Vec<serde_json::Value>>, stop: &AtomicBool) {
        let mut kept = None;
        while !stop.load(Relaxed) {
            thread::sleep(CONSUME_EVERY);
            let batch: Vec<_> = {
                let mut read = lock(read);
                let count = read.len().min(CONSUME);
                read.drain(..count).collect()
            };
            if batch.is_empty() {
                continue;
            }
            let body = json!({ "messages": batch }).to_string();
            if let Err(error) = post(&mut kept, &self.to_socket, "/v1/messages/consume", body.as_bytes()) {
                kept = None;
                self.note(format!("{} could not mark messages as read: {error:#}", self.to));
            }
        }
    }

    fn note(&self, reason: String) {
        let mut reasons = lock(&self.reasons);
        if reasons.len() < REASONS {
            reasons.push(reason);
        }
    }

    fn lost(&self) -> usize {
        let lost =
            |(acked, arrived): &(&AtomicBool, &AtomicU8)| acked.load(Relaxed) && arrived.load(Relaxed) == 0;
        self.acked.iter().zip(&self.arrived).filter(lost).count()
    }

    fn add_to(&self, outcome: &mut Outcome, times: &mut Vec<f64>) {
        let tried = self.next.load(Relaxed).min(self.acked.len());
        outcome.sent += tried as u64;
        outcome.lost += self.lost() as u64;
        for (acked, arrived) in self.acked.iter().zip(&self.arrived).take(tried) {
            let (acked, arrived) = (acked.load(Relaxed), arrived.load(Relaxed));
            outcome.acknowledged += u64::from(acked);
            outcome.failed += u64::from(!acked);
            outcome.failed_but_arrived += u64::from(!acked && arrived > 0);
            outcome.doubled += u64::from(arrived > 1);
        }
        let own = lock(&self.times);
        times.extend(own.acked.iter().map(|time| f64::from(*time)));
        outcome.gaps.extend(own.gaps.iter().map(|(at, length)| (self.to.clone(), *at, *length)));
        outcome.reasons.extend(lock(&self.reasons).iter().cloned());
        outcome.reasons.truncate(REASONS);
    }
}

fn post(kept: &mut Option<Kept>, socket: &Path, path: &str, body: &[u8]) -> Result<()> {
    let connection = match kept {
        Some(connection) if !connection.is_stale() => connection,
        _ => kept.insert(Kept::connect(socket, SEND_TIMEOUT * 2)?),
    };
    connection.post(path, "application/json", body).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_and_failed_are_told_apart() {
        let flags = |flags: &[bool]| flags.iter().map(|flag| AtomicBool::new(*flag)).collect();
        let pair = Pair {
            to: "n1".into(),
            from_socket: PathBuf::new(),
            to_socket: PathBuf::new(),
            next: AtomicUsize::new(9),
            acked: flags(&[true, true, true, false, false]),
            arrived: [1, 0, 2, 0, 1].into_iter().map(AtomicU8::new).collect(),
            times: Mutex::default(),
            reasons: Mutex::default(),
        };
        let mut outcome = Outcome::default();
        pair.add_to(&mut outcome, &mut Vec::new());
        assert_eq!((outcome.sent, outcome.acknowledged), (5, 3));
        assert_eq!((outcome.lost, outcome.doubled, outcome.failed, outcome.failed_but_arrived), (1, 1, 2, 1));
    }
}
