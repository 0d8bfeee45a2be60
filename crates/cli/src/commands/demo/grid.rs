//! The demo's topology: three rows of three. The corners are four hops apart, and every node that forwards has a
//! neighbour from which another way goes on.

/// How many nodes there are.
pub(super) const NODES: usize = SIDE * SIDE;
/// The corner that sends.
pub(super) const NEAR: usize = 0;
/// The corner that receives.
pub(super) const FAR: usize = NODES - 1;
/// Nodes in a row, and rows.
pub(super) const SIDE: usize = 3;

const NAMES: [&str; NODES] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan"];

pub(super) fn name(index: usize) -> &'static str {
    NAMES.get(index).copied().unwrap_or_default()
}

pub(super) fn index(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

/// Neighbours nearer to the first corner: they run before this node does, so it dials them.
pub(super) fn earlier(index: usize) -> Vec<usize> {
    let left = (!index.is_multiple_of(SIDE)).then(|| index - 1);
    let above = (index >= SIDE).then(|| index - SIDE);
    left.into_iter().chain(above).collect()
}

/// The nodes in the order in which they start: those in one wave depend only on earlier waves.
pub(super) fn waves() -> Vec<Vec<usize>> {
    let distance = |index: usize| index % SIDE + index / SIDE;
    (0..2 * SIDE - 1).map(|wave| (0..NODES).filter(|index| distance(*index) == wave).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_starts_once_and_after_those_it_dials() {
        let mut started = Vec::new();
        for wave in waves() {
            for index in &wave {
                assert!(earlier(*index).iter().all(|peer| started.contains(peer)));
            }
            started.extend(wave);
        }
        started.sort_unstable();
        assert_eq!(started, (0..NODES).collect::<Vec<_>>());
        assert_eq!((0..NODES).map(|index| earlier(index).len()).sum::<usize>(), 12);
    }
}
