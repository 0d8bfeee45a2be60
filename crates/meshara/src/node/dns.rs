//! Answers DNS queries for the mesh's names, over UDP and TCP. Nothing is asked of anybody else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::Inner;
use super::names::Zones;

/// Largest query read. Those of this zone have 300 bytes at most, with room for EDNS options.
const MAX_QUERY: usize = 1232;
/// TCP connections at once; more wait in the kernel. Resolvers use one or two.
const CONNECTIONS: usize = 32;
/// A connection ends when no query came for this long (RFC 7766 §6.2.3 asks for seconds), or an answer isn't taken.
const SILENCE: Duration = Duration::from_secs(5);
/// Queries of one connection. Then it ends, so that nobody keeps a place for ever.
const QUERIES: usize = 1000;
/// Pause after the socket failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Ports tried for one that UDP and TCP have free, when the system chooses.
const TRIES: usize = 16;

/// The sockets of the responder.
#[derive(Debug)]
pub(crate) struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
    pub(crate) addr: SocketAddr,
}

impl Responder {
    /// Binds both sockets to one address.
    pub(crate) async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let mut tries = if addr.port() == 0 { TRIES } else { 1 };
        loop {
            tries -= 1;
            let tcp = TcpListener::bind(addr).await?;
            let bound = tcp.local_addr()?;
            match UdpSocket::bind(bound).await {
                Ok(udp) => return Ok(Self { udp, tcp, addr: bound }),
                Err(error) if tries == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Answers as long as the node runs.
pub(crate) async fn run(inner: Arc<Inner>, responder: Responder) {
    let zones = Arc::new(Zones::new());
    let Responder { udp, tcp, addr: _ } = responder;
    tokio::join!(serve_udp(&inner, &zones, udp), serve_tcp(&inner, &zones, tcp));
}

async fn serve_udp(inner: &Inner, zones: &Zones, socket: UdpSocket) {
    let mut query = vec![0; MAX_QUERY];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut query).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some(query) = query.get(..len) else { continue };
        if let Some(answer) = zones.now(inner).await.answer(query) {
            // The asker may have gone.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(inner: &Arc<Inner>, zones: &Arc<Zones>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(inner.clone(), zones.clone(), stream));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}

async fn serve_connection(inner: Arc<Inner>, zones: Arc<Zones>, mut stream: TcpStream) {
    for _ in 0..QUERIES {
        let answered = tokio::time::timeout(SILENCE, answer_one(&inner, &zones, &mut stream)).await;
        if !matches!(answered, Ok(Ok(true))) {
            return;
        }
    }
}

/// Answers one query; `false` when the connection is of no more use.
async fn answer_one(inner: &Inner, zones: &Zones, stream: &mut TcpStream) -> io::Result<bool> {
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_QUERY {
        return Ok(false);
    }
    let mut query = vec![0; len];
    stream.read_exact(&mut query).await?;
    let Some(answer) = zones.now(inner).await.answer(&query) else { return Ok(false) };
    let Ok(len) = u16::try_from(answer.len()) else { return Ok(false) };
    let framed = [len.to_be_bytes().as_slice(), &answer].concat();
    stream.write_all(&framed).await?;
    Ok(true)
}
