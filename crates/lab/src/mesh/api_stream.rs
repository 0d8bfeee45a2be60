//! Connections to a node's Unix socket that stay: many requests one after the other, and answers that go on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Longest head of an answer and longest answer of one request.
const HEAD_MAX: usize = 16 << 10;
const ANSWER_MAX: usize = 1 << 20;

/// A node closes a connection on which no request came for 10 s. One that was idle for half of that is not used again: a request on it could
/// meet the close, and nobody would know whether the node had read it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// A connection for one request after the other.
#[derive(Debug)]
pub(crate) struct Kept {
    stream: BufReader<UnixStream>,
    used: Instant,
}

impl Kept {
    /// Connects; no answer may take longer than `within`.
    pub(crate) fn connect(socket: &Path, within: Duration) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        Ok(Self { stream: BufReader::new(stream), used: Instant::now() })
    }

    /// Whether it was idle for so long that the node may be about to close it.
    pub(crate) fn is_stale(&self) -> bool {
        self.used.elapsed() >= IDLE_MAX
    }

    /// Asks with POST; the body of the answer, which must be a success.
    pub(crate) fn post(&mut self, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // One write: a head by itself would wake the node twice.
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let head = Head::read(&mut self.stream)?;
        let mut answer = Vec::new();
        if head.chunked {
            Unchunked::new(&mut self.stream).take(ANSWER_MAX as u64).read_to_end(&mut answer)?;
        } else {
            ensure!(head.length <= ANSWER_MAX, "an answer of {} bytes", head.length);
            answer.resize(head.length, 0);
            self.stream.read_exact(&mut answer)?;
        }
        self.used = Instant::now();
        ensure!(head.status == 200, "status {}: {}", head.status, String::from_utf8_lossy(&answer).trim());
        Ok(answer)
    }
}

/// An answer that goes on, by lines, until [`Ender::end`].
pub(crate) type Lines = BufReader<Unchunked<BufReader<UnixStream>>>;

/// Ends a stream of lines from another thread.
#[derive(Debug)]
pub(crate) struct Ender(UnixStream);

impl Ender {
    /// Ends it: its reader sees the end.
    pub(crate) fn end(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Asks with GET for an answer that goes on.
pub(crate) fn lines(socket: &Path, path: &str) -> Result<(Lines, Ender)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    let ender = Ender(stream.try_clone()?);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader)?;
    ensure!(head.status == 200 && head.chunked, "GET {path}: status {}", head.status);
    Ok((BufReader::new(Unchunked::new(reader)), ender))
}

/// What matters of the head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> Result<Self> {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            let read = reader.by_ref().take(HEAD_MAX as u64).read_line(&mut text)?;
            if read == 0 || text.len() > HEAD_MAX {
                bail!("the answer has no end of its head");
            }
        }
        let text = text.to_ascii_lowercase();
        let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let length = field("content-length:").map_or(Ok(0), |length| length.trim().parse());
        Ok(Self {
            status: status.context("an answer without a status")?,
            length: length.context("the answer's length is no number")?,
            chunked: field("transfer-encoding:").is_some_and(|coding| coding.contains("chunked")),
        })
    }
}

/// Joins the chunks of a body as they come (RFC 9112, section 7.1).
#[derive(Debug)]
pub(crate) struct Unchunked<R> {
    reader: R,
    /// Bytes left of the present chunk.
    left: usize,
    begun: bool,
    ended: bool,
}

impl<R: BufRead> Unchunked<R> {
    fn new(reader: R) -> Self {
        Self { reader, left: 0, begun: false, ended: false }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.by_ref().take(HEAD_MAX as u64).read_line(&mut line)?;
        Ok(line)
    }
}

impl<R: BufRead> Read for Unchunked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            if self.begun {
                // The end of the chunk before.
                self.line()?;
            }
            self.begun = true;
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            self.left = usize::from_str_radix(size, 16)
                .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "a chunk without a size"))?;
            if self.left == 0 {
                self.line()?;
                self.ended = true;
            }
        }
        let want = self.left.min(into.len());
        let Some(into) = into.get_mut(..want).filter(|into| !into.is_empty()) else { return Ok(0) };
        let read = self.reader.read(into)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a chunk that is cut"));
        }
        self.left -= read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_idle_is_not_used_again() {
        let stream = BufReader::new(UnixStream::pair().unwrap().0);
        let mut kept = Kept { stream, used: Instant::now() };
        assert!(!kept.is_stale());
        kept.used = kept.used.checked_sub(IDLE_MAX).unwrap();
        assert!(kept.is_stale());
    }

    #[test]
    fn a_head_says_how_long_the_answer_is() {
        let read = |text: &str| Head::read(&mut text.as_bytes());
        let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nbody").unwrap();
        assert_eq!(plain, Head { status: 200, length: 12, chunked: false });
        let chunked = read("HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(chunked, Head { status: 503, length: 0, chunked: true });
        assert!(read("HTTP/1.1 200 OK\r\n").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn chunks_are_joined_wherever_they_were_cut() {
        let chunked = "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nHTTP/1.1";
        for size in [1, 2, 5, 100] {
            let mut source = BufReader::with_capacity(size, chunked.as_bytes());
            let mut joined = String::new();
            Unchunked::new(&mut source).read_to_string(&mut joined).unwrap();
            assert_eq!(joined, "abc0123456789");
            let mut rest = String::new();
            source.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "HTTP/1.1", "the next answer is not touched");
        }
        assert!(Unchunked::new("5\r\nab".as_bytes()).read_to_end(&mut Vec::new()).is_err());
        assert!(Unchunked::new("".as_bytes()).read_to_end(&mut Vec::new()).is_err());
    }
}
