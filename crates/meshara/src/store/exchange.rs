//! Two nodes' messaging cores over real stores, without a network: everything is acknowledged, nothing twice. How fast that goes over
//! hops is measured by `cargo bench -p meshara --bench messages`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_messaging::{Config, Core, Output, StoreFailure};

use super::*;

/// One node without a network: its core, its store, and frames to and from the other.
struct Peer {
    core: Core,
    store: Store,
    other: NodeId,
    to: mpsc::UnboundedSender<Bytes>,
    from: mpsc::UnboundedReceiver<Bytes>,
    clock: Instant,
    acked: usize,
}

impl Peer {
    async fn open(
        folder: &Path,
        name: u8,
        other: u8,
        to: mpsc::UnboundedSender<Bytes>,
        from: mpsc::UnboundedReceiver<Bytes>,
    ) -> Self {
        let (store, snapshot) = Store::open(&folder.join(format!("{name}.redb"))).unwrap();
        let (local, other) = (NodeId([name; 32]), NodeId([other; 32]));
        let mut core = Core::new(Config::default(), local, [name; 32], Duration::ZERO, 0, snapshot).unwrap();
        core.peer_up(Duration::ZERO, other).unwrap();
        Self { core, store, other, to, from, clock: Instant::now(), acked: 0 }
    }

    /// Submits `count` messages and runs until `until` holds.
    async fn run(&mut self, count: usize, until: impl Fn(&Core) -> bool) {
        let (done, mut commits) = mpsc::unbounded_channel();
        let mut sent = 0;
        loop {
            while sent < count && self.core.stats().outbox_messages < 8_192 {
                self.core.submit(self.clock.elapsed(), self.other, Bytes::from_static(&[5; 100]), 0).unwrap();
                sent += 1;
            }
            while let Some(output) = self.core.poll_output(self.clock.elapsed()) {
                match output {
                    Output::Transmit { frame, .. } => drop(self.to.send(frame.into())),
                    Output::Acked { .. } => self.acked += 1,
                    Output::Store { token, ops } => {
                        let (store, done) = (self.store.clone(), done.clone());
                        tokio::spawn(async move { done.send((token, store.commit(ops).await)) });
                    }
                    _ => {}
                }
            }
            if until(&self.core) && sent == count {
                return;
            }
            let pause = Duration::from_millis(if sent < count { 1 } else { 50 });
            tokio::select! {
                Some(frame) = self.from.recv() => {
                    self.core.handle_frame(self.clock.elapsed(), self.other, frame).unwrap();
                }
                Some((token, result)) = commits.recv() => match result {
                    Ok(()) => self.core.stored(self.clock.elapsed(), token),
                    Err(error) => {
                        let failure = StoreFailure(error.to_string());
                        self.core.store_failed(self.clock.elapsed(), token, failure);
                    }
                },
                () = tokio::time::sleep(pause) => {}
            }
            self.core.handle_timeout(self.clock.elapsed());
            if self.core.stats().inbox_messages > 4_096 {
                let taken =
                    self.store.take_unread(TakeLimit { messages: 65_536, bytes: usize::MAX }).await.unwrap();
                let bytes = taken.iter().map(|row| row.body.len() as u64).sum();
                self.core.consumed(taken.len() as u64, bytes);
            }
        }
    }
}

#[test]
fn two_nodes_with_real_stores_acknowledge_every_message() {
    const COUNT: usize = 20_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let (to_b, from_a) = mpsc::unbounded_channel();
        let (to_a, from_b) = mpsc::unbounded_channel();
        let mut a = Peer::open(folder.path(), 1, 2, to_b, from_b).await;
        let mut b = Peer::open(folder.path(), 2, 1, to_a, from_a).await;
        let receiver = tokio::spawn(async move {
            b.run(0, |core| core.stats().delivered as usize == COUNT).await;
            b
        });
        a.run(COUNT, |core| core.stats().outbox_messages == 0).await;
        let b = receiver.await.unwrap();
        assert_eq!((a.acked, b.core.stats().duplicates), (COUNT, 0));
    });
}
