//! Copies bytes between a TCP connection and a stream of a session, both ways, with half-close and reset carried over.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes read from TCP at once. 256 KiB is a few milliseconds at 1 Gbit/s and amortises the system call.
const READ: usize = 256 << 10;
/// Stream error code that stands for a TCP reset.
pub(crate) const RESET: VarInt = VarInt::from_u32(1);

/// How one direction ended.
enum End {
    /// With an orderly end of stream.
    Finished,
    /// The TCP side was reset.
    TcpReset,
    /// The other node reset the stream, or it is gone.
    StreamReset,
}

/// Bytes carried: from TCP, to TCP.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    pub(crate) from_tcp: u64,
    pub(crate) to_tcp: u64,
}

/// Carries a connection until both directions have ended. A reset on either side resets the other.
pub(crate) async fn carry(tcp: TcpStream, send: SendStream, receive: RecvStream) -> Carried {
    let _ = tcp.set_nodelay(true);
    let (read, write) = tcp.into_split();
    let (mut carried, mut sending, mut receiving) = (Carried::default(), Some(()), Some(()));
    let mut out = Outward { read, send, bytes: 0 };
    let mut inward = Inward { write, receive, bytes: 0 };
    let mut reset = false;
    {
        let outward = out.run();
        let inward = inward.run();
        tokio::pin!(outward, inward);
        while (sending.is_some() || receiving.is_some()) && !reset {
            let end = tokio::select! {
                end = &mut outward, if sending.is_some() => { sending = None; end }
                end = &mut inward, if receiving.is_some() => { receiving = None; end }
            };
            reset = !matches!(end, End::Finished);
        }
    }
    carried.from_tcp = out.bytes;
    carried.to_tcp = inward.bytes;
    if reset {
        let _ = out.send.reset(RESET);
        let _ = inward.receive.stop(RESET);
        if let Ok(tcp) = out.read.reunite(inward.write) {
            // Zero linger makes the kernel send RST instead of FIN.
            let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
        }
    }
    carried
}

struct Outward {
    read: OwnedReadHalf,
    send: SendStream,
    bytes: u64,
}

impl Outward {
    async fn run(&mut self) -> End {
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            buffer.reserve(READ);
            let read = tokio::select! {
                read = self.read.read_buf(&mut buffer) => read,
                stopped = self.send.stopped() => {
                    // The far side reads no more: its TCP side was reset, or took all and ended.
                    return if matches!(stopped, Ok(None)) { End::Finished } else { End::StreamReset };
                }
            };
            match read {
                Ok(0) => {
                    let _ = self.send.finish();
                    return End::Finished;
                }
                Ok(count) => {
                    self.bytes += count as u64;
                    match self.send.write_chunk(buffer.split().freeze()).await {
                        Ok(()) => {}
                        Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_)) => {
                            return End::StreamReset;
                        }
                        Err(_) => return End::StreamReset,
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return End::TcpReset,
            }
        }
    }
}

struct Inward {
    write: OwnedWriteHalf,
    receive: RecvStream,
    bytes: u64,
}

impl Inward {
    async fn run(&mut self) -> End {
        let mut chunks: [Bytes; 32] = Default::default();
        loop {
            match self.receive.read_chunks(&mut chunks).await {
                Ok(Some(count)) => {
                    for chunk in chunks.iter_mut().take(count) {
                        let chunk = std::mem::take(chunk);
                        self.bytes += chunk.len() as u64;
                        if self.write.write_all(&chunk).await.is_err() {
                            return End::TcpReset;
                        }
                    }
                }
                Ok(None) => {
                    return if self.write.shutdown().await.is_ok() { End::Finished } else { End::TcpReset };
                }
                Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) | Err(_) => return End::StreamReset,
            }
        }
    }
}
