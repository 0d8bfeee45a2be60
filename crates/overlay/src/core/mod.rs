//! The overlay core: inputs with the time in, outputs out. See `docs/overlay.md`.

mod announce;
mod dial;
mod flood;
mod heads;
mod links;
mod lost;
mod offers;
mod revoke;
mod routing;
mod swap;
pub mod views;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use self::dial::Dialling;
use self::flood::Flooding;
use self::heads::Paces;
use self::links::{Link, Told};
use self::routing::Routing;
use self::swap::Swapping;
use self::views::Metrics;
use self::waiting::Waitings;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::damping::Damping;
use crate::database::Database;
use crate::graph::Graph;
use crate::heads::Heads;
use crate::types::{Identity, LinkId, Output};

/// A call that comes this much later than the requested timeout means that our own process stood still.
const LATE: Duration = Duration::from_millis(20);
/// Standing still this long counts as sleep: peers have given us up, so everything is probed and dialled anew.
const SLEPT: Duration = Duration::from_secs(1);
/// Housekeeping interval while there are nodes to dial, and else.
const TICK_BUSY: Duration = Duration::from_millis(125);
const TICK_IDLE: Duration = Duration::from_secs(1);

/// The overlay state machine of one node.
pub struct Core {
    config: Config,
    identity: Identity,
    auth: Box<dyn Authenticator + Send>,
    rng: ChaCha8Rng,
    outputs: VecDeque<Output>,
    links: BTreeMap<LinkId, Link>,
    damping: BTreeMap<NodeId, Damping>,
    /// What our newest adverts say of each neighbour.
    told: BTreeMap<NodeId, Told>,
    database: Database,
    flooding: Flooding,
    heads: Heads,
    paces: Paces,
    waiting: Waitings,
    graph: Graph,
    routing: Routing,
    dialling: Dialling,
    swapping: Swapping,
    metrics: Metrics,
    tick_at: Duration,
    woke_at: Option<Duration>,
    /// Up to when standing still has been credited already.
    credited: Duration,
    left: bool,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("node", &self.identity.node).field("links", &self.links.len()).finish()
    }
}

impl Core {
    /// A node without links. `sequence` must be larger than in any earlier life: the wall clock in Unix milliseconds
    /// (if the clock went back, the node overtakes its own old records when it meets them).
    #[must_use]
    pub fn new(
        config: Config,
        identity: Identity,
        auth: Box<dyn Authenticator + Send>,
        rng: ChaCha8Rng,
        now: Duration,
        sequence: u64,
    ) -> Self {
        let mut core = Self {
            database: Database::new(config.lifetime),
            flooding: Flooding::new(now, sequence, &config),
            heads: Heads::default(),
            paces: Paces::default(),
            waiting: Waitings::default(),
            routing: Routing::new(now),
            dialling: Dialling::new(now),
            swapping: Swapping::new(now, config.swap_every),
            config,
            identity,
            auth,
            rng,
            outputs: VecDeque::new(),
            links: BTreeMap::new(),
            damping: BTreeMap::new(),
            told: BTreeMap::new(),
            graph: Graph::default(),
            metrics: Metrics::default(),
            tick_at: now,
            woke_at: None,
            credited: now,
            left: false,
        };
        core.graph.set(identity.node, || identity.address, Vec::new(), now);
        core
    }

    /// Sets the body of our own member record, certificate or proof (also after each renewal). Nobody believes our link state before.
    ///
    /// # Errors
    /// The authenticator refuses our own certificate.
    pub fn set_member(&mut self, now: Duration, body: Vec<u8>) -> Result<(), crate::auth::MemberError> {
        self.begin(now);
        let result = self.own_member(now, body);
        self.finish(now);
        result
    }

    /// Sets the addresses at which we can be dialled; gossiped in our signed address record.
    pub fn set_own_addresses(&mut self, now: Duration, addresses: Vec<SocketAddr>) {
        self.begin(now);
        self.own_addresses(now, &addresses);
        self.finish(now);
    }

    /// Interfaces changed or the machine woke up: probe every link at once and dial every lost neighbour at once.
    pub fn network_changed(&mut self, now: Duration) {
        self.begin(now);
        self.start_afresh(now);
        self.finish(now);
    }

    /// Leaves the mesh: tells everyone, closes every link. The core does nothing afterwards; a new one may join again.
    pub fn leave(&mut self, now: Duration) {
        self.begin(now);
        if !self.left {
            self.say_goodbye(now);
            self.left = true;
        }
    }

    /// To be called when the time of [`Self::poll_timeout`] has come; earlier does no harm, later is noticed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.begin(now);
        if self.left {
            return;
        }
        self.check_links(now);
        if now >= self.tick_at {
            self.tick(now);
        }
        self.finish(now);
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.left {
            return None;
        }
        let links = self.links.values().map(|link| link.deadline).min();
        let rest = [self.flooding.deadline(), self.routing.deadline(), Some(self.tick_at)];
        rest.into_iter().flatten().chain(links).min()
    }

    /// The next thing to do. Call until it returns `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Starts an input: notices if we stood still, and gives the peers credit for it.
    fn begin(&mut self, now: Duration) {
        let Some(due) = self.poll_timeout() else { return };
        let late = now.saturating_sub(due.max(self.credited));
        if late <= LATE {
            return;
        }
        self.credited = now;
        self.metrics.stalls += 1;
        for link in self.links.values_mut() {
            link.live.credit(now, late);
            link.deadline = link.live.deadline(now, &self.config);
        }
        if late >= SLEPT {
            self.metrics.sleeps += 1;
            self.event(crate::types::Event::Woke(late));
            self.start_afresh(now);
        } else {
            self.event(crate::types::Event::Stalled(late));
        }
    }

    /// Ends an input: what is due goes out.
    fn finish(&mut self, now: Duration) {
        self.update_adverts(now);
        self.finish_links_unchanged(now);
    }

    /// Ends an input that can't have changed our links.
    fn finish_links_unchanged(&mut self, now: Duration) {
        self.send_own_link_state(now);
        self.send_floods(now);
        self.update_routes(now);
    }

    fn start_afresh(&mut self, now: Duration) {
        self.woke_at = Some(now);
        for link in self.links.values_mut() {
            link.live.hurry(now);
            link.deadline = now;
        }
        self.redial_all(now);
    }

    fn tick(&mut self, now: Duration) {
        self.age_records(now);
        self.compare_databases(now);
        self.mind_waiting(now);
        self.mind_offers(now);
        self.settle_duplicates(now);
        self.damping.retain(|_, damping| !damping.forgotten(now));
        self.routing.check_transit(now, &self.graph);
        let busy = self.dial_wanted(now);
        self.improve_neighbours(now);
        let wait = if busy { TICK_BUSY } else { TICK_IDLE };
        self.tick_at = now + wait + self.jitter(wait / 8);
    }

    fn event(&mut self, event: crate::types::Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A random time below `most`.
    fn jitter(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(0..nanos.max(1)))
    }

    /// The table as last published.
    #[must_use]
    pub fn table(&self) -> Arc<crate::table::ForwardingTable> {
        Arc::clone(&self.routing.table)
    }
}
