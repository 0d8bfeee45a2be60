//! Records: what a node says of itself, signed with its routing key and flooded to all.
//!
//! ```text
//! version u8 | kind u8 | origin [32] | sequence u64 | length u16 | body | signature [64]
//! ```
//! The signature covers [`CONTEXT`] and everything before it. The newest sequence of an origin and kind wins; of two
//! records with one sequence, which only a node that cheats or lost its clock makes, the one with the higher [`tie`](Record::tie).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use meshara_identity::NodeId;

use crate::auth::SIGNATURE_LEN;
use crate::codec::{Reader, Truncated};

/// Version of the format, the first byte.
pub const VERSION: u8 = 1;
/// What is signed before the record itself, so that the key's signatures mean nothing elsewhere.
pub const CONTEXT: &[u8] = b"meshara record v1";
/// Longest record: an ML-DSA-65 certificate with its issuer's grant is under 12 KiB.
pub const MAX_RECORD_LEN: usize = 16 * 1024;
/// Most neighbours in a record: four times what a node accepts.
pub const MAX_NEIGHBOURS: usize = 64;
/// Most addresses in a record: several interfaces, both families, and what peers observed.
pub const MAX_ADDRESSES: usize = 16;
/// Bytes around the body.
const OVERHEAD: usize = 1 + 1 + 32 + 8 + 2 + SIGNATURE_LEN;
/// Bytes of one neighbour.
const NEIGHBOUR_LEN: usize = 32 + 4 + 2 + 2 + 1;

/// What a record is about. The order is that of sending: a signature can be checked only after the member record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The origin's certificate.
    Member,
    /// The origin's UDP addresses.
    Addresses,
    /// The origin's links.
    LinkState,
}

impl Kind {
    /// All kinds, in the order of sending.
    pub const ALL: [Self; 3] = [Self::Member, Self::Addresses, Self::LinkState];

    /// The kind as a byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Member => 1,
            Self::Addresses => 2,
            Self::LinkState => 3,
        }
    }

    /// The kind of a byte.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Member),
            2 => Some(Self::Addresses),
            3 => Some(Self::LinkState),
            _ => None,
        }
    }
}

/// Sequence and tie of a record.
pub(crate) type Rank = (u64, u64);

/// [`Record::tie`] of a record in bytes.
pub(crate) fn tie(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Ends before its fields do.
    #[error("the record is truncated")]
    Truncated,
    /// Has bytes after its end.
    #[error("the record has trailing bytes")]
    Trailing,
    /// Longer than [`MAX_RECORD_LEN`].
    #[error("the record is too long")]
    TooLong,
    /// Another version.
    #[error("unknown record version {0}")]
    UnknownVersion(u8),
    /// Another kind.
    #[error("unknown record kind {0}")]
    UnknownKind(u8),
    /// More neighbours or addresses than allowed.
    #[error("the record lists too many entries")]
    TooMany,
    /// Entries out of order, doubled, naming the origin itself, or with unknown flags or families.
    #[error("the record's body is not canonical")]
    NotCanonical,
}

impl From<Truncated> for RecordError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// A well-formed record. Cheap to clone: the contents are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// Who says so.
    pub origin: NodeId,
    /// Which version of it.
    pub sequence: u64,
    bytes: Arc<[u8]>,
    /// Of link state: what it lists, for the graph.
    neighbours: Arc<[Neighbour]>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} of {}", self.kind, self.sequence, self.origin.short())
    }
}

impl Record {
    /// Makes and signs a record. `None` if the body is too long.
    pub fn sign(
        kind: Kind,
        origin: NodeId,
        sequence: u64,
        body: &[u8],
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_LEN],
    ) -> Option<Self> {
        let length = u16::try_from(body.len()).ok().filter(|_| body.len() + OVERHEAD <= MAX_RECORD_LEN)?;
        let mut message = Vec::with_capacity(CONTEXT.len() + OVERHEAD + body.len());
        message.extend(CONTEXT);
        message.extend([VERSION, kind.code()]);
        message.extend(origin.0);
        message.extend(sequence.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(body);
        let signature = sign(&message);
        let mut bytes = message.split_off(CONTEXT.len());
        bytes.extend(signature);
        let listed = (kind == Kind::LinkState).then(|| LinkState::decode(&origin, body).ok()).flatten();
        let neighbours = listed.map(|state| state.neighbours.into()).unwrap_or_default();
        Some(Self { kind, origin, sequence, bytes: bytes.into(), neighbours })
    }

    /// Kind, origin and sequence of what claims to be a record, without looking further: most of a flood is old news.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<(Kind, NodeId, u64)> {
        let mut r = Reader::new(bytes);
        let [VERSION, kind] = r.array().ok()? else { return None };
        Some((Kind::from_code(kind)?, r.node().ok()?, r.u64().ok()?))
    }

    /// Reads a record and checks its form, not its signature.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_LEN {
            return Err(RecordError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let [version, kind] = r.array()?;
        if version != VERSION {
            return Err(RecordError::UnknownVersion(version));
        }
        let kind = Kind::from_code(kind).ok_or(RecordError::UnknownKind(kind))?;
        let origin = r.node()?;
        let sequence = r.u64()?;
        let length = r.u16()?;
        let body = r.bytes(usize::from(length))?;
        r.array::<SIGNATURE_LEN>()?;
        if !r.is_empty() {
            return Err(RecordError::Trailing);
        }
        let mut neighbours = Arc::default();
        match kind {
            Kind::Member => {}
            Kind::Addresses => drop(decode_addresses(body)?),
            Kind::LinkState => neighbours = LinkState::decode(&origin, body)?.neighbours.into(),
        }
        Ok(Self { kind, origin, sequence, bytes: bytes.into(), neighbours })
    }

    /// The record as it travels.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(OVERHEAD - SIGNATURE_LEN..self.bytes.len() - SIGNATURE_LEN).unwrap_or_default()
    }

    /// Decides between versions with one sequence, so that all nodes keep the same one: the first bytes of the BLAKE3 hash of the whole record. Who
    /// spends the hours that two records with one tie take leaves nodes with different ones, at its own cost alone.
    #[must_use]
    pub fn tie(&self) -> u64 {
        tie(&self.bytes)
    }

    /// The higher one wins.
    pub(crate) fn rank(&self) -> Rank {
        (self.sequence, self.tie())
    }

    /// Of link state: the links that it lists, by ascending node id.
    pub(crate) fn neighbours(&self) -> Arc<[Neighbour]> {
        Arc::clone(&self.neighbours)
    }

    /// Of link state: whether the origin leaves.
    pub(crate) fn leaving(&self) -> bool {
        self.kind == Kind::LinkState && self.body().first() == Some(&1)
    }

    /// What is signed, and the signature.
    #[must_use]
    pub fn signed(&self) -> (Vec<u8>, [u8; SIGNATURE_LEN]) {
        let (message, signature) = self.bytes.split_last_chunk().unwrap_or((&[], &[0; SIGNATURE_LEN]));
        ([CONTEXT, message].concat(), *signature)
    }
}

/// One link in a link-state record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Whom it leads to.
    pub node: NodeId,
    /// What it costs, µs.
    pub cost: u32,
    /// Share of packets lost, of [`crate::probe::LOSS_ONE`].
    pub loss: u16,
    /// Largest hop-frame payload, bytes.
    pub mtu: u16,
    /// The origin does not hear it now.
    pub suspect: bool,
}

/// The body of a link-state record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The origin leaves the mesh; it lists no neighbours.
    pub leaving: bool,
    /// Its links, by ascending node id.
    pub neighbours: Vec<Neighbour>,
}

impl LinkState {
    /// Writes the body. Neighbours must be sorted and at most [`MAX_NEIGHBOURS`]; more are cut off.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = self.neighbours.len().min(MAX_NEIGHBOURS);
        let mut out = Vec::with_capacity(2 + count * NEIGHBOUR_LEN);
        out.push(u8::from(self.leaving));
        out.push(u8::try_from(count).unwrap_or(u8::MAX));
        for neighbour in self.neighbours.iter().take(count) {
            out.extend(neighbour.node.0);
            out.extend(neighbour.cost.to_be_bytes());
            out.extend(neighbour.loss.to_be_bytes());
            out.extend(neighbour.mtu.to_be_bytes());
            out.push(u8::from(neighbour.suspect));
        }
        out
    }

    /// Reads the body of a record of `origin`.
    ///
    /// # Errors
    /// Says what is wrong with the body.
    pub fn decode(origin: &NodeId, body: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::new(body);
        let [flags, count] = r.array()?;
        if usize::from(count) > MAX_NEIGHBOURS {
            return Err(RecordError::TooMany);
        }
        if flags > 1 || (flags == 1 && count > 0) {
            return Err(RecordError::NotCanonical);
        }
        let mut neighbours: Vec<Neighbour> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let node = r.node()?;
            let (cost, loss, mtu) = (r.u32()?, r.u16()?, r.u16()?);
            let suspect = match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(RecordError::NotCanonical),
            };
            let ordered = neighbours.last().is_none_or(|before| before.node < node);
            if !ordered || node == *origin || loss > crate::probe::LOSS_ONE {
                return Err(RecordError::NotCanonical);
            }
            neighbours.push(Neighbour { node, cost, loss, mtu, suspect });
        }
        if !r.is_empty() {
            return Err(RecordError::Trailing);
        }
        Ok(Self { leaving: flags == 1, neighbours })
    }
}

/// Writes the body of an address record; addresses beyond [`MAX_ADDRESSES`] and doubled ones are left out.
#[must_use]
pub fn encode_addresses(addresses: &[SocketAddr]) -> Vec<u8> {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        // Scope and flow belong to this machine; on the wire an address is IP and port.
        let plain = SocketAddr::new(address.ip(), address.port());
        if !distinct.contains(&plain) && distinct.len() < MAX_ADDRESSES {
            distinct.push(plain);
        }
    }
    let mut out = vec![u8::try_from(distinct.len()).unwrap_or(u8::MAX)];
    for address in distinct {
        match address.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend(ip.octets());
            }
        }
        out.extend(address.port().to_be_bytes());
    }
    out
}

/// Reads the body of an address record.
///
/// # Errors
/// Says what is wrong with the body.
pub fn decode_addresses(body: &[u8]) -> Result<Vec<SocketAddr>, RecordError> {
    let mut r = Reader::new(body);
    let count = r.u8()?;
    if usize::from(count) > MAX_ADDRESSES {
        return Err(RecordError::TooMany);
    }
    let mut addresses = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let ip = match r.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(r.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(r.array::<16>()?)),
            _ => return Err(RecordError::NotCanonical),
        };
        let address = SocketAddr::new(ip, r.u16()?);
        if addresses.contains(&address) {
            return Err(RecordError::NotCanonical);
        }
        addresses.push(address);
    }
    if !r.is_empty() {
        return Err(RecordError::Trailing);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: NodeId = NodeId([7; 32]);

    fn neighbour(id: u8) -> Neighbour {
        Neighbour { node: NodeId([id; 32]), cost: 1000, loss: 5, mtu: 1400, suspect: id == 2 }
    }

    #[test]
    fn fixture() {
        let body = LinkState { leaving: false, neighbours: vec![neighbour(1), neighbour(2)] }.encode();
        let record = Record::sign(Kind::LinkState, ORIGIN, 258, &body, |message| {
            assert!(message.starts_with(CONTEXT));
            [9; 64]
        })
        .unwrap();
        let mut expected = vec![1, 3];
        expected.extend([7; 32]);
        expected.extend([0, 0, 0, 0, 0, 0, 1, 2, 0, 84, 0, 2]);
        for (id, suspect) in [(1, 0), (2, 1)] {
            expected.extend([id; 32]);
            expected.extend([0, 0, 3, 232, 0, 5, 5, 120, suspect]);
        }
        expected.extend([9; 64]);
        assert_eq!(record.bytes(), expected);
        assert_eq!(record.body(), body);
        assert_eq!(Record::decode(&expected), Ok(record));
    }

    #[test]
    fn address_fixture() {
        let addresses = ["10.0.0.1:7", "[fd00::1]:8", "10.0.0.1:7"].map(|a| a.parse().unwrap());
        let body = encode_addresses(&addresses);
        let mut expected = vec![2, 4, 10, 0, 0, 1, 0, 7, 6, 0xfd];
        expected.extend([0; 14]);
        expected.extend([1, 0, 8]);
        assert_eq!(body, expected);
        assert_eq!(decode_addresses(&body).unwrap(), addresses[..2]);
    }

    #[test]
    fn refuses() {
        let decode = |body: &[u8]| LinkState::decode(&ORIGIN, body);
        let encode = |ids: &[u8]| {
            LinkState { leaving: false, neighbours: ids.iter().map(|id| neighbour(*id)).collect() }.encode()
        };
        assert_eq!(decode(&encode(&[2, 1])), Err(RecordError::NotCanonical));
        assert_eq!(decode(&encode(&[1, 1])), Err(RecordError::NotCanonical));
        assert_eq!(decode(&encode(&[7])), Err(RecordError::NotCanonical));
        assert_eq!(decode(&[0, 65]), Err(RecordError::TooMany));
        assert_eq!(decode(&[2, 0]), Err(RecordError::NotCanonical));
        assert_eq!(decode(&[0, 0, 0]), Err(RecordError::Trailing));
        assert_eq!(decode(&[0, 1]), Err(RecordError::Truncated));
        assert_eq!(decode_addresses(&[1, 5, 0, 0]), Err(RecordError::NotCanonical));
        assert_eq!(decode_addresses(&[17]), Err(RecordError::TooMany));

        let record = Record::sign(Kind::Member, ORIGIN, 1, b"x", |_| [0; 64]).unwrap();
        let mut bytes = record.bytes().to_vec();
        assert_eq!(Record::decode(&bytes[..bytes.len() - 1]), Err(RecordError::Truncated));
        bytes.push(0);
        assert_eq!(Record::decode(&bytes), Err(RecordError::Trailing));
        bytes[1] = 4;
        assert_eq!(Record::decode(&bytes), Err(RecordError::UnknownKind(4)));
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes), Err(RecordError::UnknownVersion(2)));
        assert_eq!(Record::decode(&[1; MAX_RECORD_LEN + 1]), Err(RecordError::TooLong));
        assert!(Record::sign(Kind::Member, ORIGIN, 1, &[0; MAX_RECORD_LEN], |_| [0; 64]).is_none());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Record::decode(&bytes);
            let _ = decode_addresses(&bytes);
            if let Ok(state) = LinkState::decode(&ORIGIN, &bytes) {
                prop_assert_eq!(state.encode(), bytes);
            }
        }

        #[test]
        fn round_trip(ids: std::collections::BTreeSet<[u8; 32]>, cost: u32, loss in 0u16..=10_000, mtu: u16, suspect: bool) {
            let neighbours: Vec<_> = ids.into_iter().take(MAX_NEIGHBOURS)
                .map(|id| Neighbour { node: NodeId(id), cost, loss, mtu, suspect }).collect();
            let state = LinkState { leaving: false, neighbours };
            let record = Record::sign(Kind::LinkState, ORIGIN, 1, &state.encode(), |_| [1; 64]).unwrap();
            let read = Record::decode(record.bytes()).unwrap();
            prop_assert_eq!(LinkState::decode(&ORIGIN, read.body()).unwrap(), state);
        }
    }
}
