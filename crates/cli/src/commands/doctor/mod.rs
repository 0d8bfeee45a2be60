//! `meshara doctor`: what could keep this node from working, and what to do about it.

mod home;
mod network;
mod time;

use clap::Args;
use meshara::api::{DoctorFacts, ErrorCode, Status};
use meshara::config::Config;
use serde::Serialize;

use super::up::config_error;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Check clock, ports, buffers, files and neighbours
///
/// Works with and without a running node. Exits with 1 when a check fails; warnings do not count.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara doctor
  meshara doctor --json | jq -r '.checks[] | select(.level != \"ok\") | .fix'")]
pub(crate) struct DoctorArgs {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    detail: String,
    /// What to do; empty when all is well.
    fix: String,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, detail: detail.into(), fix: String::new() }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Warn, detail: detail.into(), fix: fix.into() }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Fail, detail: detail.into(), fix: fix.into() }
    }
}

/// What the running node says of itself.
struct Running {
    status: Status,
    facts: DoctorFacts,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let mut checks = Vec::new();
    let running = node(context, &mut checks).await;
    checks.extend(home::check(context, running.is_some()));
    let config = Config::load(&context.home).unwrap_or_else(|error| {
        let error = config_error(&error);
        checks.push(Check::fail("config", error.message, error.hint));
        Config::default()
    });
    checks.extend(time::check(context, running.as_ref()));
    checks.extend(network::check(&config, running.as_ref()).await);
    let ok = checks.iter().all(|check| check.level != Level::Fail);
    if context.json {
        output::json(&Report { ok, checks })?;
    } else {
        print(&checks)?;
    }
    if ok { Ok(()) } else { Err(Failure::Told) }
}

async fn node(context: &Context, checks: &mut Vec<Check>) -> Option<Running> {
    let client = context.client();
    let answers = async { Ok((client.status().await?, client.doctor().await?)) };
    let result: Result<_, meshara::api::ApiError> = answers.await;
    match result {
        Ok((status, facts)) => {
            let (name, pid, count) = (&status.name, facts.pid, status.neighbours);
            let neighbours = if count == 1 { "neighbour" } else { "neighbours" };
            let detail = format!("{name} runs, pid {pid}, {count} {neighbours}");
            checks.push(Check::ok("node", detail));
            Some(Running { status, facts })
        }
        Err(error) if error.code == ErrorCode::NotRunning => {
            checks.push(Check::warn("node", error.message, error.hint));
            None
        }
        Err(error) => {
            checks.push(Check::fail("node", error.message, error.hint));
            None
        }
    }
}

fn print(checks: &[Check]) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    for check in checks {
        let level = match check.level {
            Level::Ok => paint.good("ok  "),
            Level::Warn => paint.warn("warn"),
            Level::Fail => paint.bad("fail"),
        };
        output::line(format!("{level}  {:<width$}  {}", check.name, text::printable(&check.detail)))?;
        if !check.fix.is_empty() {
            output::line(format!(
                "      {:<width$}  {} {}",
                "",
                paint.note("fix:"),
                text::printable(&check.fix)
            ))?;
        }
    }
    Ok(())
}
