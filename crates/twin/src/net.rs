//! Simulated links: delay, jitter, loss, bandwidth, failure in one or both directions.

use std::collections::HashMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::millis;
use crate::scenario::LinkModel;

/// A sender's queue holds this much; what comes on top is dropped.
const QUEUE: Duration = Duration::from_millis(50);
/// Bytes that UDP, IP and Ethernet add.
const OVERHEAD: usize = 46;
/// How long a reliable channel waits before it sends a lost packet again, besides a round trip (QUIC's PTO).
const RETRANSMIT: Duration = Duration::from_millis(30);

/// One direction of a link.
#[derive(Debug)]
struct Way<T> {
    up: bool,
    free_at: Duration,
    /// When the last reliable message arrives: the next can't overtake it.
    ordered_at: Duration,
    rng: ChaCha8Rng,
    /// Reliable messages that wait for the link to work again.
    held: Vec<T>,
}

/// A link between two nodes.
#[derive(Debug)]
pub(crate) struct Edge<T> {
    pub(crate) ends: (usize, usize),
    model: LinkModel,
    ways: [Way<T>; 2],
}

impl<T> Edge<T> {
    fn new(seed: u64, ends: (usize, usize), model: LinkModel) -> Self {
        let way = |direction: u64| {
            let mut key = [0; 32];
            let words = [seed, ends.0 as u64, ends.1 as u64, direction];
            for (to, from) in key.iter_mut().zip(words.iter().flat_map(|word| word.to_le_bytes())) {
                *to = from;
            }
            Way {
                up: true,
                free_at: Duration::ZERO,
                ordered_at: Duration::ZERO,
                rng: ChaCha8Rng::from_seed(key),
                held: Vec::new(),
            }
        };
        Self { ends, model, ways: [way(0), way(1)] }
    }

    fn way(&mut self, from: usize) -> &mut Way<T> {
        let [there, back] = &mut self.ways;
        if from == self.ends.0 { there } else { back }
    }

    pub(crate) fn works(&self) -> bool {
        self.ways.iter().all(|way| way.up)
    }

    pub(crate) fn latency(&self) -> Duration {
        millis(self.model.latency_ms)
    }

    fn depart(&mut self, now: Duration, from: usize, bytes: usize) -> Option<(Duration, bool)> {
        let model = self.model;
        let way = self.way(from);
        let start = way.free_at.max(now);
        if start > now + QUEUE {
            return None;
        }
        let bits = (bytes + OVERHEAD) as f64 * 8.0;
        way.free_at = start + Duration::from_secs_f64(bits / (model.bandwidth_mbit * 1e6));
        let jitter = millis(model.jitter_ms * way.rng.random::<f64>());
        let lost = model.loss > 0.0 && way.rng.random::<f64>() < model.loss;
        Some((way.free_at + millis(model.latency_ms) + jitter, lost))
    }

    /// When a datagram sent now arrives, if it does.
    pub(crate) fn datagram(&mut self, now: Duration, from: usize, bytes: usize) -> Option<Duration> {
        if !self.way(from).up {
            return None;
        }
        self.depart(now, from, bytes).filter(|(_, lost)| !lost).map(|(at, _)| at)
    }

    /// When a reliable message arrives; it is held back while the link is down.
    pub(crate) fn reliable(
        &mut self,
        now: Duration,
        from: usize,
        bytes: usize,
        what: T,
    ) -> Option<(Duration, T)> {
        if !self.way(from).up {
            self.way(from).held.push(what);
            return None;
        }
        let again = self.latency() * 2 + RETRANSMIT;
        let mut delay = Duration::ZERO;
        // A stream is queued rather than dropped; a loss costs a round trip. Sixteen losses in a row end a connection.
        for _ in 0..16 {
            match self.depart(now, from, bytes) {
                Some((at, false)) => {
                    let way = self.way(from);
                    way.ordered_at = way.ordered_at.max(at + delay);
                    return Some((way.ordered_at, what));
                }
                Some((_, true)) => delay += again,
                None => {
                    let way = self.way(from);
                    let at = way.free_at + again + delay;
                    way.ordered_at = way.ordered_at.max(at);
                    return Some((way.ordered_at, what));
                }
            }
        }
        None
    }

    /// Fails or repairs one direction; what was held arrives after a retransmission.
    pub(crate) fn set(&mut self, now: Duration, from: usize, up: bool) -> Vec<(Duration, T)> {
        let delay = self.latency() + RETRANSMIT;
        let way = self.way(from);
        way.up = up;
        if !up {
            return Vec::new();
        }
        way.ordered_at = way.ordered_at.max(now + delay);
        let at = way.ordered_at;
        std::mem::take(&mut way.held).into_iter().map(|what| (at, what)).collect()
    }
}

/// All links, by their ends.
#[derive(Debug)]
pub(crate) struct Net<T> {
    seed: u64,
    edges: Vec<Edge<T>>,
    index: HashMap<(usize, usize), usize>,
    /// Places of the nodes, if everyone reaches everyone.
    open: Option<(LinkModel, Vec<(f64, f64)>)>,
    /// No link ever had, or will get from a dial, a shorter delay.
    shortest: Duration,
}

impl<T> Net<T> {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, edges: Vec::new(), index: HashMap::new(), open: None, shortest: Duration::MAX }
    }

    /// From now on everyone reaches everyone: dials make links, with `model`'s delay or a longer one.
    pub(crate) fn open(&mut self, model: LinkModel, places: Vec<(f64, f64)>) {
        self.shortest = self.shortest.min(millis(model.latency_ms));
        self.open = Some((model, places));
    }

    /// Nothing crosses any link faster than this, also not one that a dial makes now.
    pub(crate) const fn shortest(&self) -> Duration {
        self.shortest
    }

    /// Gives a link other properties.
    pub(crate) fn change(&mut self, at: usize, model: LinkModel) {
        if let Some(edge) = self.edges.get_mut(at) {
            edge.model = model;
            self.shortest = self.shortest.min(edge.latency());
        }
    }

    pub(crate) fn add(&mut self, a: usize, b: usize, model: LinkModel) -> usize {
        let ends = (a.min(b), a.max(b));
        let at = self.edges.len();
        let edge = Edge::new(self.seed, ends, model);
        self.shortest = self.shortest.min(edge.latency());
        self.edges.push(edge);
        self.index.insert(ends, at);
        at
    }

    /// The link between two nodes; made now where everyone reaches everyone.
    pub(crate) fn between(&mut self, a: usize, b: usize) -> Option<usize> {
        let ends = (a.min(b), a.max(b));
        if let Some(at) = self.index.get(&ends) {
            return Some(*at);
        }
        let (model, places) = self.open.as_ref()?;
        let (here, there) = (places.get(ends.0)?, places.get(ends.1)?);
        let distance = (here.0 - there.0).hypot(here.1 - there.1);
        let model = LinkModel { latency_ms: model.latency_ms * (1.0 + 9.0 * distance), ..*model };
        (a != b).then(|| self.add(a, b, model))
    }

    pub(crate) fn get(&mut self, at: usize) -> Option<&mut Edge<T>> {
        self.edges.get_mut(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Edge<T>> {
        self.edges.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(model: LinkModel) -> Edge<u8> {
        Edge::new(1, (0, 1), model)
    }

    #[test]
    fn bandwidth_latency_and_a_full_queue() {
        let model = LinkModel { latency_ms: 10.0, jitter_ms: 0.0, loss: 0.0, bandwidth_mbit: 8.0 };
        let mut edge = edge(model);
        // 1,000 bytes at 8 Mbit/s take 1 ms.
        assert_eq!(edge.datagram(Duration::ZERO, 0, 954), Some(Duration::from_millis(11)));
        assert_eq!(edge.datagram(Duration::ZERO, 0, 954), Some(Duration::from_millis(12)));
        assert_eq!(edge.datagram(Duration::ZERO, 1, 954), Some(Duration::from_millis(11)));
        let sent = (0..100).filter(|_| edge.datagram(Duration::ZERO, 0, 954).is_some()).count();
        assert_eq!(sent, 49);
    }

    #[test]
    fn no_dial_makes_a_link_that_is_shorter_than_the_shortest() {
        let model = LinkModel { latency_ms: 3.0, ..LinkModel::default() };
        let mut net = Net::<u8>::new(1);
        net.open(model, vec![(0.0, 0.0), (0.5, 0.0), (0.0, 0.0)]);
        let ms = Duration::from_millis;
        assert_eq!(net.shortest(), ms(3));
        let latency = |net: &mut Net<u8>, a, b| {
            let edge = net.between(a, b).unwrap();
            net.get(edge).unwrap().latency()
        };
        assert_eq!(
            [latency(&mut net, 0, 1), latency(&mut net, 2, 0)],
            [Duration::from_micros(16_500), ms(3)]
        );
        assert_eq!(net.shortest(), ms(3));
        net.change(0, LinkModel { latency_ms: 1.0, ..model });
        net.change(0, LinkModel { latency_ms: 9.0, ..model });
        assert_eq!(net.shortest(), ms(1), "what was sent meanwhile is still on its way");
    }

    #[test]
    fn one_way_down_and_reliable_in_order() {
        let model = LinkModel { loss: 0.3, ..LinkModel::default() };
        let mut edge = edge(model);
        let mut last = Duration::ZERO;
        for n in 0..50 {
            let (at, what) = edge.reliable(Duration::from_millis(n), 0, 100, n as u8).unwrap();
            assert!(at >= last && what == n as u8);
            last = at;
        }
        assert!(edge.set(last, 0, false).is_empty());
        assert_eq!(edge.datagram(last, 0, 100), None);
        assert!((0..100).any(|_| edge.datagram(last, 1, 100).is_some()));
        assert_eq!(edge.reliable(last, 0, 100, 7), None);
        let released = edge.set(last, 0, true);
        assert_eq!(released.len(), 1);
        assert!(released[0].0 > last && released[0].1 == 7);
    }
}
