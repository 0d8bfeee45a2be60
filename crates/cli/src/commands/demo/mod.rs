//! `meshara demo`: nine real nodes on this machine, one of which dies in the middle of the path.

mod grid;
mod nodes;
mod traffic;
mod view;

use std::time::{Duration, Instant};

use clap::Args;
use meshara::api::{ApiError, ErrorCode};
use serde::Serialize;

use super::up::stop_signal;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use grid::{FAR, NEAR, NODES};
use nodes::Mesh;
use view::{State, View};

/// Watch nine nodes on this machine form a mesh and heal it
///
/// Starts nine nodes in processes of their own, sends messages and a stream between the two that are farthest apart, stops
/// the node in the middle of the path without warning, and shows the gap and the new path. Leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara demo
  meshara demo --json | jq .gap_ms")]
pub(crate) struct DemoArgs {}

/// A machine that needs longer than this for all of it has something else to do.
const WHOLE: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize)]
struct Report {
    nodes: usize,
    gap_ms: f64,
    path_before: Vec<String>,
    path_after: Vec<String>,
    messages: usize,
    bytes_equal: bool,
    stopped: String,
    stream_bytes: u64,
    /// From the signal that resumed the node until every node was routed again.
    rejoined_ms: f64,
}

pub(crate) async fn run(_args: DemoArgs, context: &Context) -> Result<(), Failure> {
    let stop = stop_signal();
    let mut view = View::new(!context.json);
    let mut mesh = Mesh::new()?;
    let result = tokio::select! {
        result = show(&mut mesh, &mut view) => result,
        stopped = stop => Err(match stopped {
            Ok(()) => ApiError::new(ErrorCode::Interrupted, "the demo was interrupted").into(),
            Err(error) => error.into(),
        }),
        () = tokio::time::sleep(WHOLE) => {
            Err(ApiError::new(ErrorCode::Timeout, format!("the demo took longer than {} s", WHOLE.as_secs())).into())
        }
    };
    view.finish();
    mesh.close().await;
    let report = result?;
    if context.json {
        output::json(&report)?;
    } else {
        tell(&report)?;
    }
    if report.bytes_equal {
        Ok(())
    } else {
        Err(ApiError::new(ErrorCode::Internal, "the stream did not arrive as it was sent").into())
    }
}

async fn show(mesh: &mut Mesh, view: &mut View) -> Result<Report, Failure> {
    let start = Instant::now();
    view.say(&format!("starting {NODES} nodes: each knows only its neighbours in the grid"))?;
    mesh.start(view).await?;
    view.say(&format!("all {NODES} nodes are up, {:.1} s", start.elapsed().as_secs_f64()))?;
    mesh.routed(view, Duration::from_secs(30)).await?;
    view.say(&format!("everyone has a route to everyone, {:.1} s", start.elapsed().as_secs_f64()))?;

    let calm = traffic::exchange(mesh, 5).await?;
    view.say(&format!("{calm} messages sent and stored, there and back"))?;
    let path_before = mesh.path().await?;
    view.path(&path_before);
    view.say(&format!("{} reaches {} over {}", grid::name(NEAR), grid::name(FAR), names(&path_before)))?;

    view.say("pinging every 10 ms, streaming over TCP, sending messages …")?;
    let crossing = traffic::cross_a_failure(mesh, view).await?;
    view.say(&format!("gap {:.0} ms; new path {}", crossing.gap_ms, names(&crossing.path_after)))?;

    let resumed = Instant::now();
    mesh.resume(crossing.stopped)?;
    view.state(crossing.stopped, State::Up);
    view.say(&format!("{} resumed", grid::name(crossing.stopped)))?;
    mesh.routed(view, Duration::from_secs(20)).await?;
    let rejoined_ms = resumed.elapsed().as_secs_f64() * 1000.0;
    view.say(&format!("everyone has a route to everyone again after {rejoined_ms:.0} ms"))?;
    Ok(Report {
        nodes: NODES,
        gap_ms: crossing.gap_ms,
        path_before: crossing.path_before.iter().map(|index| grid::name(*index).to_owned()).collect(),
        path_after: crossing.path_after.iter().map(|index| grid::name(*index).to_owned()).collect(),
        messages: calm + crossing.messages,
        bytes_equal: crossing.bytes_equal,
        stopped: grid::name(crossing.stopped).to_owned(),
        stream_bytes: crossing.stream_bytes,
        rejoined_ms,
    })
}

fn names(path: &[usize]) -> String {
    path.iter().map(|index| grid::name(*index)).collect::<Vec<_>>().join(" → ")
}

fn tell(report: &Report) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let equal = if report.bytes_equal { paint.good("bytes equal") } else { paint.bad("bytes differ") };
    let bytes = crate::text::bytes(report.stream_bytes);
    output::line("")?;
    output::line(format!("stopped      {} in the middle of the path, without warning", report.stopped))?;
    output::line(format!("path before  {}", report.path_before.join(" → ")))?;
    output::line(format!("path after   {}", report.path_after.join(" → ")))?;
    output::line(format!("messages     {} stored, none lost", report.messages))?;
    output::line(format!("stream       {bytes} each way across the failure, {equal}"))?;
    output::line(format!("gap          {}", paint.bold(&format!("{:.0} ms", report.gap_ms))))?;
    Ok(())
}
