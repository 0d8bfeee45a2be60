//! Carries newcomers' join requests to an issuer: this node if it issues, else one over the mesh.
//!
//! The carrying member learns nothing that it could use: it passes the request on as it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::join::{REPLY_MAX, REQUEST_MAX};
use meshara_identity::{Issuer, MeshInfo, NodeId, UnixMillis};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::Semaphore;

use super::sessions::Sessions;
use super::streams::Opening;
use crate::frames::{read_frame, write_frame};

/// First byte of a newcomer: the version of this exchange.
pub(crate) const JOIN_VERSION: u8 = 1;
/// Joins under way at once, all sources together; each holds some 300 KB at most and an issuer's disk write.
const MAX_JOINS: usize = 64;
/// Joins a second from one address. Twenty newcomers behind one NAT may start together; a flood from one source is held to this
/// rate and hears so.
const PER_SOURCE: f64 = 25.0;
/// Joins that one source may save up.
const PER_SOURCE_BURST: f64 = 50.0;
/// Sources remembered; older ones are forgotten first, which gives them a full bucket again.
const SOURCES: usize = 4096;
/// A newcomer that doesn't get on with it is dropped: its side takes one round trip and one signature.
const JOIN_TIMEOUT: Duration = Duration::from_secs(8);
/// An issuer over the mesh answers within a session's handshake and a disk write, or the next one is asked.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(4);
/// Close code of a join that was refused before it was read. Above the codes of links.
pub(crate) const CLOSE_BUSY: u32 = 0x201;
/// Close code of a join of another version.
const CLOSE_VERSION: u32 = 0x202;

/// Everything that admission needs.
pub(crate) struct Admission {
    pub(crate) issuer: Option<Arc<Issuer>>,
    pub(crate) info: MeshInfo,
    pub(crate) issuers: Vec<NodeId>,
    pub(crate) me: NodeId,
    places: Semaphore,
    sources: Mutex<Sources>,
}

impl Admission {
    pub(crate) fn new(issuer: Option<Arc<Issuer>>, info: MeshInfo, issuers: Vec<NodeId>, me: NodeId) -> Self {
        Self { issuer, info, issuers, me, places: Semaphore::new(MAX_JOINS), sources: Mutex::default() }
    }

    /// Serves one newcomer.
    pub(crate) async fn serve(&self, connection: Connection, sessions: &Sessions) {
        let source = connection.remote_address().ip().to_canonical();
        let Some(_place) = self.admits(source).then(|| self.places.try_acquire().ok()).flatten() else {
            connection.close(CLOSE_BUSY.into(), b"too many joins, try again in a second");
            return;
        };
        if tokio::time::timeout(JOIN_TIMEOUT, self.exchange(&connection, sessions)).await.is_err() {
            tracing::debug!(%source, "a join was given up: the newcomer took too long");
        }
        connection.close(0_u32.into(), b"done");
    }

    fn admits(&self, source: IpAddr) -> bool {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).admits(source, Instant::now())
    }

    async fn exchange(&self, connection: &Connection, sessions: &Sessions) -> Option<()> {
        let source = connection.remote_address();
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let mut version = [0];
        receive.read_exact(&mut version).await.ok()?;
        if version != [JOIN_VERSION] {
            let reason = format!(
                "this member speaks version {JOIN_VERSION} of the join protocol: update the older of the two"
            );
            connection.close(CLOSE_VERSION.into(), reason.as_bytes());
            return None;
        }
        write_frame(&mut send, &self.info.encode().ok()?).await.ok()?;
        let request = read_frame(&mut receive, REQUEST_MAX).await.ok()?;
        let reply = self.ask(request, sessions).await;
        if reply.is_empty() {
            tracing::warn!(%source, "a join could not be carried: no issuer is reachable");
        }
        write_frame(&mut send, &reply).await.ok()?;
        send.finish().ok()?;
        let _ = send.stopped().await;
        Some(())
    }

    /// The issuer's reply; empty when none can be reached.
    async fn ask(&self, request: Vec<u8>, sessions: &Sessions) -> Vec<u8> {
        if let Some(issuer) = &self.issuer {
            return answer(issuer.clone(), request).await;
        }
        for issuer in self.issuers.iter().filter(|issuer| **issuer != self.me) {
            let attempt = tokio::time::timeout(ISSUER_TIMEOUT, carry(sessions, *issuer, &request));
            if let Ok(Some(reply)) = attempt.await {
                return reply;
            }
        }
        Vec::new()
    }

    /// Serves a request that another member carries here.
    pub(crate) async fn serve_carried(&self, mut send: SendStream, mut receive: RecvStream) -> Option<()> {
        let issuer = self.issuer.clone()?;
        let request = read_frame(&mut receive, REQUEST_MAX).await.ok()?;
        let reply = answer(issuer, request).await;
        write_frame(&mut send, &reply).await.ok()?;
        send.finish().ok()?;
        let _ = send.stopped().await;
        Some(())
    }
}

/// A token bucket per source address.
#[derive(Default)]
struct Sources(HashMap<IpAddr, (Instant, f64)>);

impl Sources {
    fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.0.len() >= SOURCES && !self.0.contains_key(&source) {
            let refill = Duration::from_secs_f64(PER_SOURCE_BURST / PER_SOURCE);
            self.0.retain(|_, (at, _)| now.duration_since(*at) < refill);
            if self.0.len() >= SOURCES {
                return false;
            }
        }
        let (at, tokens) = self.0.entry(source).or_insert((now, PER_SOURCE_BURST));
        *tokens = (*tokens + now.duration_since(*at).as_secs_f64() * PER_SOURCE).min(PER_SOURCE_BURST);
        *at = now;
        let admitted = *tokens >= 1.0;
        if admitted {
            *tokens -= 1.0;
        }
        admitted
    }
}

/// Lets the issuer answer off the network thread: it writes to disk.
async fn answer(issuer: Arc<Issuer>, request: Vec<u8>) -> Vec<u8> {
    let answered = tokio::task::spawn_blocking(move || issuer.handle_join(&request, UnixMillis::now())).await;
    let Ok(answer) = answered else { return Vec::new() };
    match &answer.outcome {
        Ok(admitted) => tracing::info!(name = %admitted.name, node = %admitted.node_id, "a node joined"),
        Err(refusal) => tracing::info!(%refusal, fault = ?answer.fault, "a join was refused"),
    }
    answer.reply
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

    #[test]
    fn twenty_refusals_a_second_lock_nobody_out_and_a_flood_is_held() {
        let source = "192.0.2.1".parse().unwrap();
        let mut sources = Sources::default();
        let start = Instant::now();
        for n in 0..200_u32 {
            assert!(sources.admits(source, start + Duration::from_millis(50) * n));
        }
        let later = start + Duration::from_secs(60);
        let burst = (0..1000).filter(|_| sources.admits(source, later)).count();
        assert_eq!(burst, PER_SOURCE_BURST as usize);
        assert!(sources.admits("192.0.2.2".parse().unwrap(), later), "others are not held");
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let mut sources = Sources::default();
        let now = Instant::now();
        for n in 0..2 * SOURCES as u32 {
            sources.admits(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(sources.0.len(), SOURCES);
        assert!(sources.admits("2001:db8::1".parse().unwrap(), now + Duration::from_secs(10)));
    }
}
