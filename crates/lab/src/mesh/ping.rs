//! `meshara ping` while something happens: when replies came, by their own times.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::node::Node;
use crate::exec;
use crate::measure::stall::ms;

/// Time between two pings.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);

/// `ping` promises to end within 1 s of the last ping; the rest is for a loaded machine.
const END_WAIT: Duration = Duration::from_secs(5);

/// One line of `ping --json`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Reply {
    seq: u64,
    rtt_ms: f64,
}

/// The last line of `ping --json`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct PingSummary {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) longest_gap_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Summary { summary: PingSummary },
    Reply(Reply),
}

/// A run of pings that is under way.
#[derive(Debug)]
pub(crate) struct PingRun {
    child: Child,
    reader: Option<JoinHandle<()>>,
    lines: Arc<Mutex<Vec<(f64, Line)>>>,
    /// How long the run lasts by its count.
    lasts: Duration,
}

impl Drop for PingRun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Pings {
    /// When replies came, in milliseconds of the lab's clock.
    pub(crate) replies: Vec<f64>,
    pub(crate) summary: PingSummary,
}

impl PingRun {
    /// Starts `count` pings; times count from `start`.
    pub(crate) fn start(from: &Node, to: &str, count: u32, start: Instant) -> Result<Self> {
        let interval = format!("{}ms", INTERVAL.as_millis());
        let mut child = from
            .command(&["ping", to, "--interval", &interval, "--count", &count.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ping")?;
        let output = child.stdout.take().context("no output of ping")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let now = ms(start.elapsed());
                if let Ok(line) = serde_json::from_str(&line) {
                    into.lock().unwrap_or_else(PoisonError::into_inner).push((now, line));
                }
            }
        });
        Ok(Self { child, reader: Some(reader), lines, lasts: INTERVAL * count })
    }

    /// Waits for the first replies.
    pub(crate) fn flowing(&self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.lines.lock().unwrap_or_else(PoisonError::into_inner).len() < 3 {
            if begun.elapsed() > within {
                bail!("no ping is answered");
            }
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// When replies came so far.
    pub(crate) fn replies(&self) -> Vec<f64> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        on_the_labs_clock(lines.iter().filter_map(|(arrived, line)| match line {
            Line::Reply(reply) => Some((*arrived, *reply)),
            Line::Summary { .. } => None,
        }))
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Result<Pings> {
        let ended = exec::wait(&mut self.child, self.lasts + END_WAIT)?;
        if ended.is_none() {
            self.child.kill()?;
            self.child.wait()?;
            bail!("ping did not end within {END_WAIT:?} after its last ping");
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        collect(&lines)
    }
}

/// Puts replies on the lab's clock. A reply's own time is seq × interval + rtt since the run began; the beginning is known from the line
/// that took the shortest time to reach the lab. So a delay between the node and the lab does not pass for one in the mesh.
fn on_the_labs_clock(replies: impl Iterator<Item = (f64, Reply)> + Clone) -> Vec<f64> {
    let own = |reply: &Reply| reply.seq as f64 * ms(INTERVAL) + reply.rtt_ms;
    let began = replies.clone().map(|(arrived, reply)| arrived - own(&reply)).fold(f64::INFINITY, f64::min);
    replies.map(|(_, reply)| began + own(&reply)).collect()
}

fn collect(lines: &[(f64, Line)]) -> Result<Pings> {
    let summary = lines.iter().find_map(|(_, line)| match line {
        Line::Summary { summary } => Some(*summary),
        Line::Reply(_) => None,
    });
    let replies = on_the_labs_clock(lines.iter().filter_map(|(arrived, line)| match line {
        Line::Reply(reply) => Some((*arrived, *reply)),
        Line::Summary { .. } => None,
    }));
    Ok(Pings { replies, summary: summary.context("ping printed no summary")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn late_lines_do_not_move_replies() {
        let lines = vec![
            (1000.0, line(r#"{"seq":0,"rtt_ms":2.0,"hops":4}"#)),
            (1090.0, line(r#"{"seq":1,"rtt_ms":2.0,"hops":4}"#)),
            (1090.0, line(r#"{"seq":2,"rtt_ms":50.0,"hops":5}"#)),
            (
                1091.0,
                line(
                    r#"{"summary":{"sent":3,"received":3,"p50_ms":2.0,"p99_ms":50.0,"longest_gap_ms":58.0}}"#,
                ),
            ),
        ];
        let pings = collect(&lines).unwrap();
        assert_eq!(pings.replies, [1000.0, 1010.0, 1068.0]);
        assert_eq!(pings.summary.longest_gap_ms, Some(58.0));
    }

    #[test]
    fn a_run_without_replies_needs_its_summary() {
        let none =
            line(r#"{"summary":{"sent":3,"received":0,"p50_ms":null,"p99_ms":null,"longest_gap_ms":30.0}}"#);
        assert!(collect(&[(5.0, none)]).unwrap().replies.is_empty());
        assert!(collect(&[]).is_err());
    }
}
