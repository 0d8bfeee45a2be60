//! Writes security events into the home's audit trail, on a thread of its own: the disk must not stop the node.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meshara_identity::issuer::Admitted;
use meshara_identity::{Member, NodeId, NodeName, Refusal, UnixMillis};
use meshara_trust::audit::{
    DENIALS_EVERY, Denials, Event, Outcome, Repair, Report, Trail, TrailError, Words, export, verify,
};

/// The trail's directory in the home.
pub(crate) const DIRECTORY: &str = "audit";
/// Events that wait for the disk. They are few but for a flood of joins, and those are limited where they come in; more are counted as lost.
const QUEUE: usize = 4096;
/// Refused joins that have a line of their own, at once and after that one in [`REFUSED_EVERY`]: whoever reaches the node can ask, and a line
/// each would turn the trail over within hours. All others are counted together, a line a second at most.
const REFUSED_BURST: u32 = 32;
const REFUSED_EVERY: Duration = Duration::from_secs(10);
/// Target and rule of the line that counts the others; the node is nobody's.
const REFUSED_TARGET: &str = "join";
/// Likewise of renewals.
const REFUSED_RENEWAL: &str = "renewal";
const REFUSED_RULE: &str = "refused";
/// Rules whose denials are counted: as many as a policy has. Those of policies before it make room.
const RULES_MAX: usize = 10_000;

enum Work {
    Write(Event),
    Denied(NodeId, String, String),
}

/// The trail of a running node. Its thread ends with it: a later life of the home must not meet an earlier one's writes.
#[derive(Debug)]
pub(crate) struct Audit {
    writer: Mutex<Option<(mpsc::SyncSender<Work>, JoinHandle<()>)>>,
    lost: Arc<AtomicU64>,
    by_rule: Mutex<BTreeMap<String, u64>>,
    /// Until when the lines of refused joins are used up, each for [`REFUSED_EVERY`].
    refused: Mutex<Option<Instant>>,
}

impl Audit {
    /// Opens the trail, mends what a crash left, starts its thread. Blocks.
    pub(crate) fn open(home: &Path) -> Result<Self, TrailError> {
        let (mut trail, repairs) = Trail::open(&home.join(DIRECTORY), UnixMillis::now())?;
        for repair in repairs {
            match repair {
                Repair::TornLine { file, bytes } => {
                    tracing::info!(file = %file.display(), bytes, "the audit trail's last line was cut off; it is removed");
                }
                Repair::Damage(bad) => {
                    tracing::warn!(%bad, "the audit trail is damaged; it goes on in a new file");
                }
            }
        }
        let (work, events) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        // Without its thread everything counts as lost, and is told.
        let lost = Arc::new(AtomicU64::new(0));
        let of_thread = lost.clone();
        let writer = match thread.spawn(move || run(&mut trail, &events, &of_thread)) {
            Ok(thread) => Some((work, thread)),
            Err(error) => {
                tracing::error!(%error, "the audit trail's thread could not be started");
                None
            }
        };
        Ok(Self { writer: Mutex::new(writer), lost, by_rule: Mutex::default(), refused: Mutex::default() })
    }

    /// Waits until what came is on the disk, and takes no more. Blocks.
    pub(crate) fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((work, thread)) = writer {
            drop(work);
            let _ = thread.join();
        }
    }

    /// Writes an event, as soon as the disk takes it.
    pub(crate) fn record(&self, event: Event) {
        self.put(Work::Write(event));
    }

    /// An issuer of this node admitted a node, or renewed its certificate.
    pub(crate) fn admitted(&self, admitted: &Admitted, renewal: bool) {
        let (node, outcome) = (admitted.node_id, Outcome::Done);
        self.record(if renewal {
            Event::Renewal { node, outcome, not_after: admitted.not_after }
        } else {
            Event::Join { node, name: admitted.name.clone(), outcome }
        });
    }

    /// This node's issuer refused a join. Who asked is what the request says.
    pub(crate) fn refused(&self, node: NodeId, name: NodeName, why: &Refusal) {
        let outcome = Outcome::Refused(Words::clean(&why.to_string()));
        self.put_limited(Event::Join { node, name, outcome }, REFUSED_TARGET);
    }

    /// Writes what others can bring about as often as they like; what is too often is counted under `target`.
    fn put_limited(&self, event: Event, target: &str) {
        let has_line = {
            let (now, mut used) =
                (Instant::now(), self.refused.lock().unwrap_or_else(PoisonError::into_inner));
            let until = used.map_or(now, |until| until.max(now)) + REFUSED_EVERY;
            let fits = until.duration_since(now) <= REFUSED_EVERY * REFUSED_BURST;
            if fits {
                *used = Some(until);
            }
            fits
        };
        self.put(if has_line {
            Work::Write(event)
        } else {
            Work::Denied(NodeId([0; 32]), target.to_owned(), REFUSED_RULE.to_owned())
        });
    }

    /// This node's issuer refused to renew a certificate. Who asked, the session proved, or the request says. Limited as refused joins are.
    pub(crate) fn refused_renewal(&self, node: NodeId, why: &Refusal) {
        let outcome = Outcome::Refused(Words::clean(&why.to_string()));
        self.put_limited(Event::Renewal { node, outcome, not_after: UnixMillis(0) }, REFUSED_RENEWAL);
    }

    /// This node got no certificate.
    pub(crate) fn not_renewed(&self, member: &Member, why: &str) {
        let (node, not_after) = (member.node_id, member.not_after);
        let outcome = Outcome::Refused(Words::clean(why));
        self.put_limited(Event::Renewal { node, outcome, not_after }, REFUSED_RENEWAL);
    }

    /// This node's own certificate was renewed.
    pub(crate) fn renewed(&self, member: &Member) {
        let (node, not_after) = (member.node_id, member.not_after);
        self.record(Event::Renewal { node, outcome: Outcome::Done, not_after });
    }

    /// Counts a denial; it becomes a line together with others like it.
    pub(crate) fn denied(&self, node: NodeId, target: &str, rule: &str) {
        {
            let mut by_rule = self.by_rule.lock().unwrap_or_else(PoisonError::into_inner);
            if by_rule.len() >= RULES_MAX && !by_rule.contains_key(rule) {
                by_rule.clear();
            }
            *by_rule.entry(rule.to_owned()).or_default() += 1;
        }
        self.put(Work::Denied(node, target.to_owned(), rule.to_owned()));
    }

    /// Denials by rule, since the start.
    pub(crate) fn by_rule(&self) -> Vec<(String, u64)> {
        let by_rule = self.by_rule.lock().unwrap_or_else(PoisonError::into_inner);
        by_rule.iter().map(|(rule, count)| (rule.clone(), *count)).collect()
    }

    /// Events that found no room, or no disk, and denials that found none among the lines of their second.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn put(&self, work: Work) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Closed: the node is stopping.
        let Some((queue, _)) = writer.as_ref() else { return };
        if queue.try_send(work).is_err() && self.lost.fetch_add(1, Relaxed) == 0 {
            tracing::error!("an event did not find its way into the audit trail: the disk is slow, or fails");
        }
    }
}

/// Verifies the audit trail of a home, whether its node runs or not: file by file and line by line, up to the first bad one.
///
/// # Errors
/// [`TrailError`]: a file can't be read.
pub fn verify_trail(home: &Path) -> Result<Report, TrailError> {
    verify(&home.join(DIRECTORY))
}

/// Writes the good lines of a home's audit trail from number `from` on, as they are stored, and verifies on the way.
///
/// # Errors
/// [`TrailError`]: a file can't be read, or `out` takes no more.
pub fn export_trail(home: &Path, from: u64, out: &mut impl Write) -> Result<Report, TrailError> {
    export(&home.join(DIRECTORY), from, out)
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

/// Writes until the node is gone, and then the denials of the last second.
fn run(trail: &mut Trail, work: &mpsc::Receiver<Work>, lost: &AtomicU64) {
    let mut denials = Denials::new();
    let mut waiting = false;
    loop {
        let next = if waiting {
            work.recv_timeout(DENIALS_EVERY + Duration::from_millis(1))
        } else {
            work.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(Work::Write(event)) => append(trail, event),
            Ok(Work::Denied(node, target, rule)) => {
                denials.add(node, &target, &rule);
                lost.fetch_add(denials.take_uncounted(), Relaxed);
                waiting = true;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => waiting = false,
            Err(mpsc::RecvTimeoutError::Disconnected) => return write(trail, denials.finish()),
        }
        write(trail, denials.take(UnixMillis::now()));
    }
}

fn write(trail: &mut Trail, denials: Vec<Event>) {
    for event in denials {
        append(trail, event);
    }
    if let Err(error) = trail.sync() {
        tracing::error!(%error, "the audit trail could not be written");
    }
}

fn append(trail: &mut Trail, event: Event) {
    if let Err(error) = trail.append(event, UnixMillis::now()) {
        tracing::error!(%error, "the audit trail could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refused_joins_leaves_few_lines_and_a_count() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(home.path()).unwrap();
        for n in 0..200 {
            audit.refused(NodeId([n; 32]), "mallory".parse().unwrap(), &Refusal::UnknownTicket);
        }
        // Together with the others, a second later.
        let text = || {
            let mut text = Vec::new();
            assert_eq!(export_trail(home.path(), 1, &mut text).unwrap().bad, None);
            String::from_utf8(text).unwrap()
        };
        let start = Instant::now();
        let counted = |text: &str| -> u64 {
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let denials = lines.filter(|line| line["event"]["target"] == "join");
            denials.filter_map(|line| line["event"]["count"].as_u64()).sum()
        };
        while counted(&text()) < 200 - u64::from(REFUSED_BURST) {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", text());
            std::thread::sleep(Duration::from_millis(20));
        }
        let own = text().lines().filter(|line| line.contains("\"kind\":\"join\"")).count();
        assert_eq!(own, REFUSED_BURST as usize);
        assert_eq!(audit.by_rule(), [], "policy denied nothing");
    }

    #[test]
    fn events_are_on_the_disk_and_denials_are_counted_by_rule() {
        let home = tempfile::tempdir().unwrap();
        let node = NodeId([7; 32]);
        let revocation = |number| Event::Revocation {
            number,
            node,
            revoked: true,
            reason: "laptop stolen".parse().unwrap(),
        };
        let audit = Audit::open(home.path()).unwrap();
        audit.record(revocation(1));
        for _ in 0..500 {
            audit.denied(node, "service:alice/db", "default");
        }
        audit.denied(node, "mesh:alice/ping", "no-pings");
        assert_eq!(audit.by_rule(), [("default".to_owned(), 500), ("no-pings".to_owned(), 1)]);
        // The first denial is written at once, the others together a second later.
        let lines = || verify(&home.path().join(DIRECTORY)).unwrap().lines;
        let start = std::time::Instant::now();
        while lines() < 4 {
            assert!(start.elapsed() < Duration::from_secs(20), "{} lines", lines());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(audit.lost(), 0);
        drop(audit);
        // A later life goes on with the same trail, and what comes last is on the disk when it closes.
        let again = Audit::open(home.path()).unwrap();
        again.record(revocation(2));
        again.close();
        let report = verify(&home.path().join(DIRECTORY)).unwrap();
        assert!(report.lines >= 5 && report.bad.is_none(), "{report:?}");
    }
}
