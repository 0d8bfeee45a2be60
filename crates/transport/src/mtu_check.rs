//! Notices that a path takes only smaller packets than its link found: a packet as large as the largest frame goes out on the
//! link's connection now and then.
//!
//! The link's own packets are small and nobody acknowledges frames, so QUIC would see nothing. It judges by packets of its own:
//! when four large ones in a row are lost while smaller ones arrive, it goes back to the smallest size and, a minute
//! later, searches anew (RFC 8899 §4.3). Frames follow, see [`HopLink::refresh`].

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::hop_link::{HopLink, INITIAL_MTU};

/// Between large packets on a link that carries data, where frames vanish: 1.5 KB a second.
const BUSY: Duration = Duration::from_secs(1);
/// And on others: less than the overlay's probes take.
const IDLE: Duration = Duration::from_secs(10);
/// quinn keeps nine bytes of a packet free beside its largest datagram (packet number and length may grow), and puts no other in unless there
/// are ten. So the largest but one, and these as a second datagram with their two bytes of type and length, fill it to the byte. If an
/// acknowledgement goes with it, it is up to three bytes short.
const FILL: usize = 8;

/// When a link's next large packet is due.
#[derive(Debug)]
pub struct MtuCheck {
    next: Instant,
    lost: u64,
}

impl MtuCheck {
    /// For a link that was just made.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { next: now + IDLE, lost: 0 }
    }

    /// To be called twice a second. Sends a large packet if it is time: sooner while the link is `busy`, and at once after a loss, which
    /// may be the first of four.
    pub fn run(&mut self, now: Instant, link: &HopLink, busy: bool) {
        let path = link.connection().stats().path;
        if self.due(now, path.lost_packets, busy) && path.current_mtu > INITIAL_MTU {
            send(link.connection());
        }
    }

    fn due(&mut self, now: Instant, lost: u64, busy: bool) -> bool {
        if busy {
            self.next = self.next.min(now + BUSY);
        }
        let due = now >= self.next || lost > self.lost;
        self.lost = lost;
        if due {
            self.next = now + if busy { BUSY } else { IDLE };
        }
        due
    }
}

/// Sends a packet of the connection's full size and an empty one, whose acknowledgement shows at once that the large one was lost. Their
/// content means nothing.
fn send(connection: &quinn::Connection) {
    // None: the neighbour is of a version that takes no datagrams.
    let Some(largest) = connection.max_datagram_size() else { return };
    for len in [largest.saturating_sub(1), FILL, 0] {
        let _ = connection.send_datagram(Bytes::from(vec![0; len])); // the link has ended; others see to that
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_links_and_those_that_lose_are_checked_sooner() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut check = MtuCheck::new(start);
        let mut due = |ms, lost, busy| check.due(at(ms), lost, busy);
        assert!(!due(500, 0, false) && !due(9_500, 0, false));
        assert!(due(10_000, 0, false) && !due(10_500, 0, false));
        // Traffic begins.
        assert!(!due(11_000, 0, true) && !due(11_500, 0, true));
        assert!(due(12_000, 0, true) && !due(12_500, 0, true) && due(13_000, 0, true));
        // A loss, and another.
        assert!(due(13_500, 1, true) && due(14_000, 2, false) && !due(14_500, 2, false));
        assert!(due(24_000, 2, false));
    }
}
