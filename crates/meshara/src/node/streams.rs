//! The first bytes of every stream of a session: what the stream is for.

use meshara_identity::NodeName;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// Version of the opening. A peer with another one is refused.
const VERSION: u8 = 1;
/// Longest opening in bytes: a service or protocol name of 63 bytes with room to grow.
const MAX_OPENING: usize = 256;
/// Longest name of a service or protocol, as a DNS label.
pub(crate) const MAX_NAME: usize = 63;

/// What a stream is for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Opening {
    /// Frames of the messaging core.
    Messages,
    /// A TCP connection to a service of the accepting node.
    Service(String),
    /// A throughput run: the accepting node counts what comes.
    Bench,
    /// A stream of an application.
    Application(String),
    /// A newcomer's request, carried to an issuer.
    Join,
    /// The opener's addresses: dial them at once, it dials yours.
    Punch(Vec<std::net::SocketAddr>),
    /// What does your clock say? Answered by eight bytes: Unix milliseconds, big-endian.
    Clock,
    /// The opener's request for its next certificate, and the issuer's reply.
    Renew,
    /// The opener holds the mesh root and offers a grant to the acceptor.
    Grant,
    /// What is your leaf now? See `recheck`; also on links.
    Leaf,
    /// The opener's issuer grants; back come those that it lacks. On links.
    Grants,
    /// A question about an issuer's log, and its answer.
    Log,
    /// The opener's request for identities of its workloads, and the issuer's reply.
    Workload,
}

/// Why a stream's opening was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpeningError {
    /// Another version.
    #[error(
        "the peer speaks version {found} of the stream protocol, this node {VERSION}: update the older one"
    )]
    Version {
        /// What it speaks.
        found: u8,
    },
    /// The bytes are no opening.
    #[error("the stream's opening is malformed")]
    Malformed,
    /// The stream broke.
    #[error("the stream ended: {0}")]
    Read(#[from] quinn::ReadExactError),
}

/// Writes the opening of a stream.
pub(crate) async fn write_opening(send: &mut SendStream, opening: &Opening) -> Result<(), quinn::WriteError> {
    let body = postcard::to_allocvec(opening).unwrap_or_default();
    let mut bytes = Vec::with_capacity(body.len() + 3);
    bytes.push(VERSION);
    bytes.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(&body);
    send.write_all(&bytes).await
}

/// Reads the opening of a stream.
pub(crate) async fn read_opening(receive: &mut RecvStream) -> Result<Opening, OpeningError> {
    let mut front = [0; 3];
    receive.read_exact(&mut front).await?;
    let [version, high, low] = front;
    if version != VERSION {
        return Err(OpeningError::Version { found: version });
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_OPENING {
        return Err(OpeningError::Malformed);
    }
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await?;
    parse(&body)
}

fn parse(body: &[u8]) -> Result<Opening, OpeningError> {
    let opening = postcard::from_bytes(body).map_err(|_| OpeningError::Malformed)?;
    // postcard takes longer spellings of a number and ignores what follows; the wire form is the one that it writes.
    let canonical = postcard::to_allocvec(&opening).is_ok_and(|canonical| canonical == body);
    let named = match &opening {
        Opening::Service(name) | Opening::Application(name) => (1..=MAX_NAME).contains(&name.len()),
        _ => true,
    };
    if canonical && named { Ok(opening) } else { Err(OpeningError::Malformed) }
}

/// Decodes an opening; for the fuzz target.
#[doc(hidden)]
pub fn decode_opening(body: &[u8]) -> Result<(), OpeningError> {
    parse(body).map(|_| ())
}

/// Whether `name` may name a service: the rule for node names.
pub(crate) fn valid_service(name: &str) -> bool {
    name.parse::<NodeName>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_forms_are_frozen() {
        let forms: [(Opening, &[u8]); 13] = [
            (Opening::Messages, &[0]),
            (Opening::Service("ssh".into()), &[1, 3, b's', b's', b'h']),
            (Opening::Bench, &[2]),
            (Opening::Application("x".into()), &[3, 1, b'x']),
            (Opening::Join, &[4]),
            (Opening::Punch(vec!["192.0.2.1:9".parse().unwrap()]), &[5, 1, 0, 192, 0, 2, 1, 9]),
            (Opening::Clock, &[6]),
            (Opening::Renew, &[7]),
            (Opening::Grant, &[8]),
            (Opening::Leaf, &[9]),
            (Opening::Grants, &[10]),
            (Opening::Log, &[11]),
            (Opening::Workload, &[12]),
        ];
        for (opening, bytes) in forms {
            assert_eq!(postcard::to_allocvec(&opening).unwrap(), bytes);
            assert_eq!(parse(bytes).unwrap(), opening);
        }
    }

    #[test]
    fn odd_openings_are_refused() {
        for bytes in [&[][..], &[0, 0], &[1, 0], &[0x7f], &[1, 200, 1], &[0x82, 0]] {
            assert!(matches!(parse(bytes), Err(OpeningError::Malformed)), "{bytes:?}");
        }
        let long = postcard::to_allocvec(&Opening::Service("a".repeat(64))).unwrap();
        assert!(matches!(parse(&long), Err(OpeningError::Malformed)));
    }
}
