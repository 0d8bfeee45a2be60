//! Who may do what, decided at the node that is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use meshara_identity::{Member, NodeId, NodeName, RoleName, SpiffeId, UnixMillis};
use meshara_overlay::echo::Echo;
use meshara_overlay::header::DEFAULT_TTL;
use meshara_transport::ControlFrame;
use meshara_trust::audit::{Event, Outcome, Words};
use meshara_trust::policy::{
    Asked, Caller, Compiled, Evidence, Ladder, Policy, PolicyTextError, RateTable, Rule, STALE_RULE, STARTER,
    TargetKind, Why, parse,
};
use meshara_trust::sets::{SetBody, SetKind};
use tokio::sync::Notify;

use super::log::routing::recorded;
use super::sets::{self, PublishError};
use crate::node::Inner;

/// Members whose newest certificate's roles are remembered: pings come without a certificate, and sessions outlive theirs. More than a node
/// talks with at a time.
const REMEMBERED: usize = 1024;
/// How long they are remembered: a new certificate may name other roles.
const REMEMBER: Duration = Duration::from_secs(10);

/// Not allowed. The rule is what the caller is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("denied by the rule `{rule}`")]
pub(crate) struct Denied {
    /// The rule that denied, or `default`, `evidence`, or the rule whose rate is used up.
    pub(crate) rule: String,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    node: NodeId,
    name: String,
    spiffe_id: String,
    roles: Vec<RoleName>,
    /// Beginning of the certificate that says so.
    since: UnixMillis,
}

impl Who {
    /// The roles, as its certificate names them.
    pub(crate) fn roles(&self) -> Vec<String> {
        self.roles.iter().map(ToString::to_string).collect()
    }
}

impl From<&Member> for Who {
    fn from(member: &Member) -> Self {
        Self {
            node: member.node_id,
            name: member.name.to_string(),
            spiffe_id: member.spiffe_id.to_string(),
            roles: member.enrolled.roles.clone(),
            since: member.not_before,
        }
    }
}

#[derive(Default)]
struct Limits {
    rates: RateTable,
    evidence: Ladder,
}

/// The policy in force.
pub(crate) struct Gate {
    compiled: ArcSwap<Compiled>,
    limits: Mutex<Limits>,
    me: String,
    remembered: Mutex<HashMap<NodeId, (Instant, Arc<Who>)>>,
    decisions: AtomicU64,
    /// Counts what decisions rest on: policies and what evidence takes away.
    generation: AtomicU64,
    /// Wakes who waits for another generation.
    changes: Notify,
}

impl Gate {
    /// The starter policy is in force until there is another.
    pub(crate) fn new(me: &NodeName, stored: Option<Compiled>) -> Result<Self, PolicyTextError> {
        Ok(Self {
            compiled: ArcSwap::from_pointee(stored.map_or_else(|| parse(STARTER), Ok)?),
            limits: Mutex::default(),
            me: me.to_string(),
            remembered: Mutex::default(),
            decisions: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            changes: Notify::new(),
        })
    }

    /// The policy in force.
    pub(crate) fn compiled(&self) -> Arc<Compiled> {
        self.compiled.load_full()
    }

    /// Decisions since the start.
    pub(crate) fn decisions(&self) -> u64 {
        self.decisions.load(Relaxed)
    }

    /// A number that changes with the policy and with what evidence takes away: what was decided under another is to be decided anew.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    fn set(&self, compiled: Compiled) {
        self.compiled.store(Arc::new(compiled));
        // The positions of rules are those of another policy now.
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).rates.clear();
        self.changed();
    }

    /// What decisions rest on is another now.
    fn changed(&self) {
        self.generation.fetch_add(1, Release);
        self.changes.notify_waiters();
    }

    /// Whether `who` may do what is asked, now. What only goes on has been counted towards the rates before.
    fn decide(&self, who: &Who, asked: &Asked<'_>, begins: bool) -> Result<(), Denied> {
        self.decisions.fetch_add(1, Relaxed);
        let now = UnixMillis::now();
        let caller = Caller { name: &who.name, spiffe_id: &who.spiffe_id, roles: &who.roles };
        let compiled = self.compiled.load();
        let decision = compiled.decide(&caller, asked, now);
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = limits.evidence.reduce(decision, &who.node, asked, now);
        let admitted = if begins { limits.rates.admit(&who.node, &decision, now) } else { decision.allowed };
        if admitted {
            return Ok(());
        }
        Err(Denied { rule: decision.rule.to_owned() })
    }
}

/// Whether `who` may do `what` (a service, `ping`, …) at this node. A denial is counted and becomes a line of the audit trail.
pub(crate) fn ask(inner: &Inner, who: &Who, kind: TargetKind, what: &str) -> Result<(), Denied> {
    ask_at(inner, who, kind, what, 0, true)
}

/// As [`ask`], for a port, which the TUN alone has, and for what may have begun before.
fn ask_at(
    inner: &Inner,
    who: &Who,
    kind: TargetKind,
    what: &str,
    port: u16,
    begins: bool,
) -> Result<(), Denied> {
    let name = format!("{}/{what}", inner.gate.me);
    let decided = if kind == TargetKind::Mesh || inner.sets.knows_policy() {
        inner.gate.decide(who, &Asked { kind, name: &name, port }, begins)
    } else {
        // A newcomer, or one whose neighbours keep the policy from it: nobody may profit from that.
        Err(Denied { rule: STALE_RULE.to_owned() })
    };
    decided.inspect_err(|Denied { rule }| {
        let port = if port == 0 { String::new() } else { format!(":{port}") };
        let target = format!("{}:{name}{port}", kind.word());
        tracing::debug!(who = %who.name, %target, %rule, "denied");
        inner.audit.denied(who.node, &target, rule);
    })
}

/// As [`ask`], for what a peer was allowed to begin and that goes on.
pub(crate) fn ask_again(inner: &Inner, member: &Member, kind: TargetKind, what: &str) -> Result<(), Denied> {
    ask_at(inner, &who_now(inner, member), kind, what, 0, false)
}

/// Returns when what a peer was allowed to begin is denied: by another policy, since its certificate names other roles, by evidence, or at the
/// hour at which a rule ends.
pub(crate) async fn until_denied(inner: &Inner, member: &Member, kind: TargetKind, what: &str) -> Denied {
    loop {
        // Whatever changes from here on is looked at.
        let changed = inner.gate.changes.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if let Err(denied) = ask_again(inner, member, kind, what) {
            return denied;
        }
        let _ = tokio::time::timeout(REMEMBER, changed).await;
    }
}

/// Waits for a change of what decisions rest on, or until roles may have changed.
pub(crate) async fn reviewed(inner: &Inner) {
    let _ = tokio::time::timeout(REMEMBER, inner.gate.changes.notified()).await;
}

/// As [`ask`], of a node that is known by its records alone. A node that isn't known may do what everybody may.
pub(crate) fn ask_by_id(inner: &Inner, node: &NodeId, kind: TargetKind, what: &str) -> Result<(), Denied> {
    ask(inner, &who(inner, node), kind, what)
}

/// The rule that denies an echo request, if one does. A request with a smaller time to live than pings have is a trace's.
pub(crate) fn deny_echo(inner: &Inner, frame: &ControlFrame, echo: &Echo) -> Option<String> {
    // Who has no route here gets no answer in any case.
    let node = inner.node_at(frame.source)?;
    if inner.sessions.is_stale() {
        return Some(STALE_RULE.to_owned());
    }
    let what = if echo.origin_ttl == DEFAULT_TTL { "ping" } else { "trace" };
    ask_by_id(inner, &node, TargetKind::Mesh, what).err().map(|Denied { rule }| rule)
}

/// Whether a peer's messages are denied, asked for each frame of them; by which rule.
pub(crate) fn deny_messages(inner: &Arc<Inner>, member: &Member) -> impl Fn() -> Option<String> + use<> {
    let (inner, shown) = (inner.clone(), Arc::new(Who::from(member)));
    move || ask(&inner, &newer(&inner, &shown), TargetKind::Mesh, "message").err().map(|Denied { rule }| rule)
}

/// Who the peer of a session or link is now: it may have another certificate since that began, with other roles.
pub(crate) fn who_now(inner: &Inner, member: &Member) -> Arc<Who> {
    newer(inner, &Arc::new(Who::from(member)))
}

/// Of what a peer showed when its session began and what its records say, the newer.
fn newer(inner: &Inner, shown: &Arc<Who>) -> Arc<Who> {
    let known = who(inner, &shown.node);
    if known.since > shown.since { known } else { shown.clone() }
}

/// Who a node is, by its certificate record.
pub(crate) fn who(inner: &Inner, node: &NodeId) -> Arc<Who> {
    if *node == inner.member.node_id {
        return Arc::new(Who::from(&inner.standing.member()));
    }
    let mut remembered = inner.gate.remembered.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, who)) = remembered.get(node)
        && at.elapsed() < REMEMBER
    {
        return who.clone();
    }
    let view = inner.overlay.view(|core| core.node(node));
    let record = view.as_ref().and_then(|view| view.member.as_deref());
    let anchors = inner.endpoints.tls().anchors();
    let member = record.and_then(|body| recorded(&anchors, body, UnixMillis::now()));
    let who = member.map_or_else(
        || {
            let name = view.and_then(|view| view.name).unwrap_or_default();
            let spiffe_id = name.parse().map(|name| SpiffeId::node(&inner.mesh, &name).to_string());
            let spiffe_id = spiffe_id.unwrap_or_default();
            Who { node: *node, name, spiffe_id, roles: Vec::new(), since: UnixMillis(0) }
        },
        |recorded| Who::from(&recorded.member),
    );
    if remembered.len() >= REMEMBERED {
        remembered.clear();
    }
    let who = Arc::new(who);
    let before = remembered.insert(*node, (Instant::now(), who.clone()));
    if before.is_some_and(|(_, before)| before.roles != who.roles) {
        inner.gate.changed();
    }
    who
}

/// Whether a peer's connection to this node's interface may begin, or go on.
pub(crate) fn ask_tun(
    inner: &Inner,
    member: &Member,
    protocol: u8,
    port: u16,
    begins: bool,
) -> Result<(), Denied> {
    let what = match protocol {
        6 => "tcp",
        17 => "udp",
        58 => "icmp",
        // No rule has a word for it: what allows the whole interface allows this.
        _ => "other",
    };
    ask_at(inner, &who_now(inner, member), TargetKind::Tun, what, port, begins)
}

/// A node did what no correct program does: its rights are reduced for a while. The trail says so at each step.
pub(crate) fn report(inner: &Inner, node: NodeId, evidence: Evidence) {
    let now = UnixMillis::now();
    let (before, after) = {
        let mut limits = inner.gate.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let before = limits.evidence.restriction(&node, now).map(|held| held.step);
        (before, limits.evidence.report(node, evidence, now).step)
    };
    if before != Some(after) {
        inner.gate.changed();
        tracing::warn!(%node, ?evidence, step = ?after, "a node misbehaves: its rights are reduced");
        let what = format!("{evidence:?}: {after:?}").to_lowercase();
        let against = Words::clean(&node.to_string());
        inner.audit.record(Event::Evidence { against, what: Words::clean(&what) });
    }
}

/// Goes by the newest policy set.
pub(super) fn enforce(inner: &Inner) {
    let _alone = inner.sets.enforcing.lock().unwrap_or_else(PoisonError::into_inner);
    let (number, body) = inner.sets.view(|gossip| {
        (gossip.have().policy.number, gossip.set(SetKind::Policy).map(|set| set.body.clone()))
    });
    // What the core holds has been read before.
    let Some(Ok(compiled)) = body.map(|body| Compiled::decode(&body)) else { return };
    let rules = compiled.policy().rules().len() as u64;
    inner.gate.set(compiled);
    tracing::info!(number, rules, "a new policy is in force");
    inner.audit.record(Event::PolicyChange { number, rules, outcome: Outcome::Done });
    inner.messages.retry_denied();
}

/// How a policy differs from another, by the names of rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) changed: Vec<String>,
}

fn difference(before: &Policy, after: &Policy) -> Difference {
    let by_name = |policy: &'_ Policy| -> BTreeMap<String, Rule> {
        policy.rules().iter().map(|rule| (rule.name.to_string(), rule.clone())).collect()
    };
    let (before, after) = (by_name(before), by_name(after));
    let only = |of: &BTreeMap<String, Rule>, other: &BTreeMap<String, Rule>| {
        of.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let changed = after.iter().filter(|(name, rule)| before.get(*name).is_some_and(|old| old != *rule));
    Difference {
        added: only(&after, &before),
        removed: only(&before, &after),
        changed: changed.map(|(name, _)| name.clone()).collect(),
    }
}

/// Why no policy came into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ApplyError {
    /// The file.
    #[error(transparent)]
    Text(#[from] PolicyTextError),
    /// It could not be signed or published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// What became of a policy file.
pub(crate) struct Applied {
    pub(crate) number: u64,
    pub(crate) rules: usize,
    pub(crate) difference: Difference,
}

/// Signs a policy and sends it to every node; or, with `dry_run`, only says what it would change.
pub(crate) async fn apply(inner: &Arc<Inner>, text: &str, dry_run: bool) -> Result<Applied, ApplyError> {
    let compiled = parse(text)?;
    let policy = compiled.policy();
    let difference = difference(inner.gate.compiled().policy(), policy);
    let rules = policy.rules().len();
    let number = if dry_run {
        inner.sets.view(|gossip| gossip.have().policy.number) + 1
    } else {
        sets::publish(inner, SetKind::Policy, |_| Ok(policy.encode()?)).await?
    };
    Ok(Applied { number, rules, difference })
}

/// What a check found.
pub(crate) struct Checked {
    pub(crate) allowed: bool,
    pub(crate) rule: String,
    /// Each rule with what it says, in the order of the file.
    pub(crate) looked: Vec<(String, bool, Why)>,
}

/// Whether `who` would be allowed now, rates and evidence apart; by which rule.
pub(crate) fn check(inner: &Inner, who: &Who, asked: &Asked<'_>) -> Checked {
    let compiled = inner.gate.compiled();
    let caller = Caller { name: &who.name, spiffe_id: &who.spiffe_id, roles: &who.roles };
    let explained = compiled.policy().explain(&caller, asked, UnixMillis::now());
    let allows = |rule: &Rule| rule.effect == meshara_trust::policy::Effect::Allow;
    Checked {
        allowed: explained.decision.allowed,
        rule: explained.decision.rule.to_owned(),
        looked: explained
            .looked
            .iter()
            .map(|looked| (looked.rule.name.to_string(), allows(looked.rule), looked.why))
            .collect(),
    }
}

/// Somebody of this name without roles, for questions about nodes that aren't known yet.
pub(crate) fn stranger(inner: &Inner, name: &NodeName) -> Who {
    let spiffe_id = SpiffeId::node(&inner.mesh, name).to_string();
    Who { node: NodeId([0; 32]), name: name.to_string(), spiffe_id, roles: Vec::new(), since: UnixMillis(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str, roles: &[&str]) -> Who {
        Who {
            node: NodeId([1; 32]),
            name: name.to_owned(),
            spiffe_id: format!("spiffe://lab/node/{name}"),
            roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
            since: UnixMillis(0),
        }
    }

    #[test]
    fn a_new_policy_decides_at_once_and_its_rates_begin_anew() {
        let gate = Gate::new(&"db".parse().unwrap(), None).unwrap();
        let alice = who("alice", &["ops"]);
        let decide = |who: &Who, kind, name| gate.decide(who, &Asked { kind, name, port: 0 }, true);
        assert_eq!(decide(&alice, TargetKind::Service, "db/postgres"), Ok(()));
        let denied = |rule: &str| Err(Denied { rule: rule.to_owned() });
        assert_eq!(decide(&alice, TargetKind::Control, "db/shutdown"), denied("default"));
        let text = "version = 1\n[[rule]]\nname = \"ops\"\neffect = \"allow\"\nfrom = \"role:ops\"\n\
                    to = \"service:db/*\"\nrate = \"2/h\"\n";
        gate.set(parse(text).unwrap());
        let ask = || decide(&alice, TargetKind::Service, "db/postgres");
        assert_eq!([ask(), ask(), ask()], [Ok(()), Ok(()), denied("ops")]);
        assert_eq!(decide(&who("bob", &[]), TargetKind::Service, "db/postgres"), denied("default"));
        let go_on = |who| {
            let asked = Asked { kind: TargetKind::Service, name: "db/postgres", port: 0 };
            gate.decide(who, &asked, false)
        };
        assert_eq!(go_on(&alice), Ok(()), "what has begun needs no rate");
        assert_eq!(go_on(&who("bob", &[])), denied("default"));
        let before = gate.generation();
        gate.set(parse(text).unwrap());
        assert_ne!(gate.generation(), before);
        assert_eq!(ask(), Ok(()));
        assert_eq!(gate.decisions(), 9);
    }

    #[test]
    fn policies_differ_by_the_names_of_their_rules() {
        let rule = |name: &str, from: &str| {
            format!("[[rule]]\nname = \"{name}\"\neffect = \"allow\"\nfrom = \"{from}\"\nto = \"tun:*\"\n")
        };
        let policy =
            |rules: &[String]| parse(&format!("version = 1\n{}", rules.concat())).unwrap().policy().clone();
        let before = policy(&[rule("a", "x"), rule("b", "x"), rule("c", "x")]);
        let after = policy(&[rule("c", "x"), rule("b", "y"), rule("d", "x")]);
        let expected = Difference {
            added: vec!["d".to_owned()],
            removed: vec!["a".to_owned()],
            changed: vec!["b".to_owned()],
        };
        assert_eq!(difference(&before, &after), expected);
        assert_eq!(difference(&after, &after), Difference::default());
    }
}
