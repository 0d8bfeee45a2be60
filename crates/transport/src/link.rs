//! A link's control stream: the hello that makes it, then length-prefixed messages of the overlay.

use std::net::SocketAddr;

use meshara_overlay::LinkKind;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// Version of the hello. A peer with another one is refused.
const VERSION: u8 = 1;
/// Longest control message in bytes: the overlay's largest record (16 KiB) or summary chunk with room to grow.
pub const MAX_CONTROL: usize = 64 << 10;
/// A hello is far shorter.
const MAX_HELLO: usize = 256;

/// Why the first messages of a link failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The TLS exporter gave no keys.
    #[error("the handshake gave no keys")]
    NoKeys,
    /// The neighbour speaks another version.
    #[error(
        "the neighbour speaks version {found} of the link protocol, this node {VERSION}: update the older one"
    )]
    Version {
        /// What it speaks.
        found: u8,
    },
    /// The bytes are no hello.
    #[error("the neighbour's hello is malformed")]
    Malformed,
    /// The stream broke.
    #[error("the control stream failed: {0}")]
    Stream(#[from] ControlStreamError),
}

impl HelloError {
    /// What the neighbour is told that has sent such a hello. None when it can't be told, or the fault isn't its.
    pub(crate) fn close_reason(&self) -> Option<String> {
        match self {
            Self::Version { found } => Some(format!(
                "version {found} of the link protocol is not known here, only version {VERSION}: update the older node"
            )),
            Self::Malformed => Some("the hello is malformed".to_owned()),
            Self::NoKeys | Self::Stream(_) => None,
        }
    }
}

/// Why a control message could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlStreamError {
    /// The message is longer than [`MAX_CONTROL`].
    #[error("a control message of {0} bytes exceeds {MAX_CONTROL}")]
    TooLong(usize),
    /// Writing failed: the link is gone.
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    /// Reading failed: the link is gone.
    #[error(transparent)]
    Read(#[from] quinn::ReadExactError),
}

impl ControlStreamError {
    /// Whether the stream broke because its connection ended.
    #[must_use]
    pub fn link_ended(&self) -> bool {
        self.end().is_some()
    }

    /// How the connection ended, if that is why the stream broke.
    pub(crate) fn end(&self) -> Option<&quinn::ConnectionError> {
        match self {
            Self::Write(quinn::WriteError::ConnectionLost(end))
            | Self::Read(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(end))) => {
                Some(end)
            }
            _ => None,
        }
    }
}

/// The first message of each side.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Hello {
    version: u8,
    /// The number that the other side must write into frames to this one.
    pub(crate) link: u32,
    direct: bool,
    /// The other side's address as this one sees it.
    pub(crate) observed: SocketAddr,
}

impl Hello {
    pub(crate) fn new(link: u32, kind: LinkKind, observed: SocketAddr) -> Self {
        Self { version: VERSION, link, direct: kind == LinkKind::Direct, observed }
    }

    pub(crate) fn kind(&self) -> LinkKind {
        if self.direct { LinkKind::Direct } else { LinkKind::Routing }
    }
}

/// Decodes a hello; public for the fuzz target.
#[doc(hidden)]
pub fn decode_hello(bytes: &[u8]) -> Result<(), HelloError> {
    parse_hello(bytes).map(|_| ())
}

fn parse_hello(bytes: &[u8]) -> Result<Hello, HelloError> {
    match bytes.first() {
        Some(&VERSION) => {}
        Some(&found) => return Err(HelloError::Version { found }),
        None => return Err(HelloError::Malformed),
    }
    let hello = postcard::from_bytes(bytes).map_err(|_| HelloError::Malformed)?;
    // postcard takes longer spellings of a number and ignores what follows; the wire form is the one that it writes.
    let canonical = postcard::to_allocvec(&hello).is_ok_and(|canonical| canonical == bytes);
    if canonical { Ok(hello) } else { Err(HelloError::Malformed) }
}

/// The sending half of a control stream.
#[derive(Debug)]
pub struct ControlSender(SendStream);

impl ControlSender {
    pub(crate) fn new(stream: SendStream) -> Self {
        // Control messages go before anything else on the link.
        let _ = stream.set_priority(1);
        Self(stream)
    }

    /// Sends one message; waits while the neighbour doesn't read.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), ControlStreamError> {
        let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= MAX_CONTROL);
        let length = length.ok_or(ControlStreamError::TooLong(message.len()))?;
        self.0.write_all(&length.to_be_bytes()).await?;
        self.0.write_all(message).await?;
        Ok(())
    }

    pub(crate) async fn hello(&mut self, hello: &Hello) -> Result<(), HelloError> {
        let bytes = postcard::to_allocvec(hello).map_err(|_| HelloError::Malformed)?;
        Ok(self.send(&bytes).await?)
    }

    pub(crate) async fn ready(&mut self) -> Result<(), HelloError> {
        Ok(self.send(&[]).await?)
    }
}

/// The receiving half of a control stream.
#[derive(Debug)]
pub struct ControlReceiver(RecvStream);

impl ControlReceiver {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self(stream)
    }

    /// Receives one message.
    pub async fn receive(&mut self) -> Result<Vec<u8>, ControlStreamError> {
        self.up_to(MAX_CONTROL).await
    }

    async fn up_to(&mut self, limit: usize) -> Result<Vec<u8>, ControlStreamError> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > limit {
            return Err(ControlStreamError::TooLong(length));
        }
        let mut message = vec![0; length];
        self.0.read_exact(&mut message).await?;
        Ok(message)
    }

    pub(crate) async fn hello(&mut self) -> Result<Hello, HelloError> {
        parse_hello(&self.up_to(MAX_HELLO).await?)
    }

    pub(crate) async fn ready(&mut self) -> Result<(), HelloError> {
        if self.up_to(0).await?.is_empty() { Ok(()) } else { Err(HelloError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_form_of_a_hello_is_frozen() {
        let hello = Hello::new(0x0102_0304, LinkKind::Direct, "192.0.2.1:4433".parse().unwrap());
        let bytes = postcard::to_allocvec(&hello).unwrap();
        assert_eq!(bytes, [1, 0x84, 0x86, 0x88, 0x08, 1, 0, 192, 0, 2, 1, 0xd1, 0x22]);
        assert_eq!(parse_hello(&bytes).unwrap(), hello);
    }

    #[test]
    fn other_versions_and_trailing_bytes_are_refused() {
        let hello = Hello::new(1, LinkKind::Routing, "[2001:db8::1]:1".parse().unwrap());
        let mut bytes = postcard::to_allocvec(&hello).unwrap();
        bytes.push(0);
        assert!(matches!(parse_hello(&bytes), Err(HelloError::Malformed)));
        // 1 as a number of two bytes.
        let long = [1, 0x81, 0, 0, 0, 192, 0, 2, 1, 1];
        assert!(matches!(parse_hello(&long), Err(HelloError::Malformed)));
        assert!(parse_hello(&[1, 1, 0, 0, 192, 0, 2, 1, 1]).is_ok());
        assert!(matches!(parse_hello(&[9, 1, 2]), Err(HelloError::Version { found: 9 })));
        assert!(matches!(parse_hello(&[]), Err(HelloError::Malformed)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_hello(&bytes);
        }
    }
}
