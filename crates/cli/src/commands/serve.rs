//! `meshara serve`: local TCP services offered to the mesh.

use clap::Args;
use meshara::config::PeerAddr;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// Offer a local TCP service to the mesh
///
/// Registers the service with the running node and returns; it survives a restart. The target need not be reachable yet.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara serve ssh --tcp 127.0.0.1:22
  meshara serve --list
  meshara serve --remove ssh")]
pub(crate) struct ServeArgs {
    /// Name of the service
    #[arg(required_unless_present_any = ["list", "remove"], requires = "tcp", value_parser = service_name)]
    name: Option<String>,
    /// Where the service is, HOST:PORT
    #[arg(long, value_name = "HOST:PORT", requires = "name")]
    tcp: Option<PeerAddr>,
    /// List the services offered
    #[arg(long, conflicts_with_all = ["name", "tcp", "remove"])]
    list: bool,
    /// Stop offering a service
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name", "tcp"], value_parser = service_name)]
    remove: Option<String>,
}

/// Longest name of a service, the same as that of a node.
const MAX_SERVICE_NAME: usize = 63;

/// Names that pass through a URL and a shell unchanged.
pub(super) fn service_name(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && text.len() <= MAX_SERVICE_NAME && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a service's name is 1 to {MAX_SERVICE_NAME} letters, digits, '-', '_' or '.', and starts with a letter or digit"
    ))
}

pub(crate) async fn run(args: ServeArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client();
    if args.list {
        let services = client.serve_list().await?;
        if context.json {
            for service in &services {
                output::json(service)?;
            }
            return Ok(());
        }
        let columns = [("NAME", Align::Left), ("TARGET", Align::Left), ("OPEN", Align::Right)];
        let mut table = Table::new(output::stdout_paint(), &columns);
        for service in services {
            table.row(vec![service.name, service.tcp, service.connections.to_string()]);
        }
        return Ok(output::line(table)?);
    }
    let (service, verb) = match (args.remove, args.name, args.tcp) {
        (Some(name), _, _) => (client.serve_remove(&name).await?, "no longer offering"),
        (None, Some(name), Some(tcp)) => (client.serve_add(&name, tcp.as_str()).await?, "offering"),
        // clap asks for both.
        _ => return Ok(()),
    };
    if context.json {
        return Ok(output::json(&service)?);
    }
    Ok(output::line(format!("{verb} {} ({})", service.name, service.tcp))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["ssh", "a", "Web-1.2_x", &"x".repeat(63)] {
            assert!(service_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(service_name(bad).is_err(), "{bad}");
        }
    }
}
