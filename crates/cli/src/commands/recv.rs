//! `meshara recv`: received messages. A message is consumed only after standard output has taken it.

use std::collections::BTreeSet;

use clap::Args;
use meshara::api::{Body, Client, MAX_CONSUME, Received};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Print received messages
///
/// Prints what is unread, in each sender's order, and consumes it. Ends at once unless --follow is given; then at Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara recv
  meshara recv --follow
  meshara recv --json | jq -r .text")]
pub(crate) struct RecvArgs {
    /// Stay and print messages as they come
    #[arg(long, short = 'f')]
    follow: bool,
}

pub(crate) async fn run(args: RecvArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client();
    if args.follow { follow(&client, context.json).await } else { drain(&client, context.json).await }
}

async fn drain(client: &Client, json: bool) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    loop {
        let mut batch = client.unread().await?;
        // A concurrent reader may hold a message back from being consumed; it is printed once here all the same.
        batch.retain(|message| !seen.contains(&message.reference()));
        if batch.is_empty() {
            return Ok(());
        }
        let mut printed = Vec::with_capacity(batch.len());
        for message in batch {
            print(&message, json)?;
            seen.insert(message.reference());
            printed.push(message.reference());
        }
        client.consume(&printed).await?;
    }
}

async fn follow(client: &Client, json: bool) -> Result<(), Failure> {
    let mut stop = std::pin::pin!(super::up::stop_signal());
    let mut messages = client.follow().await?;
    loop {
        // Between messages only: what is printed is consumed before the end.
        let first = tokio::select! {
            biased;
            stopped = &mut stop => return Ok(stopped?),
            next = messages.next() => next?,
        };
        let Some(first) = first else { return Ok(()) };
        let mut printed = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            print(&message, json)?;
            printed.push(message.reference());
            next = if printed.len() < MAX_CONSUME { messages.buffered()? } else { None };
        }
        client.consume(&printed).await?;
    }
}

fn print(message: &Received, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(output::json(message)?);
    }
    let paint = output::stdout_paint();
    let from = text::node(&message.from_name, &message.from);
    let body = match &message.body {
        // Further lines stand back, so that no message looks like the beginning of another.
        Body::Text(body) => text::printable(body).replace('\n', "\n    "),
        Body::Base64(body) => format!("base64 {body}"),
    };
    output::line(format!("{}  {}  {body}", paint.dim(&message.sent_at.to_string()), paint.bold(&from)))?;
    Ok(())
}
