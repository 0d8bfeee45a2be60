//! Percentiles and gaps.

use serde::Serialize;

/// A distribution in short. Percentiles are by nearest rank: each is a value that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of any samples; `None` without any.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            n: sorted.len(),
            p50: percentile(&sorted, 50)?,
            p95: percentile(&sorted, 95)?,
            p99: percentile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }
}

/// The smallest value that at least this percentage of the sorted values do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The middle value.
pub(crate) fn median(samples: impl IntoIterator<Item = f64>) -> Option<f64> {
    Summary::of(samples).map(|summary| summary.p50)
}

/// The longest time within `from..to` without an event. Silence before the first and after the last event counts, and a gap that began
/// before `from` counts in full: its first part is part of the outage that was felt.
pub(crate) fn longest_gap(events: &[f64], from: f64, to: f64) -> f64 {
    let mut times: Vec<f64> = events.iter().copied().filter(|time| time.is_finite()).collect();
    times.sort_by(f64::total_cmp);
    let mut last = times.iter().copied().rfind(|time| *time <= from).unwrap_or(from);
    let mut longest = 0.0_f64;
    for time in times.into_iter().filter(|time| *time > from) {
        if last >= to {
            break;
        }
        longest = longest.max(time.min(to) - last);
        last = time;
    }
    longest.max(to - last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_measured_values() {
        let summary = Summary::of((1..=100).map(f64::from)).unwrap();
        assert_eq!((summary.p50, summary.p95, summary.p99, summary.max), (50.0, 95.0, 99.0, 100.0));
        let one = Summary::of([7.0]).unwrap();
        assert_eq!((one.n, one.p50, one.p99), (1, 7.0, 7.0));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn a_gap_counts_silence_at_both_ends_of_the_window() {
        assert_eq!(longest_gap(&[], 10.0, 30.0), 20.0);
        assert_eq!(longest_gap(&[12.0, 13.0], 10.0, 30.0), 17.0);
        assert_eq!(longest_gap(&[9.0, 25.0, 29.0], 10.0, 30.0), 16.0);
        assert_eq!(longest_gap(&[10.0, 20.0, 30.0, 90.0], 10.0, 30.0), 10.0);
        assert_eq!(longest_gap(&[29.0, 200.0], 10.0, 30.0), 19.0);
    }

    proptest! {
        #[test]
        fn a_gap_is_never_negative_and_order_does_not_matter(mut events in proptest::collection::vec(0.0_f64..100.0, 0..50)) {
            let gap = longest_gap(&events, 20.0, 80.0);
            prop_assert!((0.0..=100.0).contains(&gap));
            events.reverse();
            prop_assert_eq!(gap, longest_gap(&events, 20.0, 80.0));
        }
    }
}
