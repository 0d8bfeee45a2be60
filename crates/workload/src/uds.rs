//! Connections of clients that name the socket's path as the authority of their requests.
//!
//! gRPC's C core (Python, C++, Ruby, PHP, since 1.57) and gRPC for Java and Swift send the path of a Unix socket as `:authority`. That is no
//! authority (RFC 9113, 8.3.1), and h2 ends such a stream. On a Unix socket the authority tells nothing, so the value that a client sends is
//! replaced before h2 sees it. Everything else passes as it came; what isn't understood is left for h2 to refuse.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client sends first (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Length, type, flags and stream of a frame (RFC 9113, 4.1).
const HEAD: usize = 9;
/// Longest frame that a server which didn't say otherwise takes (RFC 9113, 4.2). Longer ones are h2's to refuse.
const FRAME_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY: u32 = 1;
/// The same name spelt out, as the C core does.
const SPELT_OUT: &[u8] = b"\x0a:authority";
/// What takes the value's place. Its one byte is no more than any value has, so an entry of h2's dynamic table is never larger than the
/// client counts it (RFC 7541, 4.1): h2 evicts nothing that the client still refers to.
const NAME: u8 = b'w';
/// Read at once from the socket.
const CHUNK: usize = 4096;

/// A stream of frames from a client, as it comes in.
#[derive(Debug)]
struct Rewriter {
    /// So many bytes pass as they are.
    pass: usize,
    /// The beginning of a frame; at most [`HEAD`] and [`FRAME_MAX`].
    held: Vec<u8>,
}

impl Rewriter {
    fn new() -> Self {
        Self { pass: PREFACE, held: Vec::new() }
    }

    /// Takes what came, gives what is to be read.
    fn push(&mut self, mut bytes: &[u8], out: &mut VecDeque<u8>) {
        while !bytes.is_empty() {
            if self.pass > 0 {
                let (now, rest) = bytes.split_at(self.pass.min(bytes.len()));
                out.extend(now);
                self.pass -= now.len();
                bytes = rest;
                continue;
            }
            let wanted = self.wanted();
            let missing = wanted.saturating_sub(self.held.len());
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            if self.held.len() < wanted {
                return;
            }
            match head(&self.held) {
                Some((length, kind, _)) if kind != HEADERS || length > FRAME_MAX => {
                    self.pass = length;
                    out.extend(self.held.drain(..));
                }
                // More of it is wanted.
                Some((length, ..)) if self.held.len() < HEAD + length => {}
                _ => {
                    match renamed(&self.held) {
                        Some(frame) => out.extend(frame),
                        None => out.extend(self.held.iter()),
                    }
                    self.held.clear();
                }
            }
        }
    }

    /// How many bytes must be held before anything can be said.
    fn wanted(&self) -> usize {
        match head(&self.held) {
            Some((length, HEADERS, _)) if length <= FRAME_MAX => HEAD + length,
            _ => HEAD,
        }
    }
}

/// Length, type and flags of a frame.
fn head(frame: &[u8]) -> Option<(usize, u8, u8)> {
    let (&[a, b, c, kind, flags, ..], _) = frame.split_first_chunk::<HEAD>()?;
    Some((usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c), kind, flags))
}

/// A frame of headers with another authority; `None` when it has none, or isn't understood.
fn renamed(frame: &[u8]) -> Option<Vec<u8>> {
    let (_, _, flags) = head(frame)?;
    // A block that goes on in other frames has more than a client of this API sends.
    if flags & END_HEADERS == 0 {
        return None;
    }
    let mut payload = frame.get(HEAD..)?;
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    let (priority, block) = payload.split_at_checked(if flags & PRIORITY == 0 { 0 } else { 5 })?;
    let block = renamed_block(block)?;
    let length = u32::try_from(priority.len() + block.len()).ok()?.to_be_bytes();
    let mut made = length.get(1..)?.to_vec();
    made.extend([HEADERS, flags & !PADDED]);
    made.extend(frame.get(5..HEAD)?);
    made.extend(priority);
    made.extend(block);
    Some(made)
}

/// A block of header fields with another authority (RFC 7541, 6).
fn renamed_block(block: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut made, mut found) = (block, Vec::with_capacity(block.len()), false);
    while let Some(&first) = rest.first() {
        let begin = rest;
        // Indexed fields; then a change of the table's size; then literals, which have a value and perhaps a name.
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(&mut rest, bits)?;
        let mut named = index == AUTHORITY;
        if literal && index == 0 {
            let name = rest;
            string(&mut rest)?;
            named = name.get(..name.len() - rest.len()) == Some(SPELT_OUT);
        }
        let before = begin.len() - rest.len();
        let empty = literal && string(&mut rest)? == 0;
        if literal && named && !empty {
            made.extend(begin.get(..before)?);
            made.extend([1, NAME]);
            found = true;
        } else {
            made.extend(begin.get(..begin.len() - rest.len())?);
        }
    }
    found.then_some(made)
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
fn integer(rest: &mut &[u8], bits: u8) -> Option<u32> {
    let (first, mut tail) = rest.split_first()?;
    let full = (1 << bits) - 1;
    let mut value = u32::from(*first) & full;
    if value == full {
        // Three bytes more reach past every frame.
        for shift in [0, 7, 14] {
            let (next, after) = tail.split_first()?;
            tail = after;
            value += u32::from(next & 0x7f) << shift;
            if next & 0x80 == 0 {
                *rest = tail;
                return Some(value);
            }
        }
        return None;
    }
    *rest = tail;
    Some(value)
}

/// Passes over a string, whatever its coding; its length as it is coded (RFC 7541, 5.2).
fn string(rest: &mut &[u8]) -> Option<usize> {
    let length = usize::try_from(integer(rest, 7)?).ok()?;
    *rest = rest.get(length..)?;
    Some(length)
}

/// A connection from a client that may take the socket's path for an authority.
#[derive(Debug)]
pub(crate) struct Uds<S> {
    stream: S,
    rewriter: Rewriter,
    /// To be read: at most one chunk and one frame.
    ready: VecDeque<u8>,
}

impl<S> Uds<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, rewriter: Rewriter::new(), ready: VecDeque::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Uds<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The end; a frame that was cut off is the client's.
                this.ready.extend(this.rewriter.held.drain(..));
                break;
            }
            this.rewriter.push(chunk.filled(), &mut this.ready);
        }
        let (front, _) = this.ready.as_slices();
        let length = front.len().min(buffer.remaining());
        buffer.put_slice(front.get(..length).unwrap_or_default());
        this.ready.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Uds<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes out when the input comes in pieces of this size.
    fn passed(input: &[u8], piece: usize) -> Vec<u8> {
        let (mut rewriter, mut out) = (Rewriter::new(), VecDeque::new());
        for piece in input.chunks(piece) {
            rewriter.push(piece, &mut out);
        }
        out.extend(rewriter.held);
        out.into()
    }

    fn rewritten(frames: &[u8]) -> Vec<u8> {
        let input = [&[b'p'; PREFACE], frames].concat();
        let whole = passed(&input, input.len());
        for piece in 1..40 {
            assert_eq!(passed(&input, piece), whole, "in pieces of {piece}");
        }
        whole[PREFACE..].to_vec()
    }

    /// POST, the authority as a literal that is indexed, a new name with its value.
    fn block(authority: &[u8]) -> Vec<u8> {
        let length = u8::try_from(authority.len()).unwrap();
        [&[0x83, 0x3f, 0xe1, 0x1f, 0x41, length], authority, &[0x00, 2, b't', b'e', 1, b'x', 0xbe]].concat()
    }

    #[test]
    fn an_authority_is_replaced_and_nothing_else() {
        let path = b"%2Ftmp%2Fworkload.sock";
        let plain = frame(HEADERS, END_HEADERS, &block(b"w"));
        assert_eq!(rewritten(&frame(HEADERS, END_HEADERS, &block(path))), plain);
        let both = [0, 0, 0, 0, 7];
        let padded = [&[2][..], &both, &block(path), &[0, 0]].concat();
        assert_eq!(
            rewritten(&frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded)),
            frame(HEADERS, END_HEADERS | PRIORITY, &[&both[..], &block(b"w")].concat())
        );
        // Coded by Huffman, and not to be indexed.
        for first in [0x01, 0x11] {
            let coded = frame(HEADERS, END_HEADERS, &[first, 0x82, 0xff, 0xff]);
            assert_eq!(rewritten(&coded), frame(HEADERS, END_HEADERS, &[first, 1, b'w']));
        }
        // As the C core sends it.
        let spelt = |value: &[u8]| [b"\x40\x05:path\x01/\x40\x0a:authority", value, b"\x83\x86"].concat();
        assert_eq!(
            rewritten(&frame(HEADERS, END_HEADERS, &spelt(b"\x12tmp%2FD%2Fcap.sock"))),
            frame(HEADERS, END_HEADERS, &spelt(b"\x01w"))
        );
        // Frames before and after it, of other kinds.
        let data = frame(0, 1, &[0x41; 40]);
        let all = [&data[..], &frame(HEADERS, END_HEADERS, &block(path)), &data].concat();
        assert_eq!(rewritten(&all), [&data[..], &plain, &data].concat());
    }

    #[test]
    fn what_is_not_understood_passes() {
        for payload in
            [&block(b"")[..], &[0x83], &[], &[0x41], &[0x41, 9, b'x'], &[0x7f, 0xff, 0xff, 0xff, 1]]
        {
            let same = frame(HEADERS, END_HEADERS, payload);
            assert_eq!(rewritten(&same), same);
        }
        let goes_on = frame(HEADERS, 0, &block(b"/x"));
        assert_eq!(rewritten(&goes_on), goes_on);
        let bad_padding = frame(HEADERS, END_HEADERS | PADDED, &[200, 0x83]);
        assert_eq!(rewritten(&bad_padding), bad_padding);
        let long = frame(HEADERS, END_HEADERS, &[0x83; FRAME_MAX + 1]);
        assert_eq!(passed(&[&[0; PREFACE], &long[..]].concat(), 1000)[PREFACE..], long);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3_u8, flags: u8, piece in 1..50_usize) {
            let input = [&[0; PREFACE], &frame(kind, flags, &bytes)[..], &bytes].concat();
            prop_assert_eq!(passed(&input, piece), passed(&input, input.len()));
        }
    }
}
