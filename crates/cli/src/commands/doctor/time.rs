//! The clock, against what cannot be in the future and against the neighbours.

use std::fs;
use std::time::{Duration, SystemTime};

use meshara::api::Timestamp;
use meshara_identity::UnixMillis;

use super::{Check, Running};
use crate::context::Context;
use crate::node::REJOIN;
use crate::{identity, text};

/// Certificates are backdated by this much (docs/identity.md): clocks that differ by more refuse each other.
const FAIL: Duration = Duration::from_mins(10);
/// Any time service keeps a clock closer than this.
const WARN: Duration = Duration::from_secs(5);
/// File times may run ahead a little on shared file systems.
const FILE_SLACK: Duration = Duration::from_mins(2);

pub(super) fn check(context: &Context, running: Option<&Running>) -> Vec<Check> {
    let now = SystemTime::now();
    let fix = "set the clock and keep it right: `timedatectl set-ntp true`";
    let files = fs::read_dir(&context.home).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = files
        .chain(std::env::current_exe().ok())
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max();
    if let Some((time, path)) = newest
        && let Ok(ahead) = time.duration_since(now)
        && ahead > FILE_SLACK
    {
        let detail = format!(
            "the clock says {}, and {} was written {} later",
            Timestamp::from(now),
            path.display(),
            text::seconds(ahead.as_secs())
        );
        return vec![Check::fail("clock", detail, fix)];
    }
    let clock = match running {
        Some(running) => against_neighbours(running, now, fix),
        None => Check::ok("clock", Timestamp::from(now).to_string()),
    };
    std::iter::once(clock).chain(certificate(context, running, now)).collect()
}

/// A clock is wrong when most neighbours disagree with it; a single one may be wrong itself.
fn against_neighbours(running: &Running, now: SystemTime, fix: &str) -> Check {
    let mut offsets: Vec<f64> = running.facts.clocks.iter().map(|clock| clock.offset_ms).collect();
    offsets.sort_by(f64::total_cmp);
    let Some(median) = offsets.get(offsets.len() / 2).copied() else {
        return Check::ok("clock", Timestamp::from(now).to_string());
    };
    let off = Duration::from_secs_f64((median.abs() / 1000.0).clamp(0.0, 1e9));
    let detail = match offsets.len() {
        1 => format!("{median:+.0} ms from 1 neighbour"),
        count => format!("{median:+.0} ms from {count} neighbours (median)"),
    };
    if off > FAIL {
        Check::fail("clock", detail, fix)
    } else if off > WARN {
        Check::warn("clock", detail, fix)
    } else {
        Check::ok("clock", detail)
    }
}

/// This node's certificate, as the running node has it or else as the home does.
fn certificate(context: &Context, running: Option<&Running>, now: SystemTime) -> Option<Check> {
    let now = Timestamp::from(now);
    let left = |end: Timestamp| text::seconds(end.unix_ms().saturating_sub(now.unix_ms()) / 1000);
    let Some(Running { status, facts }) = running else {
        // What keeps the home from loading has a check of its own.
        let identity = identity::load(context).ok()?;
        let member = identity.membership.member();
        let (end, until) = (timestamp(member.not_after), timestamp(member.enrolled.until));
        return Some(if end > now {
            Check::ok("certificate", format!("good for {}", left(end)))
        } else if until > now {
            Check::ok(
                "certificate",
                format!("ended {end}; the node gets another as it starts, until {until}"),
            )
        } else {
            Check::fail("certificate", format!("ended {end}, and the enrolment {until}"), REJOIN)
        });
    };
    let end = facts.certificate_expires_at.or(status.certificate_expires_at)?;
    let fix = "read this node's log: it says why no issuer renews the certificate; `meshara trust status` lists them";
    // Half-way from when it should have been renewed to its end.
    let late =
        facts.certificate_renews_at.is_some_and(|due| now.unix_ms() > due.unix_ms().midpoint(end.unix_ms()));
    Some(if end <= now {
        Check::fail("certificate", format!("ended {end}; the node is silent"), fix)
    } else if late {
        Check::warn("certificate", format!("good for {}, and not renewed yet", left(end)), fix)
    } else {
        Check::ok("certificate", format!("good for {}", left(end)))
    })
}

fn timestamp(at: UnixMillis) -> Timestamp {
    Timestamp::from_unix_ms(at.0)
}
