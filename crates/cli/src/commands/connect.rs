//! `meshara connect`: a remote service on a local port. The node listens and copies; this only keeps the request open.

use std::net::SocketAddr;

use clap::Args;
use meshara::api::{ConnectEvent, ConnectRequest};

use super::serve::service_name;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Reach a service of another node on a local port
///
/// The running node listens until this command ends (Ctrl-C).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara connect alice/ssh --listen 127.0.0.1:2222
  meshara connect alice/web --listen 127.0.0.1:0      (picks a free port and prints it)")]
pub(crate) struct ConnectArgs {
    /// Node and service, such as alice/ssh
    #[arg(value_name = "NODE/SERVICE", value_parser = target)]
    target: (String, String),
    /// Local TCP address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn target(text: &str) -> Result<(String, String), String> {
    let (node, service) = text.split_once('/').ok_or("it has the form NODE/SERVICE, such as alice/ssh")?;
    if node.is_empty() {
        return Err("the node is missing before the '/'".into());
    }
    Ok((node.to_owned(), service_name(service)?))
}

pub(crate) async fn run(args: ConnectArgs, context: &Context) -> Result<(), Failure> {
    let (node, service) = args.target;
    let request = ConnectRequest { node, service, listen: args.listen.to_string() };
    let client = context.client();
    let listening = async {
        let mut events = client.connect(&request).await?;
        while let Some(event) = events.next().await? {
            show(&event, context.json)?;
        }
        Ok(())
    };
    tokio::select! {
        ended = listening => ended,
        stopped = super::up::stop_signal() => Ok(stopped?),
    }
}

fn show(event: &ConnectEvent, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(output::json(event)?);
    }
    let paint = output::stdout_paint();
    let line = match event {
        ConnectEvent::Listening(info) => format!(
            "{} carries to {}/{}; Ctrl-C ends it",
            paint.bold(&info.listen),
            text::node(&info.name, &info.node_id),
            info.service
        ),
        ConnectEvent::Opened(connection) => paint.dim(&format!("open    {}", connection.client)),
        ConnectEvent::Closed(connection) => paint.dim(&format!(
            "closed  {} ({} sent, {} received)",
            connection.client,
            text::bytes(connection.tx_bytes),
            text::bytes(connection.rx_bytes)
        )),
        ConnectEvent::Failed(failure) => {
            format!("{}  {}: {}", paint.bad("failed"), failure.client, text::printable(&failure.reason))
        }
    };
    Ok(output::line(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_node_and_service() {
        assert_eq!(target("alice/ssh"), Ok(("alice".into(), "ssh".into())));
        for bad in ["alice", "/ssh", "alice/", "alice/a/b"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
