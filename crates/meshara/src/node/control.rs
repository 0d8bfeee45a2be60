//! The node behind the control API.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use meshara_identity::{NodeId, UnixMillis};
use meshara_messaging::{InboxRow, SubmitError};
use meshara_overlay::header::DEFAULT_TTL;
use meshara_overlay::{LinkKind, LostView, Phase};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::bench::{self, gigabits};
use super::echo::{Answer, TRACE_WAIT};
use super::messages::SendError;
use super::sessions::SessionError;
use super::streams::valid_service;
use super::trust::policy;
use super::{Inner, ResolveError, messages, services, standing, tiers};
use crate::api::{
    AdmissionControl, ApiError, BenchEvent, BenchRequest, BenchResult, Body, ConfiguredPeer, ConnectEvent,
    ConnectInfo, ConnectRequest, Control, DoctorFacts, ErrorCode, Events, IdInfo, Invite, InviteRequest,
    MAX_UNREAD_BATCH, MessageRef, NodeRef, PathKind, PeerInfo, PeerState, PingEvent, PingReply, PingRequest,
    PingSummary, Received, Result, RouteInfo, SendReceipt, ServiceInfo, Status, Timestamp, Trace, TraceHop,
};
use crate::config::PeerAddr;
use crate::store::{Bucket, StoreError, TakeLimit};

/// Lines of a streamed answer that wait for the client.
const LINES: usize = 1024;
/// Most pings of one run; at 10 ms that is more than a day.
const MAX_PINGS: u32 = 10_000_000;
/// Shortest interval of pings: faster is a flood.
const MIN_INTERVAL: Duration = Duration::from_micros(100);
/// Largest ping: fits the smallest link.
const MAX_PING_SIZE: u32 = 1024;
/// How long replies are awaited after the last ping.
const PING_WAIT: Duration = Duration::from_millis(900);
/// How long overtaken replies are awaited once the last ping's has come.
const STRAGGLERS: Duration = Duration::from_millis(50);
/// Messages of one unread answer.
const UNREAD: usize = 512;
/// Addresses put into a ticket.
pub(super) const TICKET_ADDRS: usize = 8;

/// The node's side of the control API.
#[derive(Clone)]
pub(crate) struct NodeControl(pub(crate) Arc<Inner>);

impl NodeControl {
    fn node(&self, text: &str) -> Result<(NodeId, String)> {
        Ok(self.0.resolve(text)?)
    }

    /// A node other than this one.
    pub(super) fn other(&self, text: &str) -> Result<(NodeId, String)> {
        let (node, name) = self.node(text)?;
        if node == self.0.member.node_id {
            let error = ApiError::new(ErrorCode::InvalidArgument, format!("{text} is this node itself"));
            return Err(error.hint("name another node; `meshara routes` lists them"));
        }
        Ok((node, name))
    }
}

impl Control for NodeControl {
    async fn status(&self) -> Result<Status> {
        let inner = &self.0;
        let (neighbours, known) = inner.overlay.view(|core| {
            let up =
                core.neighbours().filter(|link| link.phase == Phase::Up && link.kind == LinkKind::Routing);
            // Two links to one neighbour stand side by side while one takes the other's place.
            (up.map(|link| link.node).collect::<BTreeSet<_>>().len(), core.routes().count())
        });
        let messages = inner.messages.view(meshara_messaging::Core::stats);
        Ok(Status {
            node_id: inner.member.node_id.to_string(),
            name: inner.member.name.to_string(),
            mesh: inner.mesh.to_string(),
            spiffe_id: inner.member.spiffe_id.to_string(),
            mesh_address: inner.member.address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: inner.started.elapsed().as_secs(),
            listen: vec![inner.bound.to_string()],
            neighbours: neighbours as u64,
            nodes_known: known as u64,
            sessions: inner.sessions.all().len() as u64,
            certificate_expires_at: Some(timestamp(inner.certificate_end())),
            issuer: inner.standing.issuer().is_some(),
            unread: messages.inbox_messages,
            outbox: messages.outbox_messages as u64,
            tun: super::names::tun(inner),
            dns: inner.dns.map(|addr| addr.to_string()),
        })
    }

    async fn id(&self) -> Result<IdInfo> {
        let member = &self.0.member;
        Ok(IdInfo {
            node_id: member.node_id.to_string(),
            name: member.name.to_string(),
            mesh: self.0.mesh.to_string(),
        })
    }

    async fn peers(&self) -> Result<Vec<PeerInfo>> {
        let inner = &self.0;
        // A link made on demand makes no neighbour, nor does one that has not yet worked both ways.
        let (views, lost): (Vec<_>, Vec<_>) = inner.overlay.view(|core| {
            let views =
                core.neighbours().filter(|link| link.kind == LinkKind::Routing && link.phase != Phase::Init);
            (views.collect(), core.lost_neighbours().collect())
        });
        let now = inner.overlay.now();
        // First: a new link to one of them counts once it works.
        let mut peers: Vec<PeerInfo> = lost.into_iter().map(|lost| down(now, lost)).collect();
        for view in views {
            let Some(link) = inner.overlay.link(view.link) else { continue };
            let (tx_bytes, rx_bytes) = link.hop.bytes();
            let udp = link.hop.connection().stats();
            let session = inner.sessions.measured(&view.node);
            let measured = session.as_ref().map(|(_, measured)| *measured);
            peers.push(PeerInfo {
                node_id: view.node.to_string(),
                name: link.member.name.to_string(),
                addr: link.hop.remote().to_string(),
                state: match view.phase {
                    Phase::Up => PeerState::Up,
                    _ => PeerState::Suspect,
                },
                rtt_ms: view.rtt.map(ms),
                loss: view.loss,
                kex: KEX.to_owned(),
                auth: AUTH.to_owned(),
                since_s: now.saturating_sub(view.since).as_secs(),
                tx_bytes: tx_bytes + udp.udp_tx.bytes,
                rx_bytes: rx_bytes + udp.udp_rx.bytes,
                rate_mbit_s: measured.map(|measured| measured.rate * 8e-6),
                tier: measured.map(|measured| tiers::tier(measured.rate).to_owned()),
                window_bytes: measured.map(|measured| u64::from(measured.window)),
                cwnd_bytes: session.map(|(session, _)| session.connection.stats().path.cwnd),
                mtu: Some(link.hop.mtu()),
                dialled: link.dialled,
                roles: policy::who_now(inner, &link.member).roles(),
            });
        }
        Ok(one_each(peers))
    }

    async fn routes(&self) -> Result<Vec<RouteInfo>> {
        let inner = &self.0;
        let peer_of = |link| inner.overlay.link(link).map(|link| link.member.node_id.to_string());
        let routes: Vec<_> = inner.overlay.view(|core| core.routes().cloned().collect());
        let mut out: Vec<RouteInfo> = routes
            .into_iter()
            .filter_map(|route| {
                Some(RouteInfo {
                    dest: route.node.to_string(),
                    name: inner.name_of(&route.node),
                    next_hop: peer_of(route.primary)?,
                    hops: u32::from(route.hops),
                    metric_ms: f64::from(route.metric_us) / 1e3,
                    alternates: route.alternates.as_slice().iter().copied().filter_map(peer_of).collect(),
                })
            })
            .collect();
        out.sort_by(|a, b| (&a.name, &a.dest).cmp(&(&b.name, &b.dest)));
        Ok(out)
    }

    async fn metrics_text(&self) -> Result<String> {
        Ok(super::metrics::text(&self.0))
    }

    async fn ready(&self) -> Result<()> {
        if let Some(error) = self.0.messages.store.health() {
            return Err(error.into());
        }
        Ok(())
    }

    async fn resolve(&self, node: String) -> Result<NodeRef> {
        let (node, name) = self.node(&node)?;
        Ok(NodeRef { node_id: node.to_string(), name })
    }

    async fn invite(&self, ttl: Duration, uses: u32) -> Result<Invite> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.invite_as(InviteRequest { ttl_ms, uses, roles: Vec::new(), attest: Vec::new() }).await
    }

    async fn ping(&self, request: PingRequest) -> Result<Events<PingEvent>> {
        let (node, _) = self.node(&request.node)?;
        let interval = Duration::try_from_secs_f64(request.interval_ms / 1e3).unwrap_or(Duration::ZERO);
        let valid = (1..=MAX_PINGS).contains(&request.count)
            && interval >= MIN_INTERVAL
            && request.size <= MAX_PING_SIZE;
        if !valid {
            let text = format!(
                "a ping run has 1 to {MAX_PINGS} pings, at least {MIN_INTERVAL:?} apart, of at most {MAX_PING_SIZE} bytes"
            );
            return Err(ApiError::new(ErrorCode::InvalidArgument, text));
        }
        let (lines, events) = mpsc::channel(LINES);
        let inner = self.0.clone();
        self.0.spawn(async move { ping(&inner, node, request, interval, &lines).await });
        Ok(events)
    }

    async fn trace(&self, node: String) -> Result<Trace> {
        let (node, name) = self.other(&node)?;
        trace(&self.0, node, &name).await
    }

    async fn send(&self, to: String, body: bytes::Bytes, timeout: Duration) -> Result<SendReceipt> {
        let (node, name) = self.other(&to)?;
        let receipt =
            self.0.messages.send(node, body, timeout).await.map_err(|error| send_error(error, &name))?;
        Ok(SendReceipt { id: receipt.id.to_string(), acked_ms: ms(receipt.after) })
    }

    async fn unread(&self) -> Result<Vec<Received>> {
        let limit = TakeLimit { messages: UNREAD, bytes: MAX_UNREAD_BATCH };
        let rows = self.0.messages.store.unread(0, limit).await?;
        Ok(rows.into_iter().map(|row| received(&self.0, row)).collect())
    }

    async fn consume(&self, messages: Vec<MessageRef>) -> Result<()> {
        let parse = |message: &MessageRef| Some((message.from.parse().ok()?, message.id.parse().ok()?));
        let named = messages.iter().filter_map(parse).collect();
        Ok(messages::consume(&self.0, named).await?)
    }

    async fn follow(&self) -> Result<Events<Received>> {
        let (lines, events) = mpsc::channel(LINES);
        let inner = self.0.clone();
        self.0.spawn(async move {
            let store = &inner.messages.store;
            let mut arrivals = store.arrivals();
            let mut after = 0;
            loop {
                arrivals.borrow_and_update();
                let limit = TakeLimit { messages: UNREAD, bytes: MAX_UNREAD_BATCH };
                let rows = match store.unread(after, limit).await {
                    Ok(rows) => rows,
                    Err(error) => {
                        let _ = lines.send(Err(error.into())).await;
                        return;
                    }
                };
                let more = !rows.is_empty();
                for row in rows {
                    after = row.arrival;
                    if lines.send(Ok(received(&inner, row))).await.is_err() {
                        return;
                    }
                }
                if more {
                    continue;
                }
                tokio::select! {
                    changed = arrivals.changed() => if changed.is_err() { return },
                    () = lines.closed() => return,
                }
            }
        });
        Ok(events)
    }

    async fn serve_add(&self, name: String, tcp: String) -> Result<ServiceInfo> {
        if !valid_service(&name) {
            let error = ApiError::new(ErrorCode::InvalidArgument, format!("`{name}` can't name a service"));
            return Err(error
                .hint("a name is 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit"));
        }
        if tcp.parse::<PeerAddr>().is_err() {
            let error = ApiError::new(ErrorCode::InvalidArgument, format!("`{tcp}` is no TCP address"));
            return Err(error.hint("give HOST:PORT, such as 127.0.0.1:22"));
        }
        self.0.messages.store.put(Bucket::Services, &name, &tcp).await?;
        if !self.0.services.add(name.clone(), tcp) {
            self.0.messages.store.remove(Bucket::Services, &name).await?;
            let text = format!("this node offers {} services already", services::MAX_SERVICES);
            return Err(ApiError::new(ErrorCode::Busy, text).hint("remove one with `meshara serve --remove`"));
        }
        self.0.services.get(&name).ok_or_else(|| unknown_service(&name))
    }

    async fn serve_list(&self) -> Result<Vec<ServiceInfo>> {
        Ok(self.0.services.list())
    }

    async fn serve_remove(&self, name: String) -> Result<ServiceInfo> {
        let removed = self.0.services.remove(&name).ok_or_else(|| unknown_service(&name))?;
        self.0.messages.store.remove(Bucket::Services, &name).await?;
        Ok(removed)
    }

    async fn connect(&self, request: ConnectRequest) -> Result<Events<ConnectEvent>> {
        let (node, name) = self.other(&request.node)?;
        let addr: SocketAddr = request.listen.parse().map_err(|_| {
            let error =
                ApiError::new(ErrorCode::InvalidArgument, format!("`{}` is no TCP address", request.listen));
            error.hint("give IP:PORT, such as 127.0.0.1:2222")
        })?;
        if !valid_service(&request.service) {
            return Err(unknown_service(&request.service));
        }
        let listener = TcpListener::bind(addr).await.map_err(|error| {
            let code = match error.kind() {
                std::io::ErrorKind::AddrInUse => ErrorCode::AddressInUse,
                std::io::ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
                _ => ErrorCode::Io,
            };
            ApiError::new(code, format!("can't listen on {addr}: {error}"))
                .hint("choose another --listen address")
        })?;
        let listen = listener.local_addr().unwrap_or(addr).to_string();
        let (lines, events) = mpsc::channel(LINES);
        let info = ConnectInfo { listen, node_id: node.to_string(), name, service: request.service.clone() };
        let _ = lines.try_send(Ok(ConnectEvent::Listening(info)));
        let sessions = self.0.sessions.clone();
        self.0.spawn(services::listen(sessions, listener, node, request.service, lines));
        Ok(events)
    }

    async fn bench(&self, request: BenchRequest) -> Result<Events<BenchEvent>> {
        let (node, name) = self.other(&request.node)?;
        let duration = Duration::from_millis(request.duration_ms);
        let valid = (1..=bench::MAX_STREAMS).contains(&request.streams)
            && duration >= Duration::from_millis(100)
            && duration <= bench::MAX_DURATION;
        if !valid {
            let text = format!("a run takes 100 ms to 1 h and 1 to {} streams", bench::MAX_STREAMS);
            return Err(ApiError::new(ErrorCode::InvalidArgument, text));
        }
        let (lines, events) = mpsc::channel(LINES);
        let inner = self.0.clone();
        self.0.spawn(async move {
            let last = match bench::run(&inner.sessions, node, duration, request.streams, &lines).await {
                Ok(measured) => {
                    let (path, hops) = path_to(&inner, node);
                    Ok(BenchEvent::Result(BenchResult {
                        gbit_s: gigabits(measured.bytes, measured.elapsed),
                        streams: request.streams,
                        duration_s: measured.elapsed.as_secs_f64(),
                        path,
                        hops,
                    }))
                }
                Err(error) => Err(session_error(&error, &name)),
            };
            let _ = lines.send(last).await;
        });
        Ok(events)
    }

    async fn doctor(&self) -> Result<DoctorFacts> {
        let inner = &self.0;
        let clocks = super::clock::ask(inner).await;
        let wire = inner.endpoints.plane().wire();
        let buffers = wire.buffer_sizes().ok();
        let linked: Vec<SocketAddr> = inner.overlay.links().iter().map(|link| link.hop.remote()).collect();
        let configured = inner.configured.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let peers = configured.iter().map(|known| {
            let connected = known.addrs.iter().any(|addr| linked.contains(addr));
            ConfiguredPeer {
                addr: known.peer.to_string(),
                connected,
                last_error: known.last_error.clone().filter(|_| !connected),
            }
        });
        Ok(DoctorFacts {
            now: Timestamp::from_unix_ms(UnixMillis::now().0),
            pid: std::process::id(),
            listen: vec![inner.bound.to_string()],
            recv_buffer: buffers.map(|(receive, _)| receive as u64),
            send_buffer: buffers.map(|(_, send)| send as u64),
            gso_segments: Some(wire.gso_segments() as u64),
            gro_segments: Some(wire.gro_segments() as u64),
            certificate_expires_at: Some(timestamp(inner.certificate_end())),
            certificate_renews_at: Some(timestamp(standing::renews_at(&inner.standing.member()))),
            clocks,
            configured_peers: peers.collect(),
        })
    }

    async fn add_peer(&self, addr: String) -> Result<()> {
        let peer: PeerAddr = addr.parse().map_err(|error: crate::config::PeerAddrError| {
            ApiError::new(ErrorCode::InvalidArgument, error.to_string())
        })?;
        super::remember_peers(&self.0.messages.store, std::slice::from_ref(&peer)).await?;
        self.0.keep_peer(peer).await;
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        self.0.stop.send_replace(true);
        Ok(())
    }
}

/// The only key exchange that links are made with; see `meshara_transport::tls`.
const KEX: &str = "X25519MLKEM768";
/// The only signature algorithm of certificates.
const AUTH: &str = "ML-DSA-65";

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(super) fn timestamp(at: UnixMillis) -> Timestamp {
    Timestamp::from_unix_ms(at.0)
}

/// A neighbour that failed. There is no link to measure: nothing gets through.
fn down(now: Duration, lost: LostView) -> PeerInfo {
    PeerInfo {
        node_id: lost.node.to_string(),
        name: lost.name.unwrap_or_default(),
        addr: lost.addr.map(|addr| addr.to_string()).unwrap_or_default(),
        state: PeerState::Down,
        rtt_ms: None,
        loss: 1.0,
        kex: KEX.to_owned(),
        auth: AUTH.to_owned(),
        since_s: now.saturating_sub(lost.since).as_secs(),
        tx_bytes: 0,
        rx_bytes: 0,
        rate_mbit_s: None,
        tier: None,
        window_bytes: None,
        cwnd_bytes: None,
        mtu: None,
        dialled: lost.dialled_by_us,
        roles: Vec::new(),
    }
}

/// One entry a neighbour, by name: of two links to one neighbour the better one is shown, of equal ones the first.
fn one_each(mut peers: Vec<PeerInfo>) -> Vec<PeerInfo> {
    let rank = |peer: &PeerInfo| match peer.state {
        PeerState::Up => 0,
        PeerState::Suspect => 1,
        PeerState::Down => 2,
    };
    peers.sort_by(|a, b| (&a.node_id, rank(a)).cmp(&(&b.node_id, rank(b))));
    peers.dedup_by(|a, b| a.node_id == b.node_id);
    peers.sort_by(|a, b| (&a.name, &a.node_id).cmp(&(&b.name, &b.node_id)));
    peers
}

fn received(inner: &Inner, row: InboxRow) -> Received {
    let body = match String::from_utf8(row.body.to_vec()) {
        Ok(text) => Body::Text(text),
        Err(bytes) => Body::Base64(BASE64.encode(bytes.as_bytes())),
    };
    Received {
        id: row.id.to_string(),
        from: row.from.to_string(),
        from_name: inner.name_of(&row.from),
        sent_at: Timestamp::from_unix_ms(row.sent_at_unix_ms),
        body,
    }
}

/// How frames to a node travel now.
fn path_to(inner: &Inner, node: NodeId) -> (PathKind, u32) {
    let address = inner.endpoints.address_of(&node);
    let table = inner.endpoints.plane().table();
    if table.direct(&address).is_some() {
        return (PathKind::Direct, 1);
    }
    match table.lookup(&address).map(|route| u32::from(route.hops)) {
        Some(1) => (PathKind::Direct, 1),
        Some(hops) => (PathKind::Relayed, hops),
        None => (PathKind::Relayed, 0),
    }
}

/// Sends pings on time and reports replies, then the summary.
async fn ping(
    inner: &Inner,
    node: NodeId,
    request: PingRequest,
    interval: Duration,
    lines: &mpsc::Sender<Result<PingEvent>>,
) {
    let to = inner.endpoints.address_of(&node);
    let Some(mut run) = inner.echoes.run() else {
        let _ =
            lines.send(Err(ApiError::new(ErrorCode::Busy, "too many pings and traces are under way"))).await;
        return;
    };
    let ourselves = node == inner.member.node_id;
    let start = Instant::now();
    let mut sent_at = Vec::<Instant>::new();
    let mut answered = Vec::<bool>::new();
    let (mut rtts, mut last, mut gap) = (Vec::<f64>::new(), start, Duration::ZERO);
    let mut end = None;
    loop {
        let next = start + interval.saturating_mul(u32::try_from(sent_at.len()).unwrap_or(u32::MAX));
        let wake = end.unwrap_or(next);
        tokio::select! {
            biased;
            answer = run.answers.recv() => {
                let Some(answer) = answer else { break };
                if let Some(rule) = &answer.denied {
                    let _ = lines.send(Err(denied(&inner.name_of(&node), rule))).await;
                    return;
                }
                let place = answer.seq as usize;
                let (Some(sent), Some(seen)) = (sent_at.get(place), answered.get_mut(place)) else { continue };
                if !answer.arrived || std::mem::replace(seen, true) {
                    continue;
                }
                let rtt = answer.at.saturating_duration_since(*sent);
                gap = gap.max(answer.at.saturating_duration_since(last));
                last = last.max(answer.at);
                rtts.push(ms(rtt));
                let reply = PingReply { seq: answer.seq, rtt_ms: ms(rtt), hops: u32::from(answer.hops) };
                if lines.send(Ok(PingEvent::Reply(reply))).await.is_err() {
                    return;
                }
                if end.is_some() && answered.last() == Some(&true) {
                    if rtts.len() == sent_at.len() {
                        break;
                    }
                    // Earlier ones that are still missing were overtaken: lost, or about to come.
                    end = end.min(Some(answer.at + rtt * 2 + STRAGGLERS));
                }
            }
            () = lines.closed() => return,
            () = tokio::time::sleep_until(wake.into()) => {
                if end.is_some() {
                    break;
                }
                let seq = u32::try_from(sent_at.len()).unwrap_or(u32::MAX);
                let now = Instant::now();
                sent_at.push(now);
                answered.push(false);
                if ourselves {
                    run.answer(Answer { from: to, seq, hops: 0, arrived: true, denied: None, at: now });
                } else {
                    run.send(to, seq, DEFAULT_TTL, request.size as usize);
                }
                if sent_at.len() as u64 >= u64::from(request.count) {
                    end = Some(now + PING_WAIT);
                }
            }
        }
    }
    // Silence after the last reply counts if something sent since then is unanswered.
    let silent = sent_at.iter().zip(&answered).any(|(sent, answered)| !answered && *sent > last);
    if silent || rtts.is_empty() {
        gap = gap.max(Instant::now().saturating_duration_since(last));
    }
    let summary = PingSummary {
        sent: u32::try_from(sent_at.len()).unwrap_or(u32::MAX),
        received: u32::try_from(rtts.len()).unwrap_or(u32::MAX),
        p50_ms: percentile(&mut rtts, 0.50),
        p99_ms: percentile(&mut rtts, 0.99),
        longest_gap_ms: ms(gap),
    };
    let _ = lines.send(Ok(PingEvent::Summary { summary })).await;
}

/// The value that a share of all lies at or below (nearest rank).
fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1).min(values.len().checked_sub(1)?)).copied()
}

/// Echoes with every time to live, all at once; the answers make up the path.
async fn trace(inner: &Inner, node: NodeId, name: &str) -> Result<Trace> {
    let to = inner.endpoints.address_of(&node);
    let busy = || ApiError::new(ErrorCode::Busy, "too many pings and traces are under way");
    let unreachable = || {
        let error = ApiError::new(ErrorCode::Unreachable, format!("no route leads to {name} now"));
        error.hint("see `meshara routes` and `meshara peers`")
    };
    let expected =
        inner.endpoints.plane().table().lookup(&to).map(|route| route.hops).ok_or_else(unreachable)?;
    let mut run = inner.echoes.run().ok_or_else(busy)?;
    // Two more than the route has, should the path be changing.
    let most = u8::try_from(expected).unwrap_or(DEFAULT_TTL).saturating_add(2).min(DEFAULT_TTL);
    let mut hops = vec![None::<(NodeId, f64)>; usize::from(most)];
    let mut arrived: Option<usize> = None;
    for _attempt in 0..3 {
        let start = Instant::now();
        let missing: Vec<u8> =
            (1..=most).filter(|ttl| hops.get(usize::from(*ttl) - 1).is_some_and(Option::is_none)).collect();
        for ttl in missing {
            if !run.send(to, u32::from(ttl), ttl, 0) {
                return Err(unreachable());
            }
        }
        let deadline = start + TRACE_WAIT;
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline.into(), run.answers.recv()).await {
            if let Some(rule) = &answer.denied {
                if answer.from == to {
                    return Err(denied(name, rule));
                }
                continue; // a hop that doesn't show itself
            }
            let place = (answer.seq as usize).saturating_sub(1);
            let rtt = ms(answer.at.saturating_duration_since(start));
            let who = if answer.arrived { Some(node) } else { inner.node_at(answer.from) };
            if let (Some(slot), Some(who)) = (hops.get_mut(place), who) {
                slot.get_or_insert((who, rtt));
            }
            if answer.arrived {
                arrived = Some(arrived.map_or(place, |before| before.min(place)));
            }
            if arrived.is_some_and(|last| hops.iter().take(last + 1).all(Option::is_some)) {
                break;
            }
        }
        if arrived.is_some_and(|last| hops.iter().take(last + 1).all(Option::is_some)) {
            break;
        }
    }
    let Some(last) = arrived else {
        let error = ApiError::new(ErrorCode::Timeout, format!("{name} did not answer"));
        return Err(error.hint("it may be stopped or just failing over; try again"));
    };
    let hops = hops.into_iter().take(last + 1).map(|hop| match hop {
        Some((who, rtt)) => {
            TraceHop { node_id: who.to_string(), name: inner.name_of(&who), rtt_ms: Some(rtt) }
        }
        None => TraceHop { node_id: String::new(), name: String::new(), rtt_ms: None },
    });
    Ok(Trace { hops: hops.collect() })
}

/// A node's policy denies something.
fn denied(name: &str, rule: &str) -> ApiError {
    ApiError::new(ErrorCode::Denied, format!("{name}: denied by the rule `{rule}` of that node's policy"))
        .hint("`meshara policy check` says why, `meshara policy show` shows the rules")
}

fn unknown_service(name: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownService, format!("no service is called {name}"))
        .hint("`meshara serve --list` shows what this node offers")
}

fn send_error(error: SendError, name: &str) -> ApiError {
    let text = error.to_string();
    match error {
        SendError::Submit(SubmitError::TooLarge { .. }) => {
            ApiError::new(ErrorCode::TooLarge, text).hint("send it in parts, or through a service")
        }
        SendError::Submit(SubmitError::Store(_)) => {
            ApiError::new(ErrorCode::DiskFull, text).hint("free some space; the node goes on by itself")
        }
        SendError::Submit(_) => {
            ApiError::new(ErrorCode::Busy, text).hint("wait until earlier messages are delivered")
        }
        SendError::Timeout { .. } => ApiError::new(ErrorCode::Timeout, format!("{name}: {text}"))
            .hint("it is delivered when the receiver can be reached; `meshara status` shows the outbox"),
        SendError::Denied { .. } => ApiError::new(ErrorCode::Denied, format!("{name}: {text}"))
            .hint("`meshara policy check` says why; the message is delivered once the policy allows it"),
        SendError::Stopping => ApiError::new(ErrorCode::ShuttingDown, text)
            .hint("start the node again with `meshara up`, then send it again"),
        _ => ApiError::new(ErrorCode::Timeout, text),
    }
}

fn session_error(error: &SessionError, name: &str) -> ApiError {
    let code = match error {
        SessionError::Denied { rule } => return denied(name, rule),
        SessionError::Stale(_) => ErrorCode::Stale,
        SessionError::TooMany => ErrorCode::Busy,
        _ => ErrorCode::Unreachable,
    };
    ApiError::new(code, format!("{name}: {error}")).hint("see `meshara routes`, then `meshara trace`")
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        let code = match error {
            ResolveError::Empty => ErrorCode::InvalidArgument,
            ResolveError::Unknown(_) => ErrorCode::UnknownNode,
            ResolveError::Ambiguous { .. } => ErrorCode::AmbiguousNode,
        };
        Self::new(code, error.to_string())
            .hint("`meshara routes` lists the nodes; give a name or a longer prefix")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::DiskFull { .. } => ErrorCode::DiskFull,
            StoreError::Damaged { .. } => ErrorCode::DamagedFile,
            StoreError::NewerVersion { .. } => ErrorCode::NewerVersion,
            StoreError::InUse { .. } => ErrorCode::AlreadyRunning,
            StoreError::TooManyRecords { .. } => ErrorCode::Busy,
            StoreError::RecordTooLarge { .. } => ErrorCode::TooLarge,
            StoreError::Stopped => ErrorCode::ShuttingDown,
            _ => ErrorCode::Io,
        };
        // These errors say what is wrong, then after a semicolon what to do.
        let text = error.to_string();
        match text.rsplit_once("; ") {
            Some((message, hint)) => Self::new(code, message).hint(hint),
            None => Self::new(code, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(percentile(&mut [], 0.5), None);
        assert_eq!(percentile(&mut [3.0], 0.99), Some(3.0));
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), Some(50.0));
        assert_eq!(percentile(&mut values, 0.99), Some(99.0));
    }

    #[test]
    fn a_neighbour_with_two_links_is_listed_once() {
        let peer = |name: &str, id: &str, state| PeerInfo {
            node_id: id.to_owned(),
            name: name.to_owned(),
            addr: String::new(),
            state,
            rtt_ms: None,
            loss: 0.0,
            kex: String::new(),
            auth: String::new(),
            since_s: 0,
            tx_bytes: 0,
            rx_bytes: 0,
            rate_mbit_s: None,
            tier: None,
            window_bytes: None,
            cwnd_bytes: None,
            mtu: None,
            dialled: true,
            roles: Vec::new(),
        };
        let peers = one_each(vec![
            peer("", "3", PeerState::Down), // lost before its name was known
            peer("carol", "3", PeerState::Suspect),
            peer("bob", "2", PeerState::Down),
            peer("carol", "3", PeerState::Up),
            peer("bob", "1", PeerState::Up),
            peer("bob", "2", PeerState::Suspect),
        ]);
        let listed: Vec<_> = peers.iter().map(|peer| (peer.node_id.as_str(), peer.state)).collect();
        assert_eq!(listed, [("1", PeerState::Up), ("2", PeerState::Suspect), ("3", PeerState::Up)]);
    }
}
