//! Two nodes behind address translation and a public one: does a direct path come about, and if not, is traffic relayed?

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::mesh::form::ticket;
use crate::mesh::node::Node;
use crate::mesh::ping::PingRun;
use crate::net::nat::{NatLab, PUBLIC, Translation};
use crate::report::Table;

/// Time for a direct path to come about once there is traffic.
const PUNCH: Duration = Duration::from_secs(10);

/// One pair of translators.
#[derive(Debug, Clone, Serialize)]
struct Case {
    translators: [Translation; 2],
    /// What must come out; none where either will do.
    expected: Option<&'static str>,
    path: Option<String>,
    gbit_s: Option<f64>,
    pings_lost: Option<u64>,
    error: Option<String>,
}

/// `meshara-lab nat`.
pub(crate) fn command(context: &Context) -> Result<()> {
    use Translation::{PortPreserving, Symmetric};
    let mut cases = Vec::new();
    for (number, (translators, expected)) in [
        ([PortPreserving, PortPreserving], Some("direct")),
        ([PortPreserving, Symmetric], None),
        ([Symmetric, Symmetric], Some("relayed")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut case =
            Case { translators, expected, path: None, gbit_s: None, pings_lost: None, error: None };
        if let Err(error) = measure(context, &format!("c{number}"), &mut case) {
            case.error = Some(format!("{error:#}"));
        }
        cases.push(case);
        context.run.clear();
    }
    let mut table = Table::new(&["translators", "path", "expected", "pings lost", "Gbit/s", "error"]);
    for case in &cases {
        table.row(vec![
            format!("{:?} – {:?}", case.translators[0], case.translators[1]),
            case.path.clone().unwrap_or_default(),
            case.expected.unwrap_or("either").into(),
            case.pings_lost.map(|lost| lost.to_string()).unwrap_or_default(),
            crate::report::number(case.gbit_s),
            case.error.clone().unwrap_or_default(),
        ]);
    }
    println!("{}", table.render());
    context.write("nat", &cases)?;
    let wrong = |case: &Case| {
        case.error.is_some() || case.expected.is_some_and(|path| case.path.as_deref() != Some(path))
    };
    if cases.iter().any(wrong) {
        bail!("not every pair of translators came out as expected");
    }
    Ok(())
}

fn measure(context: &Context, tag: &str, case: &mut Case) -> Result<()> {
    let lab = NatLab::build(&context.run, tag, case.translators)?;
    let dir = context.fresh_dir()?;
    let flags = || vec!["--no-multicast".to_owned()];
    let mut public = Node::new("public", &lab.public, &dir, &context.meshara, flags());
    public.run(&["init", "--mesh", "lab", "--name", "public"])?;
    public.up()?;
    let ticket = ticket(&public, "2")?;
    let mut inside = [("a", &lab.a), ("b", &lab.b)]
        .map(|(name, host)| Node::new(name, host, &dir, &context.meshara, flags()));
    for node in &mut inside {
        let name = node.name.clone();
        node.run(&["join", &ticket, "--name", &name, "--peer", PUBLIC])?;
        node.up()?;
    }
    let [a, b] = &inside;
    let begun = context.now();
    while a.get("/v1/status")?.get("nodes_known").and_then(Value::as_u64) != Some(2) {
        if context.now() - begun > 20_000.0 {
            bail!("the nodes do not know each other after 20 s");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Traffic first, so that a direct path is wanted; then look at the one that is used.
    let benched = loop {
        let benched = a.json(&["bench", &b.name, "--duration", "2s"])?;
        let direct = benched.get("path").and_then(Value::as_str) == Some("direct");
        if direct || context.now() - begun > PUNCH.as_secs_f64() * 1e3 {
            break benched;
        }
    };
    case.path = benched.get("path").and_then(Value::as_str).map(str::to_owned);
    case.gbit_s = benched.get("gbit_s").and_then(Value::as_f64);
    let pings = PingRun::start(a, &b.name, 200, context.start)?.finish()?;
    case.pings_lost =
        Some(pings.summary.sent.checked_sub(pings.summary.received).context("more replies than pings")?);
    Ok(())
}
