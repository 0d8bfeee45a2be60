//! Times at which the machine itself stood still, so that nobody blames the network for them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How often the ticker wakes.
const TICK: Duration = Duration::from_millis(5);

/// A wake-up later than this is a stall: well over the scheduling delay of a loaded machine with two cores.
const LATE: Duration = Duration::from_millis(15);

/// A time without ticks, in milliseconds of the lab's clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Stall {
    pub(crate) at_ms: f64,
    pub(crate) length_ms: f64,
}

/// A thread that ticks until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    stalls: Arc<Mutex<Vec<Stall>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts ticking; times count from `start`.
    pub(crate) fn start(start: Instant) -> Self {
        let stalls = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stalls, stop) = (Arc::clone(&stalls), Arc::clone(&stop));
            thread::spawn(move || tick(start, &stalls, &stop))
        };
        Self { stalls, stop, thread: Some(thread) }
    }

    /// Stalls that touch a span of time.
    pub(crate) fn between(&self, from_ms: f64, to_ms: f64) -> Vec<Stall> {
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        stalls
            .iter()
            .copied()
            .filter(|stall| stall.at_ms < to_ms && stall.at_ms + stall.length_ms > from_ms)
            .collect()
    }

    /// Every stall so far.
    pub(crate) fn all(&self) -> Vec<Stall> {
        self.stalls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tick(start: Instant, stalls: &Mutex<Vec<Stall>>, stop: &AtomicBool) {
    let mut last = Instant::now();
    while !stop.load(Relaxed) {
        thread::sleep(TICK);
        let now = Instant::now();
        let passed = now - last;
        if passed > LATE {
            let stall = Stall { at_ms: ms(last - start), length_ms: ms(passed) };
            stalls.lock().unwrap_or_else(PoisonError::into_inner).push(stall);
        }
        last = now;
    }
}

/// Milliseconds with their fraction.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_counts_where_it_touches() {
        let ticker = Ticker::start(Instant::now());
        ticker.stalls.lock().unwrap().push(Stall { at_ms: 1e9, length_ms: 50.0 });
        assert_eq!(ticker.between(1e9 + 49.0, 1e9 + 60.0).len(), 1);
        assert_eq!(ticker.between(1e9 + 51.0, 1e9 + 60.0).len(), 0);
    }
}
