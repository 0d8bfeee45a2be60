//! Carries newcomers' join requests to an issuer: this node if it issues, else one over the mesh.
//!
//! The carrying member learns nothing that it could use: it passes the request on as it is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::issuer::Answer;
use meshara_identity::join::{REPLY_MAX, REQUEST_MAX, refusal_in};
use meshara_identity::{NodeId, Refusal, UnixMillis};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Inner;
use super::pipe::RESET;
use super::sessions::Sessions;
use super::streams::Opening;
use super::trust::visit::{self, VISIT, Visitors};
use crate::frames::{read_frame, write_frame};

/// First byte of a newcomer: the version of this exchange.
pub(crate) const JOIN_VERSION: u8 = 1;
/// Joins under way at once, all sources together; each holds some 300 KB at most and an issuer's disk write.
const MAX_JOINS: usize = 64;
/// Joins under way at once from one source: a quarter of the places, so that silent peers of one source hold up nobody else. Of
/// twenty newcomers behind one NAT the last few try again 0.3 s later.
const MAX_PER_SOURCE: usize = MAX_JOINS / 4;
/// Joins a second from one source. Twenty newcomers behind one NAT may start together; a flood from one source is held to this
/// rate and hears so.
const PER_SOURCE: f64 = 25.0;
/// Joins that one source may save up.
const PER_SOURCE_BURST: f64 = 50.0;
/// Sources remembered; the longest unused one without a join under way is forgotten first, which gives it a full bucket again.
/// There is always one: joins under way are fewer.
const SOURCES: usize = 4096;
/// A newcomer that doesn't get on with it is dropped: its side takes one round trip and one signature.
const JOIN_TIMEOUT: Duration = Duration::from_secs(8);
/// An issuer over the mesh answers within a session's handshake and a disk write, or the next one is asked.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(4);
/// A place for a member's request is waited for that long: half of what the member waits for the answer.
const PLACE_TIMEOUT: Duration = Duration::from_secs(2);
/// Close code of a join that was refused before it was read. Above the codes of links.
pub(crate) const CLOSE_BUSY: u32 = 0x201;
/// Close code of a join of another version.
const CLOSE_VERSION: u32 = 0x202;

/// Who is being admitted.
pub(crate) struct Admission {
    places: Semaphore,
    sources: Mutex<Sources>,
    pub(super) visitors: Visitors,
}

impl Default for Admission {
    fn default() -> Self {
        Self { places: Semaphore::new(MAX_JOINS), sources: Mutex::default(), visitors: Visitors::default() }
    }
}

impl Admission {
    /// A place for work on one request, once there is one; none where all stay taken.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(PLACE_TIMEOUT, self.places.acquire()).await.ok()?.ok()
    }

    /// Serves one newcomer, or a member whose certificate has ended or is refused.
    pub(crate) async fn serve(&self, connection: Connection, inner: &Arc<Inner>) {
        let source = Source::of(connection.remote_address().ip());
        // The place comes first: it bounds the sources that have a join under way.
        let place = self.places.try_acquire().ok();
        let admitted =
            place.and_then(|place| Some((place, Visit::begin(&self.sources, source, Instant::now())?)));
        let Some(_held) = admitted else {
            connection.close(CLOSE_BUSY.into(), b"too many joins, try again in a second");
            return;
        };
        if tokio::time::timeout(JOIN_TIMEOUT, exchange(&connection, inner)).await.is_err() {
            tracing::debug!(?source, "a join was given up: the newcomer took too long");
        }
        connection.close(0_u32.into(), b"done");
    }
}

async fn exchange(connection: &Connection, inner: &Arc<Inner>) -> Option<()> {
    let source = connection.remote_address();
    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
    let mut version = [0];
    receive.read_exact(&mut version).await.ok()?;
    if version == [VISIT] {
        return visit::serve(inner, connection, send, receive).await;
    }
    if version != [JOIN_VERSION] {
        let reason = format!(
            "this member speaks version {JOIN_VERSION} of the join protocol: update the older of the two"
        );
        connection.close(CLOSE_VERSION.into(), reason.as_bytes());
        return None;
    }
    write_frame(&mut send, &inner.standing.mesh_info().encode().ok()?).await.ok()?;
    let request = read_frame(&mut receive, REQUEST_MAX).await.ok()?;
    let reply = ask(inner, request).await;
    if reply.is_empty() {
        tracing::warn!(%source, "a join could not be carried: no issuer is reachable");
    }
    write_frame(&mut send, &reply).await.ok()?;
    send.finish().ok()?;
    let _ = send.stopped().await;
    Some(())
}

/// An issuer's reply; empty when none can be reached.
async fn ask(inner: &Arc<Inner>, request: Vec<u8>) -> Vec<u8> {
    let mut refused = Vec::new();
    if inner.standing.issuer().is_some() {
        let reply = answer(inner, request.clone(), None).await;
        if !asks_on(&reply) {
            return reply;
        }
        refused = reply;
    }
    for issuer in inner.standing.other_issuers(UnixMillis::now()) {
        let attempt = tokio::time::timeout(ISSUER_TIMEOUT, carry(&inner.sessions, issuer, &request));
        if let Ok(Some(reply)) = attempt.await {
            if !asks_on(&reply) {
                return reply;
            }
            refused = reply;
        }
    }
    refused
}

/// Whether another issuer may say something else: tickets and enrolments are known to the issuer that wrote them down, and one may be broken.
fn asks_on(reply: &[u8]) -> bool {
    let elsewhere = |refusal| {
        matches!(
            refusal,
            Refusal::UnknownTicket
                | Refusal::Internal
                | Refusal::EnrolmentEnded { .. }
                | Refusal::IssuerRevoked
        )
    };
    reply.is_empty() || refusal_in(reply).is_some_and(elsewhere)
}

/// Serves a request that another member carries here.
pub(crate) async fn serve_carried(
    inner: &Arc<Inner>,
    from: NodeId,
    send: SendStream,
    receive: RecvStream,
) -> Option<()> {
    serve_request(inner, from, None, send, receive).await
}

/// Serves a member's request for its next certificate, which comes in its own session.
pub(crate) async fn serve_renewal(
    inner: &Arc<Inner>,
    peer: NodeId,
    send: SendStream,
    receive: RecvStream,
) -> Option<()> {
    serve_request(inner, peer, Some(peer), send, receive).await
}

/// `from`: who sends it, and is counted for it. `peer`: whose request it must be, and it must be for a renewal then.
async fn serve_request(
    inner: &Arc<Inner>,
    from: NodeId,
    peer: Option<NodeId>,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Option<()> {
    if inner.standing.issuer().is_none() || inner.standing.is_silent() {
        let _ = send.reset(RESET);
        return None;
    }
    let Some(_visit) = Visit::begin(&inner.asked.sources, Source::Peer(from), Instant::now()) else {
        tracing::debug!(%from, "a member asks this issuer too often");
        let _ = send.reset(RESET);
        return None;
    };
    let exchange = async {
        let request = read_frame(&mut receive, REQUEST_MAX).await.ok()?;
        // Not held while the peer reads or writes, however slowly it does.
        let place = inner.asked.place().await?;
        let reply = answer(inner, request, peer).await;
        drop(place);
        write_frame(&mut send, &reply).await.ok()?;
        send.finish().ok()?;
        let _ = send.stopped().await;
        Some(())
    };
    tokio::time::timeout(JOIN_TIMEOUT, exchange).await.ok()?
}

/// Whom joins, renewals and handshakes are counted for: a member that proved who it is, else an IPv4 address, or the /64 that one IPv6 host may choose its addresses from (RFC 4291 §2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(Ipv4Addr),
    /// The upper half of the address.
    V6([u16; 4]),
    /// A member that asks on its session, for itself or for others.
    Peer(NodeId),
}

impl Source {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// A token bucket and the joins under way of one source.
#[derive(Debug)]
struct Bucket {
    used: Instant,
    tokens: f64,
    open: usize,
}

/// The sources of late.
#[derive(Default)]
struct Sources(HashMap<Source, Bucket>);

impl Sources {
    /// Whether a further join may begin; it is counted as open then.
    fn open(&mut self, source: Source, now: Instant) -> bool {
        if self.0.len() >= SOURCES && !self.0.contains_key(&source) {
            let unused = self.0.iter().filter(|(_, bucket)| bucket.open == 0);
            let Some(oldest) = unused.min_by_key(|(_, bucket)| bucket.used).map(|(source, _)| *source) else {
                return false;
            };
            self.0.remove(&oldest);
        }
        let full = Bucket { used: now, tokens: PER_SOURCE_BURST, open: 0 };
        let bucket = self.0.entry(source).or_insert(full);
        let refill = now.duration_since(bucket.used).as_secs_f64() * PER_SOURCE;
        bucket.tokens = (bucket.tokens + refill).min(PER_SOURCE_BURST);
        bucket.used = now;
        let admitted = bucket.tokens >= 1.0 && bucket.open < MAX_PER_SOURCE;
        if admitted {
            bucket.tokens -= 1.0;
            bucket.open += 1;
        }
        admitted
    }
}

/// A join under way, counted for its source until dropped.
struct Visit<'a> {
    sources: &'a Mutex<Sources>,
    source: Source,
}

impl<'a> Visit<'a> {
    fn begin(sources: &'a Mutex<Sources>, source: Source, now: Instant) -> Option<Self> {
        let admitted = sources.lock().unwrap_or_else(PoisonError::into_inner).open(source, now);
        admitted.then_some(Self { sources, source })
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = sources.0.get_mut(&self.source) {
            bucket.open = bucket.open.saturating_sub(1);
        }
    }
}

/// Lets this node's issuer answer off the network thread: it writes to disk. Empty without one.
async fn answer(inner: &Arc<Inner>, request: Vec<u8>, peer: Option<NodeId>) -> Vec<u8> {
    let Some(issuer) = inner.standing.issuer() else { return Vec::new() };
    let answered = tokio::task::spawn_blocking(move || {
        let now = UnixMillis::now();
        match peer {
            Some(peer) => issuer.renew(&request, Some(peer), now),
            None => issuer.handle_carried(&request, now),
        }
    });
    let Ok(answered) = answered.await else { return Vec::new() };
    let Answer { reply, outcome, fault, renewal, refused, refused_renewal } = answered;
    if let Ok(admitted) = &outcome {
        inner.audit.admitted(admitted, renewal);
    }
    match &outcome {
        Ok(admitted) if renewal => {
            tracing::debug!(name = %admitted.name, until = %admitted.not_after, "a certificate was renewed");
        }
        Ok(admitted) => tracing::info!(name = %admitted.name, node = %admitted.node_id, "a node joined"),
        Err(refusal) => {
            tracing::info!(%refusal, ?fault, renewal, "a request was refused");
            if let Some((node, name)) = refused {
                inner.audit.refused(node, name, refusal);
            }
            if let Some(node) = refused_renewal {
                inner.audit.refused_renewal(node, refusal);
            }
        }
    }
    reply
}

async fn carry(sessions: &Sessions, issuer: NodeId, request: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut receive) = sessions.open_stream(issuer, &Opening::Join).await.ok()?;
    write_frame(&mut send, request).await.ok()?;
    send.finish().ok()?;
    read_frame(&mut receive, REPLY_MAX).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(ip: &str) -> Source {
        Source::of(ip.parse().unwrap())
    }

    /// A join that ends at once.
    fn passes(sources: &Mutex<Sources>, source: Source, now: Instant) -> bool {
        Visit::begin(sources, source, now).is_some()
    }

    #[test]
    fn twenty_refusals_a_second_lock_nobody_out_and_a_flood_is_held() {
        let sources = Mutex::default();
        let start = Instant::now();
        for n in 0..200_u32 {
            assert!(passes(&sources, source("192.0.2.1"), start + Duration::from_millis(50) * n));
        }
        let later = start + Duration::from_secs(60);
        let burst = (0..1000).filter(|_| passes(&sources, source("192.0.2.1"), later)).count();
        assert_eq!(burst, PER_SOURCE_BURST as usize);
        assert!(passes(&sources, source("192.0.2.2"), later), "others are not held");
    }

    #[test]
    fn silent_peers_of_one_source_leave_places_to_others() {
        let sources = Mutex::default();
        let now = Instant::now();
        let hold = |n: usize| Visit::begin(&sources, source(&format!("2001:db8::{n:x}")), now);
        let mut held: Vec<_> = (1..=MAX_JOINS).map_while(hold).collect();
        assert_eq!(held.len(), MAX_PER_SOURCE, "a /64 is one source");
        assert!(passes(&sources, source("2001:db8:0:1::1"), now), "another /64 is another source");
        held.pop();
        assert!(passes(&sources, source("2001:db8::ffff"), now), "a place that is free again is given");
    }

    #[test]
    fn an_ipv4_address_is_one_source_however_it_is_written() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn a_full_table_forgets_the_longest_unused_source_without_a_join_under_way() {
        let sources = Mutex::default();
        let start = Instant::now();
        let at = |n: usize| start + Duration::from_millis(n as u64);
        let numbered = |n: usize| Source::V4(Ipv4Addr::from_bits(n as u32));
        let held = Visit::begin(&sources, numbered(0), at(0)).unwrap();
        for n in 1..SOURCES + 2 {
            assert!(passes(&sources, numbered(n), at(n)), "nobody new is refused");
        }
        let known = |n| sources.lock().unwrap().0.contains_key(&numbered(n));
        assert_eq!(sources.lock().unwrap().0.len(), SOURCES);
        assert!(known(0), "a source with a join under way stays counted");
        assert!(!known(1) && !known(2) && known(3) && known(SOURCES + 1));
        drop(held);
        assert!(passes(&sources, numbered(SOURCES + 2), at(SOURCES + 2)));
        assert!(!known(0));
    }

    #[tokio::test]
    async fn a_member_asks_an_issuer_a_few_times_at_once_and_then_again() {
        use super::super::sessions::tests::pair;

        let dir = tempfile::tempdir().unwrap();
        let (alice, bob) = pair(dir.path()).await;
        let (sessions, issuer) = (&bob.inner.sessions, alice.member().node_id);
        let open = async || {
            let opened = tokio::time::timeout(Duration::from_secs(40), async {
                loop {
                    if let Ok(streams) = sessions.open_stream(issuer, &Opening::Join).await {
                        return streams;
                    }
                }
            });
            opened.await.unwrap()
        };
        let reset = async |(mut send, mut receive): (SendStream, RecvStream)| {
            let _ = write_frame(&mut send, b"no request").await;
            let _ = send.finish();
            match read_frame(&mut receive, REPLY_MAX).await {
                Ok(reply) => {
                    assert!(refusal_in(&reply).is_some(), "it is no request");
                    false
                }
                Err(_) => true,
            }
        };
        // Streams on which nothing comes: each is counted while it is open.
        let mut silent = Vec::new();
        for _ in 0..MAX_PER_SOURCE {
            silent.push(open().await);
        }
        let until = async |refused| {
            let asking = async {
                while reset(open().await).await != refused {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap();
        };
        // One too many, once all have come; and served again once they have ended.
        until(true).await;
        drop(silent);
        until(false).await;
        alice.shutdown().await;
        bob.shutdown().await;
    }
}
