//! Copies bytes between a TCP connection and a stream of a session, both ways, with half-close and reset carried over.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes read from TCP at once. 256 KiB is a few milliseconds at 1 Gbit/s and amortises the system call.
const READ: usize = 256 << 10;
/// What is read in pieces smaller than this is copied, since each would keep a buffer of `READ` bytes until it is acknowledged.
const COPY_BELOW: usize = 16 << 10;
/// Chunks of a stream written to TCP at once. A chunk is what one packet brought, at most 15 KB; a call of its own for each costs more
/// than its copy, and wakes the reader each time. 32 are more than one receive brings.
const CHUNKS: usize = 32;
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
    carry_until(tcp, send, receive, std::future::pending()).await
}

/// As [`carry`], and resets both sides at `end`.
pub(crate) async fn carry_until(
    tcp: TcpStream,
    send: SendStream,
    receive: RecvStream,
    end: impl Future<Output = ()>,
) -> Carried {
    let _ = tcp.set_nodelay(true);
    let (read, write) = tcp.into_split();
    let (mut carried, mut sending, mut receiving) = (Carried::default(), Some(()), Some(()));
    let mut out = Outward { read, send, bytes: 0 };
    let mut inward = Inward { write, receive, bytes: 0 };
    let mut reset = false;
    {
        let outward = out.run();
        let inward = inward.run();
        tokio::pin!(outward, inward, end);
        while (sending.is_some() || receiving.is_some()) && !reset {
            let end = tokio::select! {
                end = &mut outward, if sending.is_some() => { sending = None; end }
                end = &mut inward, if receiving.is_some() => { receiving = None; end }
                () = &mut end => End::StreamReset,
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
                    let chunk = if count < COPY_BELOW {
                        let copy = Bytes::copy_from_slice(&buffer);
                        buffer.clear();
                        copy
                    } else {
                        buffer.split().freeze()
                    };
                    match self.send.write_chunk(chunk).await {
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
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        loop {
            match self.receive.read_chunks(&mut chunks).await {
                Ok(Some(count)) => {
                    let chunks = chunks.get_mut(..count).unwrap_or_default();
                    self.bytes += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
                    if write_all(&mut self.write, chunks).await.is_err() {
                        return End::TcpReset;
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

/// Writes the chunks whole, as many in one call as it takes, and lets go of each as soon as it is written.
async fn write_all(write: &mut (impl AsyncWriteExt + Unpin), chunks: &mut [Bytes]) -> io::Result<()> {
    let mut left = chunks;
    while !left.is_empty() {
        let mut slices = [IoSlice::new(&[]); CHUNKS];
        for (slice, chunk) in slices.iter_mut().zip(left.iter()) {
            *slice = IoSlice::new(chunk);
        }
        let mut written = write.write_vectored(&slices).await?;
        if written == 0 && left.iter().any(|chunk| !chunk.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut whole = 0;
        for chunk in left.iter_mut() {
            let taken = written.min(chunk.len());
            chunk.advance(taken);
            written -= taken;
            if !chunk.is_empty() {
                break;
            }
            *chunk = Bytes::new();
            whole += 1;
        }
        left = left.get_mut(whole..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::AsyncWrite;

    /// Takes at most so many bytes a call.
    struct Slow {
        most: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let (before, most) = (self.taken.len(), self.most);
            let bytes = slices.iter().flat_map(|slice| slice.iter()).take(most);
            self.taken.extend(bytes);
            Poll::Ready(Ok(self.taken.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn chunks_are_written_whole_and_in_order_however_little_a_call_takes() {
        let whole: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for most in [1, 7, 999, 1000, 1001, 20_000] {
            let mut chunks: Vec<Bytes> =
                whole.chunks(1000).map(Bytes::copy_from_slice).chain([Bytes::new()]).collect();
            let mut slow = Slow { most, taken: Vec::new() };
            write_all(&mut slow, &mut chunks).await.unwrap();
            assert_eq!(slow.taken, whole);
        }
    }

    #[tokio::test]
    async fn a_side_that_takes_nothing_is_an_error() {
        let mut slow = Slow { most: 0, taken: Vec::new() };
        let written = write_all(&mut slow, &mut [Bytes::from_static(b"x")]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
