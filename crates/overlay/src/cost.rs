//! What a link costs, and when a change is worth telling the mesh.

use std::time::Duration;

use crate::probe::LOSS_ONE;

/// Added to every link, µs: what forwarding at a node costs, so that of paths with equal RTT the one with fewer hops wins.
pub(crate) const PER_HOP: u32 = 500;
/// No edge is cheaper than this, µs, whatever its ends say: zero-cost paths attract all traffic.
pub(crate) const FLOOR: u32 = 100;
/// A loss of 1 % costs as much as this many hundredths more delay: one lost packet costs the session about a round trip
/// and a window cut, so a path twice as long without loss is better than one with 10 %.
const LOSS_WEIGHT: u64 = 10;
/// Cost of a link whose RTT isn't known yet, µs RTT.
const UNKNOWN_RTT: Duration = Duration::from_millis(20);
/// Tell a change of cost at most this often: traffic must not chase its own queues.
pub(crate) const ADVERTISE_EVERY: Duration = Duration::from_secs(5);

/// How long a small change must last before it is told: longer than any one transfer's queues.
pub(crate) const SMALL_LASTS: Duration = Duration::from_secs(30);

/// Cost in µs of a link with this RTT and loss.
pub(crate) fn link_cost(rtt: Option<Duration>, loss: u16) -> u32 {
    let half = u64::try_from(rtt.unwrap_or(UNKNOWN_RTT).as_micros() / 2).unwrap_or(u64::MAX);
    let base = half.saturating_add(u64::from(PER_HOP));
    let factor = u64::from(LOSS_ONE) + LOSS_WEIGHT * u64::from(loss);
    let cost = base.saturating_mul(factor) / u64::from(LOSS_ONE);
    u32::try_from(cost).unwrap_or(u32::MAX / 64).clamp(FLOOR, u32::MAX / 64)
}

/// Whether a new cost differs so much from the advertised one that it is told soon: by more than a quarter, and if it has
/// grown by more than 1 ms. Half a hop's cost is enough the other way: nothing is lost where traffic comes to a better link.
pub(crate) const fn worth_telling(advertised: u32, now: u32) -> bool {
    let change = advertised.abs_diff(now);
    change > if now < advertised { PER_HOP / 2 } else { 1_000 } && change > advertised / 4
}

/// Whether it differs enough to be told when it has lasted for [`SMALL_LASTS`]: paths that are a little longer than they
/// could be are no haste, but not to be kept for ever.
pub(crate) const fn worth_telling_later(advertised: u32, now: u32) -> bool {
    let change = advertised.abs_diff(now);
    change > FLOOR && change > advertised / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs() {
        let ms = Duration::from_millis;
        assert_eq!(link_cost(Some(ms(10)), 0), 5_500);
        assert_eq!(link_cost(Some(ms(10)), 1_000), 11_000);
        assert_eq!(link_cost(Some(Duration::ZERO), 0), 500);
        assert_eq!(link_cost(Some(Duration::MAX), LOSS_ONE), u32::MAX / 64);
        assert!(!worth_telling(500, 1_500) && worth_telling(500, 1_501));
        assert!(worth_telling(1_500, 600) && !worth_telling(800, 600), "down to what a LAN costs");
        assert!(
            worth_telling_later(800, 650) && !worth_telling_later(800, 700) && !worth_telling_later(600, 500)
        );
        assert!(worth_telling_later(8_000, 9_001) && !worth_telling_later(8_000, 9_000));
        assert!(
            !worth_telling(40_000, 50_000) && worth_telling(40_000, 50_001) && worth_telling(40_000, 29_000)
        );
    }
}
