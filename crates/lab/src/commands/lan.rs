//! Neighbours on one LAN that know nothing of each other's addresses: found by multicast, unless it is off.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::measure::stall::ms;
use crate::mesh::form::ticket;
use crate::mesh::node::Node;
use crate::net::link::join;
use crate::net::namespace::Namespace;
use crate::report::{Table, number};

/// Nodes announce themselves at once and every 5 s; without an answer in this time they do not.
const WAIT: Duration = Duration::from_secs(10);

/// An IPv6 link-local address is tentative for a second or two after its interface came up (RFC 4862).
const TENTATIVE: Duration = Duration::from_millis(2500);

/// What the LAN has, and whether the nodes look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Ipv4,
    Ipv6LinkLocal,
    /// Both, with `--no-multicast`.
    Off,
}

/// How it went.
#[derive(Debug, Clone, Serialize)]
struct Found {
    case: Case,
    /// From the last start until both nodes knew each other.
    found_ms: Option<f64>,
    error: Option<String>,
}

/// `meshara-lab lan`.
pub(crate) fn command(context: &Context) -> Result<()> {
    let mut all = Vec::new();
    for case in [Case::Ipv4, Case::Ipv6LinkLocal, Case::Off] {
        let found = match measure(context, case) {
            Ok(found_ms) => Found { case, found_ms, error: None },
            Err(error) => Found { case, found_ms: None, error: Some(format!("{error:#}")) },
        };
        println!(
            "{case:?}: {}",
            found.error.clone().unwrap_or_else(|| format!("found after {} ms", number(found.found_ms)))
        );
        all.push(found);
        context.run.clear();
    }
    let mut table = Table::new(&["multicast", "found after ms", "expected"]);
    for found in &all {
        let expected = if found.case == Case::Off { "never" } else { "at once" };
        table.row(vec![format!("{:?}", found.case), number(found.found_ms), expected.into()]);
    }
    println!("\n{}", table.render());
    context.write("lan", &all)?;
    let wrong =
        |found: &Found| found.error.is_some() || found.found_ms.is_some() == (found.case == Case::Off);
    if all.iter().any(wrong) {
        bail!("LAN discovery did not come out as expected");
    }
    Ok(())
}

/// The second node joins through an address; then both move to another net, where the addresses that they remember mean nothing.
fn measure(context: &Context, case: Case) -> Result<Option<f64>> {
    let host = |name: &str| Namespace::create(context.run.namespace(name));
    let (a, b) = (host("a")?, host("b")?);
    join(&a, "lan", "192.168.77.1/24", &b, "lan", "192.168.77.2/24")?;
    let dir = context.fresh_dir()?;
    let flags = if case == Case::Off { vec!["--no-multicast".to_owned()] } else { Vec::new() };
    let [mut first, mut second] = [("a", &a), ("b", &b)]
        .map(|(name, host)| Node::new(name, host, &dir, &context.meshara, flags.clone()));
    first.run(&["init", "--mesh", "lab", "--name", "a"])?;
    first.up()?;
    let ticket = ticket(&first, "1")?;
    second.run(&["join", &ticket, "--name", "b", "--peer", "192.168.77.1:6374"])?;
    first.signal(rustix::process::Signal::TERM)?;
    first.reap()?;
    for (host, address) in [(&a, "192.168.78.11/24"), (&b, "192.168.78.12/24")] {
        host.ip(&["-4", "addr", "flush", "dev", "lan"])?;
        if case == Case::Ipv4 {
            host.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        }
        if case != Case::Ipv6LinkLocal {
            host.ip(&["addr", "add", address, "dev", "lan"])?;
        }
    }
    std::thread::sleep(TENTATIVE);
    first.up()?;
    second.up()?;
    let begun = Instant::now();
    let knows = |node: &Node| {
        node.get("/v1/status").ok().and_then(|status| status.get("nodes_known").and_then(Value::as_u64))
            == Some(1)
    };
    while begun.elapsed() < WAIT {
        if knows(&first) && knows(&second) {
            return Ok(Some(ms(begun.elapsed())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}
