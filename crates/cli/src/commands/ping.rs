//! `meshara ping`: round-trip times and the longest gap.

use std::time::Duration;

use clap::Args;
use meshara::api::{ApiError, ErrorCode, PingEvent, PingRequest, PingSummary};

use crate::context::Context;
use crate::duration::Span;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// The node ends a run at most a second after its last ping; a node that does not is hung.
const MARGIN: Duration = Duration::from_secs(5);

/// Measure the round trip to a node and the longest gap
///
/// Pings leave on time whether answered or not. Exits with 0 if any reply came.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara ping alice
  meshara ping alice --count 100 --interval 20ms
  meshara ping alice --json | jq 'select(.summary) | .summary.longest_gap_ms'")]
pub(crate) struct PingArgs {
    /// Name, NodeId or unique prefix of one
    node: String,
    /// How many pings
    #[arg(long, short = 'c', default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Time between two pings, such as 20ms
    #[arg(long, short = 'i', default_value = "1s")]
    interval: Span,
    /// Payload of each ping, in bytes
    #[arg(long, short = 's', default_value_t = 32, value_parser = clap::value_parser!(u32).range(..=1200))]
    size: u32,
}

pub(crate) async fn run(args: PingArgs, context: &Context) -> Result<(), Failure> {
    let request = PingRequest {
        node: args.node.clone(),
        count: args.count,
        interval_ms: args.interval.0.as_secs_f64() * 1000.0,
        size: args.size,
    };
    let client = context.client();
    let mut events = client.ping(&request).await?;
    let run = args.interval.0.saturating_mul(args.count).saturating_add(MARGIN);
    let all = async {
        while let Some(event) = events.next().await? {
            if context.json {
                output::json(&event)?;
            }
            match event {
                PingEvent::Reply(reply) if !context.json => output::line(format!(
                    "reply {}: {:.2} ms, {} {}",
                    reply.seq,
                    reply.rtt_ms,
                    reply.hops,
                    if reply.hops == 1 { "hop" } else { "hops" }
                ))?,
                PingEvent::Reply(_) => {}
                PingEvent::Summary { summary } => return Ok(summary),
            }
        }
        Err(Failure::from(ApiError::new(ErrorCode::Protocol, "the node ended the run without a summary")))
    };
    let summary = tokio::time::timeout(run, all).await.unwrap_or_else(|_| {
        Err(ApiError::new(ErrorCode::Timeout, "the node does not answer any more").into())
    })?;
    if !context.json {
        output::line(human(&summary))?;
    }
    if summary.received == 0 {
        let message = format!("no reply from {}", args.node);
        return Err(ApiError::new(ErrorCode::Unreachable, message)
            .hint("`meshara routes` and `meshara trace` show how far the way goes")
            .into());
    }
    Ok(())
}

fn human(summary: &PingSummary) -> String {
    let PingSummary { sent, received, p50_ms, p99_ms, longest_gap_ms } = summary;
    let (p50, p99) = (text::ms(*p50_ms), text::ms(*p99_ms));
    format!(
        "{sent} sent, {received} received; p50 {p50} ms, p99 {p99} ms; longest gap {longest_gap_ms:.1} ms"
    )
}
