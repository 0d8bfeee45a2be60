//! A small HTTP client for a node's Unix socket: polling it starts no process, which would disturb 10 ms timers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A stopped node accepts connections in its kernel backlog and answers nothing.
const WAIT: Duration = Duration::from_secs(2);

/// Largest answer read: metrics and routes of a few hundred nodes are far smaller.
const MAX_ANSWER: u64 = 16 << 20;

/// Asks with GET; the body as text.
pub(crate) fn get(socket: &Path, path: &str) -> Result<String> {
    ask(socket, "GET", path, "", WAIT)
}

/// Asks with POST, which may take `within`; the body as text.
pub(crate) fn post(socket: &Path, path: &str, request: &Value, within: Duration) -> Result<String> {
    ask(socket, "POST", path, &request.to_string(), within)
}

fn ask(socket: &Path, method: &str, path: &str, request: &str, within: Duration) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(WAIT))?;
    // One write: a head by itself would wake the node twice.
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        request.len()
    );
    stream.write_all(&[head.as_bytes(), request.as_bytes()].concat())?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER)
        .read_to_end(&mut answer)
        .with_context(|| format!("no answer to {method} {path}"))?;
    let (status, body) = parse(&answer).with_context(|| format!("{method} {path}"))?;
    let body = String::from_utf8_lossy(&body).into_owned();
    if status != 200 {
        bail!("{method} {path}: status {status}: {body}");
    }
    Ok(body)
}

/// Asks with GET; the body as JSON.
pub(crate) fn get_json(socket: &Path, path: &str) -> Result<Value> {
    serde_json::from_str(&get(socket, path)?).with_context(|| format!("GET {path}: not JSON"))
}

/// Status and body of an answer that ends with its connection.
fn parse(answer: &[u8]) -> Result<(u16, Vec<u8>)> {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("an answer without an end of its headers")?;
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status =
        head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let chunked = head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    Ok((status, if chunked { unchunk(body)? } else { body.to_vec() }))
}

/// Joins the chunks of a body (RFC 9112, section 7.1).
fn unchunk(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut joined = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n").context("a chunk without a size")?;
        let size = body.get(..line).and_then(|size| std::str::from_utf8(size).ok()).unwrap_or_default();
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .context("the size of a chunk is not a number")?;
        if size == 0 {
            return Ok(joined);
        }
        joined.extend_from_slice(body.get(line + 2..line + 2 + size).context("a chunk that is cut")?);
        body = body.get(line + 2 + size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_plain_and_in_chunks() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(parse(plain).unwrap(), (200, b"hi".to_vec()));
        let chunked = b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), (503, b"abc0123456789".to_vec()));
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab").is_err());
    }
}
