//! Drives the messaging core: its frames travel on one stream per peer, its state goes to the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_messaging::frame::{DENIED_HEAD, carries_messages};
use meshara_messaging::{Core, InboxRow, MessageId, Output, StoreFailure, SubmitError, Waiting};
use meshara_overlay::Event;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, broadcast, mpsc, oneshot};

use super::Inner;
use super::services::{append_rule, rule_of};
use super::sessions::Session;
use super::streams::Opening;
use super::trust::policy;
use crate::frames::{append_frame, read_frame};
use crate::store::{Store, StoreError, TakeLimit};

/// Frames that wait for one peer's stream. The core leaves at most its window (16,384 messages, 8 MiB) unacknowledged, and
/// acknowledgements are few; a channel that is full all the same has a peer that breaks the rules, and is closed.
const CHANNEL: usize = 32_768;
/// Bytes written to a stream at once.
const WRITE: usize = 256 << 10;
/// Stream error code: another channel to the same peer is kept.
const DUPLICATE: VarInt = VarInt::from_u32(2);
/// Stream error code: a frame was refused.
const MISBEHAVED: VarInt = VarInt::from_u32(3);
/// Two channels that begin within this were begun at the same time by both sides; then the lower NodeId's is kept. For sessions the mesh address decides.
pub(super) const SIMULTANEOUS: Duration = Duration::from_secs(1);

/// What became of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It was not taken.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// No acknowledgement in time. The message stays queued and is delivered when possible.
    #[error("no acknowledgement in time; the message stays queued: {}", waiting_for(*waiting))]
    Timeout {
        /// What it waits for.
        waiting: Option<Waiting>,
    },
    /// The receiver's policy denies it. The message stays queued and is delivered once it is allowed.
    #[error("denied by the rule `{rule}` of the receiver's policy; the message stays queued")]
    Denied {
        /// The rule.
        rule: String,
    },
    /// Its time to live ended.
    #[error("the message was given up after its time to live")]
    Expired,
    /// The node is stopping.
    #[error("the node is stopping; the message stays queued")]
    Stopping,
}

fn waiting_for(waiting: Option<Waiting>) -> &'static str {
    match waiting {
        Some(Waiting::Storing) => "this node's disk is slow",
        Some(Waiting::Session) => "the receiver can't be reached",
        Some(Waiting::Peer(_)) => "the receiver takes nothing at present (its inbox or disk is full)",
        Some(Waiting::Acknowledgement) => "the receiver has not answered yet",
        _ => "nothing more is known",
    }
}

/// A message that its receiver has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Identifier.
    pub id: MessageId,
    /// From submission to acknowledgement.
    pub after: Duration,
}

type Outcome = Result<Receipt, SendError>;

struct Channel {
    frames: mpsc::Sender<Vec<u8>>,
    connection: usize,
    opened_by_us: bool,
    since: Instant,
    number: u64,
}

struct State {
    core: Core,
    channels: HashMap<NodeId, Channel>,
    waiters: HashMap<MessageId, (NodeId, oneshot::Sender<Outcome>)>,
    next_channel: u64,
    /// Peers whose channel took no more.
    full: Vec<NodeId>,
}

/// What [`receive`] has given out.
#[derive(Default)]
struct Reading {
    /// Arrival number of the last message given.
    after: u64,
    /// Messages given and not yet consumed in the store.
    given: Vec<(NodeId, MessageId)>,
    /// Why they aren't.
    failed: Option<StoreError>,
}

/// The messaging core and its surroundings.
pub(crate) struct Messages {
    state: Mutex<State>,
    /// Held while messages are given out and until they are consumed.
    reading: Arc<AsyncMutex<Reading>>,
    start: Instant,
    timer: Notify,
    pub(crate) store: Store,
    me: NodeId,
    connects: mpsc::Sender<NodeId>,
    commits: mpsc::Sender<(meshara_messaging::Token, Vec<meshara_messaging::StoreOp>)>,
}

/// Work that the messaging core asked for.
pub(crate) struct Work {
    connects: mpsc::Receiver<NodeId>,
    commits: mpsc::Receiver<(meshara_messaging::Token, Vec<meshara_messaging::StoreOp>)>,
}

/// Sessions wanted at once; each destination is asked for once until it fails or succeeds.
const CONNECTS: usize = 1024;
/// Commits under way: the core makes one at a time.
const COMMITS: usize = 4;

impl Messages {
    pub(crate) fn new(core: Core, store: Store, me: NodeId, start: Instant) -> (Self, Work) {
        let (connects, wanted) = mpsc::channel(CONNECTS);
        let (commits, asked) = mpsc::channel(COMMITS);
        let state = State {
            core,
            channels: HashMap::new(),
            waiters: HashMap::new(),
            next_channel: 0,
            full: Vec::new(),
        };
        let messages = Self {
            state: Mutex::new(state),
            reading: Arc::default(),
            start,
            timer: Notify::new(),
            store,
            me,
            connects,
            commits,
        };
        (messages, Work { connects: wanted, commits: asked })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Gives the core an input and carries out what follows from it.
    fn input<T>(&self, input: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let mut state = self.lock();
        let before = state.core.poll_timeout();
        let result = input(&mut state.core, self.now());
        self.carry_out(&mut state);
        if state.core.poll_timeout() != before {
            self.timer.notify_one();
        }
        result
    }

    /// Looks at the core without changing it.
    pub(crate) fn view<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.lock().core)
    }

    fn carry_out(&self, state: &mut State) {
        let now = self.now();
        while let Some(output) = state.core.poll_output(now) {
            match output {
                Output::Transmit { to, frame } => {
                    let Some(channel) = state.channels.get(&to) else { continue };
                    // Without its sender the channel's task ends, which reports the end to the core.
                    if channel.frames.try_send(frame).is_err() {
                        state.full.push(to);
                    }
                }
                Output::Store { token, ops } => {
                    if self.commits.try_send((token, ops)).is_err() {
                        state.core.store_failed(
                            now,
                            token,
                            StoreFailure("the store does not keep up".into()),
                        );
                    }
                }
                Output::Acked { id, after, .. } => {
                    if let Some((_, waiter)) = state.waiters.remove(&id) {
                        let _ = waiter.send(Ok(Receipt { id, after }));
                    }
                }
                Output::Rejected { id, error, .. } => {
                    if let Some((_, waiter)) = state.waiters.remove(&id) {
                        let _ = waiter.send(Err(error.into()));
                    }
                }
                Output::Expired { id, to } => {
                    tracing::warn!(%id, %to, "a message was given up");
                    if let Some((_, waiter)) = state.waiters.remove(&id) {
                        let _ = waiter.send(Err(SendError::Expired));
                    }
                }
                Output::Connect { to } => {
                    let _ = self.connects.try_send(to); // asked for again by the core's timer
                }
                Output::Delivered { .. } => {} // the store tells those who follow the inbox
            }
        }
        for peer in std::mem::take(&mut state.full) {
            if state.channels.remove(&peer).is_some() {
                state.core.peer_down(now, peer);
            }
        }
    }

    /// Sends one message and waits until the receiver has stored it.
    pub(crate) async fn send(&self, to: NodeId, body: Bytes, wait: Duration) -> Outcome {
        let (waiter, outcome) = oneshot::channel();
        let id = {
            let mut state = self.lock();
            let now = self.now();
            let id = state.core.submit(now, to, body, unix_ms())?;
            state.waiters.insert(id, (to, waiter));
            self.carry_out(&mut state);
            self.timer.notify_one();
            id
        };
        match tokio::time::timeout(wait, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(SendError::Stopping),
            Err(_) => {
                self.lock().waiters.remove(&id);
                Err(SendError::Timeout { waiting: self.view(|core| core.waiting(to)) })
            }
        }
    }

    /// Consumes messages in the store and tells the core. Don't give this up halfway: the core would hold their places for ever.
    async fn consume(&self, named: Vec<(NodeId, MessageId)>) -> Result<(), StoreError> {
        let (messages, bytes) = self.store.consume(named).await?;
        self.input(|core, _| core.consumed(messages, bytes));
        Ok(())
    }

    /// Waits until all that was given out is consumed.
    pub(crate) async fn settled(&self) {
        drop(self.reading.lock().await);
    }

    /// The receiver's policy denies what is sent to it: whoever waits hears so. Its messages stay queued.
    fn denied(&self, to: NodeId, rule: &str) {
        tracing::debug!(%to, rule, "messages are denied");
        self.input(|core, _| core.denied(to));
        let mut state = self.lock();
        let waiting: Vec<_> =
            state.waiters.iter().filter(|(_, (node, _))| *node == to).map(|(id, _)| *id).collect();
        for (_, waiter) in waiting.into_iter().filter_map(|id| state.waiters.remove(&id)) {
            let _ = waiter.send(Err(SendError::Denied { rule: rule.to_owned() }));
        }
    }

    /// There is another policy: what was denied is tried again.
    pub(crate) fn retry_denied(&self) {
        self.input(|core, now| core.retry_denied(now));
    }

    /// Puts a frame of the driver's own among those that wait for a peer.
    fn put(&self, peer: NodeId, frame: Vec<u8>) {
        if let Some(channel) = self.lock().channels.get(&peer) {
            // When it is full the peer is told the next time.
            let _ = channel.frames.try_send(frame);
        }
    }

    /// Serves a message stream that a peer opened.
    pub(crate) async fn accept(
        &self,
        session: Session,
        send: SendStream,
        receive: RecvStream,
        deny: impl Fn() -> Option<String>,
    ) {
        self.channel(&session, send, receive, false, deny).await;
    }

    /// Runs one channel until it ends. `deny` gives the rule that denies messages of the peer, if one does.
    async fn channel(
        &self,
        session: &Session,
        mut send: SendStream,
        mut receive: RecvStream,
        ours: bool,
        deny: impl Fn() -> Option<String>,
    ) {
        let peer = session.member.node_id;
        let connection = session.connection.stable_id();
        let Some((number, mut frames)) = self.claim(peer, connection, ours) else {
            let _ = send.reset(DUPLICATE);
            let _ = receive.stop(DUPLICATE);
            return;
        };
        let write = async {
            let mut bytes = Vec::with_capacity(WRITE);
            while let Some(frame) = frames.recv().await {
                append_frame(&mut bytes, &frame);
                while bytes.len() < WRITE
                    && let Ok(frame) = frames.try_recv()
                {
                    append_frame(&mut bytes, &frame);
                }
                if send.write_all(&bytes).await.is_err() {
                    return;
                }
                bytes.clear();
            }
        };
        let read = async {
            loop {
                let Ok(frame) = read_frame(&mut receive, meshara_messaging::MAX_FRAME).await else {
                    return None;
                };
                if let Some(rule) = frame.strip_prefix(&DENIED_HEAD) {
                    self.denied(peer, &rule_of(rule).unwrap_or_default());
                    continue;
                }
                if carries_messages(&frame)
                    && let Some(rule) = deny()
                {
                    let mut answer = DENIED_HEAD.to_vec();
                    append_rule(&mut answer, &rule);
                    self.put(peer, answer);
                    continue;
                }
                let handled = self.input(|core, now| core.handle_frame(now, peer, frame.into()));
                if let Err(error) = handled {
                    return Some(error);
                }
            }
        };
        let misbehaved = tokio::select! {
            () = write => None,
            error = read => error,
        };
        let code = if let Some(error) = misbehaved {
            tracing::warn!(peer = %session.member.name, %error, "a message frame was refused");
            MISBEHAVED
        } else {
            DUPLICATE
        };
        let _ = send.reset(code);
        let _ = receive.stop(code);
        self.release(peer, number);
    }

    /// Makes this the channel to the peer, unless another one is to be kept.
    fn claim(&self, peer: NodeId, connection: usize, ours: bool) -> Option<(u64, mpsc::Receiver<Vec<u8>>)> {
        let (sender, frames) = mpsc::channel(CHANNEL);
        let mut state = self.lock();
        if let Some(old) = state.channels.get(&peer) {
            let simultaneous = old.opened_by_us != ours && old.since.elapsed() < SIMULTANEOUS;
            let keep_old = if simultaneous {
                old.opened_by_us == (self.me < peer)
            } else {
                // The same connection carries one channel; a newer connection means that the peer started anew.
                old.connection == connection && !old.frames.is_closed()
            };
            if keep_old {
                return None;
            }
        }
        state.next_channel += 1;
        let number = state.next_channel;
        let channel =
            Channel { frames: sender, connection, opened_by_us: ours, since: Instant::now(), number };
        state.channels.insert(peer, channel);
        drop(state);
        if let Err(error) = self.input(|core, now| core.peer_up(now, peer)) {
            tracing::warn!(%peer, %error, "messages from this peer are refused");
        }
        Some((number, frames))
    }

    fn release(&self, peer: NodeId, number: u64) {
        let mut state = self.lock();
        if state.channels.get(&peer).is_some_and(|channel| channel.number == number) {
            state.channels.remove(&peer);
            drop(state);
            self.input(|core, now| core.peer_down(now, peer));
        }
    }

    /// Ends all waits: their messages stay queued.
    pub(crate) fn stop(&self) {
        for (_, (_, waiter)) in self.lock().waiters.drain() {
            let _ = waiter.send(Err(SendError::Stopping));
        }
    }

    async fn run_timers(&self) {
        loop {
            let next = self.view(Core::poll_timeout);
            let now = self.now();
            match next {
                Some(at) if at <= now => self.input(|core, now| core.handle_timeout(now)),
                Some(at) => {
                    let _ = tokio::time::timeout(at - now, self.timer.notified()).await;
                }
                None => self.timer.notified().await,
            }
        }
    }

    async fn run_commits(
        &self,
        mut commits: mpsc::Receiver<(meshara_messaging::Token, Vec<meshara_messaging::StoreOp>)>,
    ) {
        while let Some((token, ops)) = commits.recv().await {
            match self.store.commit(ops).await {
                Ok(()) => self.input(|core, now| core.stored(now, token)),
                Err(error) => {
                    tracing::error!(%error, "messages could not be stored");
                    let failure = StoreFailure(error.to_string());
                    self.input(|core, now| core.store_failed(now, token, failure));
                }
            }
        }
    }
}

/// Consumes messages whether or not the caller waits for it.
pub(crate) async fn consume(inner: &Arc<Inner>, named: Vec<(NodeId, MessageId)>) -> Result<(), StoreError> {
    let (done, outcome) = oneshot::channel();
    let task = inner.clone();
    inner.spawn(async move {
        let _ = done.send(task.messages.consume(named).await);
    });
    outcome.await.map_err(|_| StoreError::Stopped)?
}

/// Unread messages, oldest first. They are consumed once this has given them: a call that is given up consumes nothing.
pub(crate) async fn receive(inner: &Arc<Inner>, limit: TakeLimit) -> Result<Vec<InboxRow>, StoreError> {
    let mut reading = inner.messages.reading.clone().lock_owned().await;
    if let Some(error) = reading.failed.take() {
        settle(inner, reading);
        return Err(error);
    }
    let rows = inner.messages.store.unread(reading.after, limit).await?;
    if let Some(last) = rows.last() {
        reading.after = last.arrival;
        reading.given.extend(rows.iter().map(|row| (row.from, row.id)));
        settle(inner, reading);
    }
    Ok(rows)
}

/// Consumes what was given out; until then nothing more is.
fn settle(inner: &Arc<Inner>, mut reading: OwnedMutexGuard<Reading>) {
    let task = inner.clone();
    inner.spawn(async move {
        match task.messages.consume(reading.given.clone()).await {
            Ok(()) => reading.given.clear(),
            Err(error) => {
                tracing::error!(%error, "messages that were read could not be consumed");
                reading.failed = Some(error);
            }
        }
    });
}

/// Runs timers, commits and connects, for ever.
pub(crate) async fn run(inner: Arc<Inner>, work: Work) {
    let Work { mut connects, commits } = work;
    let messages = &inner.messages;
    let connect = async {
        while let Some(peer) = connects.recv().await {
            let task = inner.clone();
            inner.spawn(async move {
                match task.sessions.open_stream(peer, &Opening::Messages).await {
                    Ok((send, receive)) => {
                        if let Some(session) = task.sessions.existing(&peer) {
                            let deny = policy::deny_messages(&task, &session.member);
                            task.messages.channel(&session, send, receive, true, deny).await;
                        }
                    }
                    Err(error) => tracing::debug!(%peer, %error, "no session for messages"),
                }
            });
        }
    };
    let reachable = async {
        let mut events = inner.overlay.subscribe();
        loop {
            match events.recv().await {
                Ok(Event::NodeReachable(node)) => messages.input(|core, now| core.peer_reachable(now, node)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    };
    tokio::join!(messages.run_timers(), messages.run_commits(commits), connect, reachable);
}

/// The wall clock in Unix milliseconds.
pub(crate) fn unix_ms() -> u64 {
    meshara_identity::UnixMillis::now().0
}
