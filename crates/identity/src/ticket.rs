//! Tickets: what an invited machine is given to join a mesh.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::ids::{MeshId, UnixMillis};
use crate::keys::{KeyError, random};
use crate::names::MeshName;
use crate::wire::{self, VERSION, WireError};

/// What every ticket starts with; the digit is the version.
pub const PREFIX: &str = "meshara1";

/// Most addresses in a ticket: enough for the interfaces of one node, and the text still fits in a terminal.
pub const ADDRS_MAX: usize = 16;

/// Longest text: prefix, and base32 of at most 32 + 63 + 16 · 20 + 120 bytes.
pub const TEXT_MAX: usize = 1024;

/// Length of the embedded tag: 128 bits, as only damage and guesses have to be found here.
const TAG_LEN: usize = 16;

/// One canonical spelling: RFC 4648's base32, lower case, no padding, trailing bits zero.
static BASE32: LazyLock<Option<Encoding>> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().ok()
});

/// Why a text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Does not start with `meshara1`.
    #[error("not a ticket: a ticket starts with \"meshara1\"")]
    NotATicket,
    /// A ticket of another version.
    #[error("a ticket of a version that this program does not know: update it")]
    UnsupportedVersion,
    /// Longer than any ticket.
    #[error("too long for a ticket: copy the ticket alone")]
    TooLong,
    /// Not the canonical spelling.
    #[error(
        "the ticket has characters that no ticket has: copy it exactly, in lower case and without spaces"
    )]
    Encoding,
    /// A character was changed, lost or added.
    #[error("the ticket was altered: copy the whole ticket again")]
    Altered,
    /// More than [`ADDRS_MAX`] addresses.
    #[error("a ticket holds at most 16 addresses")]
    TooManyAddresses,
}

/// What a ticket says besides its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    mesh: MeshName,
    mesh_id: MeshId,
    id: [u8; 16],
    expires_at: UnixMillis,
    uses: u32,
    addrs: Vec<SocketAddr>,
}

/// An invitation to a mesh. Whoever holds it can join until it ends or is used up.
#[derive(Clone)]
pub struct Ticket {
    body: Body,
    secret: Zeroizing<[u8; 32]>,
    encoded: Zeroizing<Vec<u8>>,
}

impl Ticket {
    /// A fresh ticket; made by [`Issuer::invite`](crate::Issuer::invite).
    pub(crate) fn new(
        mesh: MeshName,
        mesh_id: MeshId,
        expires_at: UnixMillis,
        uses: u32,
        addrs: Vec<SocketAddr>,
    ) -> Result<Self, NewTicketError> {
        let id = *random()?;
        Self::from_parts(Body { mesh, mesh_id, id, expires_at, uses, addrs }, random()?)
    }

    fn from_parts(body: Body, secret: Zeroizing<[u8; 32]>) -> Result<Self, NewTicketError> {
        if body.addrs.len() > ADDRS_MAX {
            return Err(TicketError::TooManyAddresses.into());
        }
        let mut encoded = Zeroizing::new(vec![VERSION]);
        encoded.extend_from_slice(secret.as_slice());
        let mut encoded = Zeroizing::new(wire::append(std::mem::take(&mut *encoded), &body)?);
        let tag = tag(&secret, &encoded);
        encoded.extend_from_slice(&tag);
        Ok(Self { body, secret, encoded })
    }

    /// Name of the mesh.
    pub fn mesh(&self) -> &MeshName {
        &self.body.mesh
    }

    /// Fingerprint of the mesh's root.
    pub fn mesh_id(&self) -> MeshId {
        self.body.mesh_id
    }

    /// Which ticket this is; not secret.
    pub fn id(&self) -> [u8; 16] {
        self.body.id
    }

    /// End of the ticket, by the issuer's clock.
    pub fn expires_at(&self) -> UnixMillis {
        self.body.expires_at
    }

    /// How many nodes may join with it.
    pub fn uses(&self) -> u32 {
        self.body.uses
    }

    /// Where members were reachable when it was made.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.body.addrs
    }

    /// Hash of the whole ticket; the issuer compares it with what it made.
    pub(crate) fn hash(&self) -> [u8; 32] {
        blake3::derive_key("meshara 2026-11 ticket hash v1", &self.encoded)
    }

    /// The key that requests and replies are authenticated with, derived from the secret.
    pub(crate) fn join_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("meshara 2026-11 ticket join key v1", self.secret.as_slice()))
    }
}

/// Why a ticket could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NewTicketError {
    /// A field is out of range.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// No randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

fn tag(secret: &[u8; 32], message: &[u8]) -> [u8; TAG_LEN] {
    let key = Zeroizing::new(blake3::derive_key("meshara 2026-11 ticket tag v1", secret));
    let mut tag = [0; TAG_LEN];
    blake3::Hasher::new_keyed(&key).update(message).finalize_xof().fill(&mut tag);
    tag
}

impl fmt::Display for Ticket {
    /// The text form, which holds the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base32 = BASE32.as_ref().ok_or(fmt::Error)?;
        let text = Zeroizing::new(base32.encode(&self.encoded));
        write!(f, "{PREFIX}{}", text.as_str())
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("body", &self.body).finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.len() > TEXT_MAX {
            return Err(TicketError::TooLong);
        }
        let Some(rest) = text.strip_prefix(PREFIX) else {
            let other = text.strip_prefix("meshara").and_then(|rest| rest.chars().next());
            let version = other.is_some_and(|c| c.is_ascii_digit());
            return Err(if version { TicketError::UnsupportedVersion } else { TicketError::NotATicket });
        };
        let base32 = BASE32.as_ref().ok_or(TicketError::Encoding)?;
        let encoded = Zeroizing::new(base32.decode(rest.as_bytes()).map_err(|_| TicketError::Encoding)?);

        let (message, found) = encoded.split_last_chunk::<TAG_LEN>().ok_or(TicketError::Altered)?;
        let (version, rest) = message.split_first().ok_or(TicketError::Altered)?;
        let (secret, body) = rest.split_first_chunk::<32>().ok_or(TicketError::Altered)?;
        let secret = Zeroizing::new(*secret);
        if !bool::from(tag(&secret, message).ct_eq(found)) {
            return Err(TicketError::Altered);
        }
        if *version != VERSION {
            return Err(TicketError::UnsupportedVersion);
        }
        let (body, rest) = wire::take::<Body>(body).map_err(|_| TicketError::Altered)?;
        if !rest.is_empty() {
            return Err(TicketError::Altered);
        }
        if body.addrs.len() > ADDRS_MAX {
            return Err(TicketError::TooManyAddresses);
        }
        Ok(Self { body, secret, encoded })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        let body = Body {
            mesh: "lab".parse().unwrap(),
            mesh_id: MeshId([5; 32]),
            id: [6; 16],
            expires_at: UnixMillis(1_800_000_000_000),
            uses: 3,
            addrs: vec!["192.0.2.1:4433".parse().unwrap(), "[2001:db8::1]:4433".parse().unwrap()],
        };
        Ticket::from_parts(body, Zeroizing::new([7; 32])).unwrap()
    }

    #[test]
    fn text_is_frozen() {
        let text = include_str!("../tests/fixtures/ticket.txt").trim();
        assert_eq!(ticket().to_string(), text);
        let read: Ticket = text.parse().unwrap();
        assert_eq!(read.body, ticket().body);
        assert_eq!(read.hash(), ticket().hash());
    }

    #[test]
    fn every_altered_character_is_found() {
        let text = ticket().to_string();
        for position in 0..text.len() {
            for replacement in "abcdefghijklmnopqrstuvwxyz234567A1 =".chars() {
                let mut altered: Vec<char> = text.chars().collect();
                if altered[position] == replacement {
                    continue;
                }
                altered[position] = replacement;
                let altered: String = altered.into_iter().collect();
                assert!(altered.parse::<Ticket>().is_err(), "{position} {replacement}");
            }
            let mut shorter = text.clone();
            shorter.remove(position);
            assert!(shorter.parse::<Ticket>().is_err(), "{position} removed");
        }
    }

    #[test]
    fn errors_are_exact() {
        let text = ticket().to_string();
        let with = |at: usize, c: char| {
            let mut chars: Vec<char> = text.chars().collect();
            chars[at] = c;
            chars.into_iter().collect::<String>().parse::<Ticket>().unwrap_err()
        };
        let other = if text.as_bytes()[30] == b'a' { 'b' } else { 'a' };
        assert_eq!(with(30, other), TicketError::Altered);
        assert_eq!(with(30, 'A'), TicketError::Encoding);
        assert_eq!(with(30, ' '), TicketError::Encoding);
        assert_eq!(with(7, '2'), TicketError::UnsupportedVersion);
        assert_eq!(with(0, 'M'), TicketError::NotATicket);
        assert_eq!("".parse::<Ticket>().unwrap_err(), TicketError::NotATicket);
        assert_eq!("meshara1".parse::<Ticket>().unwrap_err(), TicketError::Altered);
        assert_eq!("x".repeat(2000).parse::<Ticket>().unwrap_err(), TicketError::TooLong);
        assert_eq!(format!("{text}\n").parse::<Ticket>().unwrap_err(), TicketError::Encoding);
        assert_eq!(format!("{text}aaaaaaaa").parse::<Ticket>().unwrap_err(), TicketError::Altered);
        assert_eq!(text.to_uppercase().parse::<Ticket>().unwrap_err(), TicketError::NotATicket);
    }

    #[test]
    fn the_secret_is_not_printed() {
        let shown = format!("{:?}", ticket());
        assert!(!shown.contains("7, 7"), "{shown}");
    }

    #[test]
    fn a_full_ticket_fits() {
        let addrs = vec!["[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(); ADDRS_MAX];
        let mesh: MeshName = "m".repeat(63).parse().unwrap();
        let ticket =
            Ticket::new(mesh.clone(), MeshId([255; 32]), UnixMillis(u64::MAX), u32::MAX, addrs.clone())
                .unwrap();
        let text = ticket.to_string();
        assert!(text.len() <= TEXT_MAX, "{}", text.len());
        assert!(text.parse::<Ticket>().is_ok());
        let more = [addrs, vec!["1.2.3.4:5".parse().unwrap()]].concat();
        assert_eq!(
            Ticket::new(mesh, MeshId([255; 32]), UnixMillis(0), 1, more).unwrap_err(),
            NewTicketError::Ticket(TicketError::TooManyAddresses)
        );
    }

    proptest! {
        #[test]
        fn round_trips(id: [u8; 16], mesh_id: [u8; 32], secret: [u8; 32], expires: u64, uses: u32,
                       addrs in prop::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..ADDRS_MAX)) {
            let addrs = addrs.into_iter().map(SocketAddr::from).collect();
            let body = Body { mesh: "m".parse().unwrap(), mesh_id: MeshId(mesh_id), id,
                              expires_at: UnixMillis(expires), uses, addrs };
            let ticket = Ticket::from_parts(body.clone(), Zeroizing::new(secret)).unwrap();
            let read: Ticket = ticket.to_string().parse().unwrap();
            prop_assert_eq!(read.body, body);
            prop_assert_eq!(read.secret.as_slice(), secret.as_slice());
        }

        #[test]
        fn garbage_never_panics(text in "meshara1[a-z2-7]{0,400}") {
            prop_assert!(text.parse::<Ticket>().is_err());
        }
    }
}
