//! A node in memory, for the server and the client to speak about.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use meshara::api::{
    AdmissionControl, AllowedNode, ApiError, BenchEvent, BenchProgress, BenchRequest, Body, ConnectEvent,
    ConnectInfo, ConnectRequest, Control, DoctorFacts, ErrorCode, Events, FederationInfo, FederationRequest,
    IdInfo, InterfaceControl, Invite, InviteRequest, IssuerAdded, IssuerInfo, IssuerRequest, JoinApplication,
    JoinDecision, LogStatus, MessageRef, NameInfo, NodeRef, NodeRevoked, OwnCertificate, PeerInfo, PeerState,
    PingEvent, PingReply, PingRequest, PingSummary, PolicyApplied, PolicyCheck, PolicyCheckRequest,
    PolicyControl, PolicyInfo, PolicyRequest, Received, ReinstateRequest, Result, RevokeRequest,
    RolesChanged, RolesRequest, RouteInfo, SendReceipt, ServiceInfo, Status, Timestamp, Trace, TraceHop,
    TrustControl, TrustStatus, WorkloadControl, WorkloadInfo, WorkloadRequest,
};
use tokio::sync::{mpsc, watch};

#[derive(Default)]
pub(crate) struct TestNode {
    inbox: Mutex<Vec<Received>>,
    followers: Mutex<Vec<mpsc::Sender<Result<Received>>>>,
    services: Mutex<BTreeMap<String, ServiceInfo>>,
    sent: AtomicUsize,
    pub(crate) disconnected: watch::Sender<bool>,
}

impl TestNode {
    pub(crate) fn deliver(&self, id: &str, body: Body) {
        let message = Received {
            id: id.into(),
            from: "b0b".into(),
            from_name: "bob".into(),
            sent_at: Timestamp::from_unix_ms(1),
            body,
        };
        for follower in self.followers.lock().unwrap().iter() {
            follower.try_send(Ok(message.clone())).unwrap();
        }
        self.inbox.lock().unwrap().push(message);
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

pub(crate) fn status() -> Status {
    Status {
        node_id: "a11ce".into(),
        name: "alice".into(),
        mesh: "lab".into(),
        spiffe_id: "spiffe://lab/node/alice".into(),
        mesh_address: "fd00::1".into(),
        version: "0.1.0".into(),
        uptime_s: 3,
        listen: vec!["0.0.0.0:6374".into()],
        neighbours: 1,
        nodes_known: 1,
        sessions: 0,
        certificate_expires_at: Some(Timestamp::from_unix_ms(1_700_000_000_000)),
        issuer: true,
        unread: 0,
        outbox: 0,
        tun: None,
        dns: None,
    }
}

pub(crate) fn phase() -> meshara::api::PhaseInfo {
    let predicate = meshara::api::GatePredicate {
        what: "members".into(),
        value: 1,
        need: "at least 2".into(),
        holds: false,
    };
    meshara::api::PhaseInfo {
        phase: 0,
        name: "founder's key".into(),
        version: 1,
        next: Some(1),
        next_name: Some("tickets and logged certificates".into()),
        ready: false,
        gate: vec![predicate],
    }
}

pub(crate) fn trust_status() -> TrustStatus {
    let at = Timestamp::from_unix_ms(1_700_000_000_000);
    TrustStatus {
        phase: 1,
        mesh_id: "ff".into(),
        roots: 1,
        issuers: vec![IssuerInfo {
            node_id: "a11ce".into(),
            name: "alice".into(),
            number: 1,
            not_after: at,
            this_node: true,
            log_forked: false,
        }],
        log: LogStatus { size: 7, head: Some("00".into()), witnesses: 2 },
        certificate: OwnCertificate {
            serial: "40".into(),
            not_before: at,
            not_after: at,
            renews_at: at,
            issuer: "a11ce".into(),
            issuer_name: "alice".into(),
            roles: vec!["ops".into()],
            witnesses: Some(2),
        },
        valid: true,
        enrolled_until: at,
        leaf_life_s: 3600,
        leaf_life_reason: "several issuers can renew".into(),
        revocations: 3,
        revoked: false,
        signers_heard_at: Some(at),
        stale: false,
    }
}

pub(crate) fn peer() -> PeerInfo {
    PeerInfo {
        node_id: "b0b".into(),
        name: "bob".into(),
        addr: "192.0.2.1:6374".into(),
        state: PeerState::Suspect,
        rtt_ms: None,
        loss: 0.25,
        kex: "X25519MLKEM768".into(),
        auth: "ML-DSA-65".into(),
        since_s: 1,
        tx_bytes: 2,
        rx_bytes: 3,
        rate_mbit_s: Some(941.5),
        tier: Some("1g".into()),
        window_bytes: Some(1 << 20),
        cwnd_bytes: Some(14720),
        mtu: Some(1452),
        dialled: true,
        roles: vec!["ops".into()],
    }
}

pub(crate) fn route() -> RouteInfo {
    RouteInfo {
        dest: "b0b".into(),
        name: "bob".into(),
        next_hop: "b0b".into(),
        hops: 1,
        metric_ms: 0.5,
        alternates: vec!["ca401".into()],
    }
}

pub(crate) fn unknown(node: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownNode, format!("no node is called `{node}`")).hint("see `meshara routes`")
}

fn known(node: &str) -> Result<()> {
    if node == "bob" { Ok(()) } else { Err(unknown(node)) }
}

impl PolicyControl for TestNode {
    async fn trust_revoke(&self, request: RevokeRequest) -> Result<NodeRevoked> {
        known(&request.node)?;
        Ok(NodeRevoked { number: 7, node_id: "b0b".into(), issuer: None })
    }

    async fn trust_reinstate(&self, request: ReinstateRequest) -> Result<NodeRevoked> {
        known(&request.node)?;
        Ok(NodeRevoked { number: 8, node_id: "b0b".into(), issuer: None })
    }

    async fn trust_roles(&self, request: RolesRequest) -> Result<RolesChanged> {
        known(&request.node)?;
        Ok(RolesChanged { node_id: "b0b".into(), name: request.node, roles: request.add })
    }

    async fn policy_show(&self) -> Result<PolicyInfo> {
        Ok(PolicyInfo { number: 0, issued_at: None, rules: 0, text: "version = 1\n".into() })
    }

    async fn policy_apply(&self, request: PolicyRequest) -> Result<PolicyApplied> {
        Ok(PolicyApplied {
            number: request.text.len() as u64,
            rules: 1,
            added: vec!["a".into()],
            removed: Vec::new(),
            changed: Vec::new(),
            dry_run: request.dry_run,
        })
    }

    async fn policy_check(&self, request: PolicyCheckRequest) -> Result<PolicyCheck> {
        known(&request.node)?;
        Ok(PolicyCheck { allowed: false, rule: "default".into(), rules: Vec::new() })
    }
}

impl TrustControl for TestNode {
    async fn trust_status(&self) -> Result<TrustStatus> {
        Ok(trust_status())
    }

    async fn trust_renew(&self) -> Result<OwnCertificate> {
        Ok(trust_status().certificate)
    }

    async fn trust_issuer_add(&self, request: IssuerRequest) -> Result<IssuerAdded> {
        let IssuerRequest { node, propose } = request;
        if node != "bob" {
            return Err(ApiError::new(ErrorCode::UnknownNode, format!("no node called {node} is known")));
        }
        let not_after = Timestamp::from_unix_ms(1_800_000_000_000);
        let statement = propose.then(|| "c3RhdGVtZW50".to_owned());
        Ok(IssuerAdded { node_id: "b0b".into(), name: node, number: 1, not_after, statement })
    }
}

impl meshara::api::RootControl for TestNode {
    async fn trust_publish(
        &self,
        request: meshara::api::PublishRequest,
    ) -> Result<meshara::api::PublishedInfo> {
        let (statement, signatures) = request.files()?;
        assert_eq!(signatures, [b"signature".to_vec()]);
        let kind = String::from_utf8(statement).unwrap();
        Ok(meshara::api::PublishedInfo { kind, number: 2, known: false })
    }

    async fn trust_phase(&self) -> Result<meshara::api::PhaseInfo> {
        Ok(phase())
    }

    async fn trust_phase_advance(
        &self,
        request: meshara::api::AdvanceRequest,
    ) -> Result<meshara::api::PublishedInfo> {
        if request.instead {
            return Ok(meshara::api::PublishedInfo { kind: "root".into(), number: 2, known: false });
        }
        Err(ApiError::new(ErrorCode::GateClosed, "the gate of phase 1 is closed"))
    }
}

impl meshara::api::LogControl for TestNode {
    async fn trust_audit(&self) -> Result<meshara::api::AuditInfo> {
        Ok(meshara::api::AuditInfo { ok: true, entries: 7, ..Default::default() })
    }
}

impl AdmissionControl for TestNode {
    async fn invite_as(&self, request: InviteRequest) -> Result<Invite> {
        self.invite(Duration::from_millis(request.ttl_ms), request.uses).await
    }

    async fn join_requests(&self) -> Result<Vec<JoinApplication>> {
        Ok(Vec::new())
    }

    async fn join_decide(&self, decision: JoinDecision) -> Result<JoinApplication> {
        Err(ApiError::new(ErrorCode::UnknownNode, format!("there is no request `{}`", decision.request)))
    }

    async fn allowed_list(&self) -> Result<Vec<AllowedNode>> {
        Ok(Vec::new())
    }

    async fn allowed_add(&self, allowed: AllowedNode) -> Result<AllowedNode> {
        Ok(allowed)
    }

    async fn allowed_remove(&self, node_id: String) -> Result<AllowedNode> {
        Err(ApiError::new(ErrorCode::UnknownNode, format!("{node_id} is not on the list")))
    }
}

impl WorkloadControl for TestNode {
    async fn workload_add(&self, request: WorkloadRequest) -> Result<WorkloadInfo> {
        let WorkloadRequest { name, uid, exe } = request;
        Ok(WorkloadInfo { spiffe_id: format!("spiffe://lab/workload/alice/{name}"), name, uid, exe })
    }

    async fn workload_list(&self) -> Result<Vec<WorkloadInfo>> {
        Ok(Vec::new())
    }

    async fn workload_remove(&self, name: String) -> Result<WorkloadInfo> {
        Err(ApiError::new(ErrorCode::UnknownWorkload, format!("no workload `{name}` is registered")))
    }

    async fn trust_bundle(&self) -> Result<serde_json::Value> {
        Ok(serde_json::json!({ "keys": [] }))
    }

    async fn federation_add(&self, request: FederationRequest) -> Result<FederationInfo> {
        Ok(FederationInfo {
            trust_domain: request.trust_domain,
            x509_authorities: 1,
            jwt_authorities: 1,
            sequence: None,
            url: request.url,
            endpoint_id: request.endpoint_id,
            fetched_at: None,
            last_error: None,
        })
    }

    async fn federation_list(&self) -> Result<Vec<FederationInfo>> {
        Ok(Vec::new())
    }

    async fn federation_remove(&self, trust_domain: String) -> Result<FederationInfo> {
        Err(ApiError::new(ErrorCode::UnknownTrustDomain, trust_domain))
    }
}

impl InterfaceControl for TestNode {
    async fn names(&self) -> Result<Vec<NameInfo>> {
        Ok(vec![NameInfo {
            name: "alice".into(),
            dns: "alice.lab.mesh".into(),
            address: "fd00::1".into(),
            node_id: "a11ce".into(),
            spiffe_id: "spiffe://lab/node/alice".into(),
            reachable: true,
        }])
    }
}

impl Control for TestNode {
    async fn status(&self) -> Result<Status> {
        Ok(status())
    }

    async fn id(&self) -> Result<IdInfo> {
        Ok(IdInfo { node_id: "a11ce".into(), name: "alice".into(), mesh: "lab".into() })
    }

    async fn peers(&self) -> Result<Vec<PeerInfo>> {
        Ok(vec![peer()])
    }

    async fn routes(&self) -> Result<Vec<RouteInfo>> {
        Ok(vec![route()])
    }

    async fn metrics_text(&self) -> Result<String> {
        Ok("meshara_up 1\n# EOF\n".into())
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn resolve(&self, node: String) -> Result<NodeRef> {
        known(&node)?;
        Ok(NodeRef { node_id: "b0b".into(), name: node })
    }

    async fn invite(&self, ttl: Duration, uses: u32) -> Result<Invite> {
        let expires_at = Timestamp::from_unix_ms(u64::try_from(ttl.as_millis()).unwrap());
        Ok(Invite { ticket: "T".into(), expires_at, uses })
    }

    async fn ping(&self, request: PingRequest) -> Result<Events<PingEvent>> {
        known(&request.node)?;
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(async move {
            for seq in 0..request.count {
                tx.send(Ok(PingEvent::Reply(PingReply { seq, rtt_ms: 0.1, hops: 2 }))).await.unwrap();
            }
            let (sent, received) = (request.count, request.count);
            let summary =
                PingSummary { sent, received, p50_ms: Some(0.1), p99_ms: Some(0.1), longest_gap_ms: 1.0 };
            tx.send(Ok(PingEvent::Summary { summary })).await.unwrap();
        });
        Ok(rx)
    }

    async fn trace(&self, node: String) -> Result<Trace> {
        known(&node)?;
        let hop = |node_id: &str, rtt_ms| TraceHop { node_id: node_id.into(), name: String::new(), rtt_ms };
        Ok(Trace { hops: vec![hop("ca401", None), hop("b0b", Some(1.5))] })
    }

    async fn send(&self, to: String, body: Bytes, _timeout: Duration) -> Result<SendReceipt> {
        known(&to)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(SendReceipt { id: body.len().to_string(), acked_ms: 1.0 })
    }

    async fn unread(&self) -> Result<Vec<Received>> {
        Ok(self.inbox.lock().unwrap().clone())
    }

    async fn consume(&self, messages: Vec<MessageRef>) -> Result<()> {
        self.inbox.lock().unwrap().retain(|message| !messages.contains(&message.reference()));
        Ok(())
    }

    async fn follow(&self) -> Result<Events<Received>> {
        let (tx, rx) = mpsc::channel(16);
        self.followers.lock().unwrap().push(tx);
        Ok(rx)
    }

    async fn serve_add(&self, name: String, tcp: String) -> Result<ServiceInfo> {
        let service = ServiceInfo { name: name.clone(), tcp, connections: 0 };
        self.services.lock().unwrap().insert(name, service.clone());
        Ok(service)
    }

    async fn serve_list(&self) -> Result<Vec<ServiceInfo>> {
        Ok(self.services.lock().unwrap().values().cloned().collect())
    }

    async fn serve_remove(&self, name: String) -> Result<ServiceInfo> {
        let removed = self.services.lock().unwrap().remove(&name);
        removed.ok_or_else(|| ApiError::new(ErrorCode::UnknownService, format!("no service `{name}`")))
    }

    async fn connect(&self, request: ConnectRequest) -> Result<Events<ConnectEvent>> {
        known(&request.node)?;
        let (tx, rx) = mpsc::channel(16);
        let info = ConnectInfo {
            listen: request.listen,
            node_id: "b0b".into(),
            name: request.node,
            service: request.service,
        };
        let disconnected = self.disconnected.clone();
        tokio::spawn(async move {
            tx.send(Ok(ConnectEvent::Listening(info))).await.unwrap();
            tx.closed().await;
            disconnected.send_replace(true);
        });
        Ok(rx)
    }

    async fn bench(&self, request: BenchRequest) -> Result<Events<BenchEvent>> {
        known(&request.node)?;
        let (tx, rx) = mpsc::channel(16);
        let progress = BenchProgress { elapsed_s: 0.1, bytes: 1, gbit_s: 0.0 };
        tx.try_send(Ok(BenchEvent::Progress(progress))).unwrap();
        tx.try_send(Err(ApiError::new(ErrorCode::Unreachable, "bob has gone"))).unwrap();
        Ok(rx)
    }

    async fn doctor(&self) -> Result<DoctorFacts> {
        let mut facts = DoctorFacts::default();
        facts.pid = 7;
        Ok(facts)
    }

    async fn add_peer(&self, _addr: String) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
