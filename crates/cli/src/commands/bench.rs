//! `meshara bench`: throughput to a node.

use clap::Args;
use meshara::api::{ApiError, BenchEvent, BenchRequest, ErrorCode, PathKind};

use crate::context::Context;
use crate::duration::Span;
use crate::failure::Failure;
use crate::output::{self, Progress};

/// Measure the throughput to a node
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara bench alice
  meshara bench alice --duration 5s --streams 4")]
pub(crate) struct BenchArgs {
    /// Name, NodeId or unique prefix of one
    node: String,
    /// How long
    #[arg(long, short = 'd', default_value = "5s")]
    duration: Span,
    /// How many streams at once
    #[arg(long, short = 's', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    streams: u32,
}

pub(crate) async fn run(args: BenchArgs, context: &Context) -> Result<(), Failure> {
    let duration_ms = u64::try_from(args.duration.0.as_millis()).unwrap_or(u64::MAX).max(1);
    let request = BenchRequest { node: args.node, duration_ms, streams: args.streams };
    let client = context.client();
    let mut events = client.bench(&request).await?;
    let mut progress = Progress::new(!context.json);
    while let Some(event) = events.next().await? {
        match event {
            BenchEvent::Progress(step) => {
                let total = args.duration.0.as_secs_f64();
                progress.show(&format!("{:.1} / {total:.1} s   {:.3} Gbit/s", step.elapsed_s, step.gbit_s));
            }
            BenchEvent::Result(result) => {
                progress.clear();
                if context.json {
                    return Ok(output::json(&result)?);
                }
                let path = match result.path {
                    PathKind::Direct => "direct",
                    PathKind::Relayed => "relayed",
                };
                return Ok(output::line(format!(
                    "{:.3} Gbit/s over {:.1} s, streams {}, {path}, hops {}",
                    result.gbit_s, result.duration_s, result.streams, result.hops
                ))?);
            }
        }
    }
    Err(ApiError::new(ErrorCode::Protocol, "the node ended the run without a result").into())
}
