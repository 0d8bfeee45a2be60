//! quinn as it comes, with the same certificates and congestion controller as a node: what Meshara's streams are measured against.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Subcommand;
use meshara_transport::quic::CongestionControl;
use meshara_transport::tls::{ALPN_SESSION, Expect, SERVER_NAME, Tls, TlsMaterial};
use quinn::{Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use serde_json::{Value, json};

use crate::exec;
use crate::mesh::node::Node;

/// Where the server listens, beside the node's own port.
const PORT: u16 = 6380;
/// Bytes given to the stream at once, as in the node's `bench`.
const CHUNK: usize = 256 << 10;
/// Windows as large as a session's largest, so that neither is limited by them.
const WINDOW: u32 = 32 << 20;
/// Congestion window at the start: ten packets, as RFC 9002 §7.2 has it.
const FIRST_WINDOW: u64 = 14_720;
/// Buffers of the UDP socket as a node asks for them.
const SOCKET_BUFFER: usize = meshara_transport::SOCKET_BUFFER;
/// What a client may take beyond its sending time: a window of 32 MiB at 10 Mbit/s, where a lossy link has slowed it so far.
const EXTRA: Duration = Duration::from_secs(60);

/// One end of a bare connection, as a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Takes connections and counts what comes, until killed
    Serve {
        /// Home of the node whose certificate it shows
        home: std::path::PathBuf,
        /// Where to listen
        listen: SocketAddr,
    },
    /// Sends for a while and prints the rate
    Send {
        /// Home of the node whose certificate it shows
        home: std::path::PathBuf,
        /// Where the server listens
        to: SocketAddr,
        /// How long
        seconds: u64,
    },
}

/// Runs one end.
pub(crate) fn run(role: &Role) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match role {
            Role::Serve { home, listen } => serve(&tls(home)?, *listen).await,
            Role::Send { home, to, seconds } => send(&tls(home)?, *to, Duration::from_secs(*seconds)).await,
        }
    })
}

fn tls(home: &Path) -> Result<Tls> {
    let identity = meshara_identity::home::load(home, None)?;
    Ok(Tls::new(&TlsMaterial::new(&identity.membership)?)?)
}

fn endpoint(listen: SocketAddr, server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let socket = std::net::UdpSocket::bind(listen)?;
    // As root the forced form passes net.core.rmem_max, as a node's does.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .congestion_controller_factory(CongestionControl::default().factory(FIRST_WINDOW));
    Arc::new(config)
}

async fn serve(tls: &Tls, listen: SocketAddr) -> Result<()> {
    let mut server = tls.session_server_config();
    server.transport_config(transport());
    let endpoint = endpoint(listen, Some(server))?;
    println!("listening");
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        tokio::spawn(async move {
            let (mut send, mut receive) = connection.accept_bi().await?;
            let mut chunks: [Bytes; 64] = std::array::from_fn(|_| Bytes::new());
            let mut total = 0_u64;
            while let Some(count) = receive.read_chunks(&mut chunks).await? {
                total += chunks.iter().take(count).map(|chunk| chunk.len() as u64).sum::<u64>();
            }
            send.write_all(&total.to_be_bytes()).await?;
            send.finish()?;
            connection.closed().await;
            anyhow::Ok(())
        });
    }
    Ok(())
}

async fn send(tls: &Tls, to: SocketAddr, duration: Duration) -> Result<()> {
    let endpoint = endpoint(SocketAddr::from(([0, 0, 0, 0], 0)), None)?;
    let mut config = tls.client_config(ALPN_SESSION, Expect::AnyMember);
    config.transport_config(transport());
    let connection = endpoint.connect_with(config, to, SERVER_NAME)?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let zeros = Bytes::from_static(&[0; CHUNK]);
    let start = Instant::now();
    let end = tokio::time::Instant::from_std(start + duration);
    while let Ok(written) = tokio::time::timeout_at(end, send.write_chunk(zeros.clone())).await {
        written?;
    }
    send.finish()?;
    let mut total = [0; 8];
    receive.read_exact(&mut total).await?;
    let elapsed = start.elapsed().as_secs_f64();
    let stats = connection.stats();
    println!(
        "{}",
        json!({
            "gbit_s": u64::from_be_bytes(total) as f64 * 8e-9 / elapsed,
            "mtu": stats.path.current_mtu,
            "lost_packets": stats.path.lost_packets,
        })
    );
    connection.close(0_u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts one in a node's host, with the node's certificate, on `address` of that host.
    pub(crate) fn start(node: &Node, address: std::net::IpAddr) -> Result<Self> {
        let address = SocketAddr::new(address, PORT);
        let lab = std::env::current_exe()?;
        let log = node.home.with_extension("quinn");
        let child = node
            .host
            .command(&lab.to_string_lossy())
            .args(["bare-quinn", "serve"])
            .arg(&node.home)
            .arg(address.to_string())
            .stdout(fs::File::create(&log)?)
            .stderr(Stdio::inherit())
            .spawn()?;
        let server = Self { child, address };
        let deadline = Instant::now() + EXTRA;
        while fs::read_to_string(&log)?.is_empty() {
            if Instant::now() > deadline {
                bail!("bare quinn does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Gbit/s of one stream from `node` for `seconds`.
    pub(crate) fn measure(&self, node: &Node, seconds: u64) -> Result<f64> {
        let lab = std::env::current_exe()?;
        let mut command = node.host.command(&lab.to_string_lossy());
        command.args(["bare-quinn", "send"]).arg(&node.home);
        command.arg(self.address.to_string()).arg(seconds.to_string());
        let output = exec::succeed(command, Duration::from_secs(seconds) + EXTRA)?;
        let value: Value = serde_json::from_str(&output).context("bare quinn printed no JSON")?;
        value.get("gbit_s").and_then(Value::as_f64).context("bare quinn printed no rate")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
