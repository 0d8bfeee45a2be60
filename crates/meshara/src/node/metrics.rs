//! The node's metrics as Prometheus (OpenMetrics) text, gathered when asked for.

use std::sync::atomic::Ordering::Relaxed;

use meshara_identity::UnixMillis;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
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
    #[cfg(target_os = "linux")]
    for (name, value) in inner.interface.iter().flat_map(|interface| interface.counts.list()) {
        counter(format!("tun_{name}"), "packets of the TUN interface by what became of them", value);
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
        ("records_waited", overlay.waited),
        ("heads_taken", overlay.heads_taken),
        ("heads_refused", overlay.heads_refused),
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
    let certificates = &inner.standing.counts;
    for (name, help, count) in [
        ("certificate_renewals", "certificates that this node got while it ran", &certificates.renewed),
        ("certificate_renewals_failed", "rounds over all issuers without one", &certificates.not_renewed),
        (
            "peers_rechecked",
            "peers that showed a newer certificate on a live connection",
            &certificates.rechecked,
        ),
        ("peers_cut", "connections that ended with their peer's certificate", &certificates.cut),
    ] {
        counter(name.to_owned(), help, count.load(Relaxed));
    }
    for (name, help, value) in [
        ("sets_refused", "messages about signed sets that were refused", inner.sets.refused()),
        ("policy_decisions", "requests of other nodes that the policy decided", inner.gate.decisions()),
        ("audit_lost", "events that did not reach the audit trail", inner.audit.lost()),
    ] {
        counter(name.to_owned(), help, value);
    }
    let denials: Family<[(&str, String); 1], Counter> = Family::default();
    for (rule, count) in inner.audit.by_rule() {
        denials.get_or_create(&[("rule", rule)]).inc_by(count);
    }
    registry.register("policy_denials", "requests of other nodes that a rule denied", denials);
    let have = inner.sets.view(meshara_trust::gossip::Gossip::have);
    let (neighbours, routes) = inner.overlay.view(|core| (core.neighbours().count(), core.routes().count()));
    // Member records by what they are, and the heads that proofs lead to.
    let (proved, certified, heads, unwitnessed) = inner.overlay.view(|core| {
        let count =
            |proved| core.nodes().filter(|node| node.member.is_some() && node.proved == proved).count();
        let heads = core.heads().filter(|head| head.size > 0).count();
        (count(true), count(false), heads, core.unwitnessed().count())
    });
    let left = inner.certificate_end().0.saturating_sub(UnixMillis::now().0);
    // Peers by whether they proved that their certificate is in the log.
    let (logged, unlogged) = inner.logs.attestations.counts();
    for (name, value) in [
        ("uptime_seconds", inner.started.elapsed().as_secs()),
        ("certificate_left_seconds", left / 1000),
        ("links", neighbours as u64),
        ("nodes_routable", routes as u64),
        ("sessions", inner.sessions.all().len() as u64),
        ("revocations_number", have.revocations.number),
        ("policy_number", have.policy.number),
        ("root_version", have.root),
        ("outbox_messages", messages.outbox_messages as u64),
        ("outbox_bytes", messages.outbox_bytes),
        ("inbox_messages", messages.inbox_messages),
        ("inbox_bytes", messages.inbox_bytes),
        ("log_entries", inner.logs.status().size),
        ("members_proved", proved as u64),
        ("members_certified", certified as u64),
        ("routing_heads", heads as u64),
        ("routing_heads_unwitnessed", unwitnessed as u64),
        ("peers_logged", logged as u64),
        ("peers_unlogged", unlogged as u64),
    ] {
        registry.register(name, "state now", ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }
    let mut text = String::new();
    // Writing to a string fails only if an encoder refuses a value; what was written before is still of use.
    let _ = encode(&mut text, &registry);
    text
}
