//! The node's metrics as Prometheus (OpenMetrics) text, gathered when asked for.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Inner;

/// All metrics. Names begin with `meshara_`; counters count since the node's start.
pub(crate) fn text(inner: &Inner) -> String {
    let mut registry = Registry::with_prefix("meshara");
    let mut counter = |name: String, help: &str, value: u64| {
        registry.register(name, help, ConstCounter::new(value));
    };
    let plane = inner.endpoints.plane();
    for (name, value) in plane.counters().list() {
        counter(format!("frames_{name}"), "hop frames by what became of them", value);
    }
    counter(
        "echoes_unanswered".to_owned(),
        "echoes above the share of the neighbour that they came from",
        inner.echoes.shed(),
    );
    let joined = plane.reassembly_stats();
    for (name, value) in [
        ("complete", joined.complete),
        ("repaired", joined.repaired),
        ("lost", joined.lost),
        ("invalid", joined.invalid),
    ] {
        counter(format!("session_packets_{name}"), "session packets joined from frames", value);
    }
    let overlay = inner.overlay.view(meshara_overlay::Core::metrics);
    for (name, value) in [
        ("probes_sent", overlay.probes_sent),
        ("bad_probes", overlay.bad_probes),
        ("bad_control", overlay.bad_control),
        ("link_suspicions", overlay.suspicions),
        ("link_recoveries", overlay.recoveries),
        ("link_deaths", overlay.deaths),
        ("links_refused", overlay.refused),
        ("neighbour_swaps", overlay.swaps),
        ("records_accepted", overlay.accepted),
        ("records_duplicate", overlay.duplicates),
        ("records_forged", overlay.forged),
        ("records_ignored", overlay.ignored),
        ("records_shed", overlay.shed),
        ("records_expired", overlay.expired),
        ("records_flooded", overlay.flooded),
        ("route_runs", overlay.route_runs),
        ("tables", overlay.tables),
        ("dials", overlay.dials),
        ("dials_failed", overlay.dials_failed),
        ("stalls", overlay.stalls),
        ("sleeps", overlay.sleeps),
    ] {
        counter(format!("overlay_{name}"), "what the overlay did", value);
    }
    let messages = inner.messages.view(meshara_messaging::Core::stats);
    for (name, value) in [
        ("submitted", messages.submitted),
        ("acked", messages.acked),
        ("delivered", messages.delivered),
        ("duplicates", messages.duplicates),
        ("refused", messages.refused),
        ("expired", messages.expired),
    ] {
        counter(format!("messages_{name}"), "reliable messages by what became of them", value);
    }
    let (neighbours, routes) = inner.overlay.view(|core| (core.neighbours().count(), core.routes().count()));
    for (name, value) in [
        ("uptime_seconds", inner.started.elapsed().as_secs()),
        ("links", neighbours as u64),
        ("nodes_routable", routes as u64),
        ("sessions", inner.sessions.all().len() as u64),
        ("outbox_messages", messages.outbox_messages as u64),
        ("outbox_bytes", messages.outbox_bytes),
        ("inbox_messages", messages.inbox_messages),
        ("inbox_bytes", messages.inbox_bytes),
    ] {
        registry.register(name, "state now", ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }
    let mut text = String::new();
    // Writing to a string fails only if an encoder refuses a value; what was written before is still of use.
    let _ = encode(&mut text, &registry);
    text
}
