//! Signatures in the twin: a BLAKE3 keyed hash instead of Ed25519, a short text instead of a certificate.
//!
//! The "public" key is the secret, so this proves nothing to outsiders; inside one process it refuses exactly what a real
//! signature would refuse (another key, a changed byte) at a hundredth of the cost. What it does not show is the time that
//! real signatures take: about 30 µs to make and 60 µs to check, small against any link's delay.
//!
//! All nodes of a world share one [`Pool`]: a record that a thousand nodes receive is read, kept and checked once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use meshara_identity::{MeshAddress, MeshId, NodeId};
use meshara_overlay::record::{Kind, Record, RecordError};
use meshara_overlay::{Authenticator, HeadError, HeadId, JudgedHead, Known, Member, MemberError};

const MESH: MeshId = MeshId([7; 32]);

pub(crate) fn node_id(at: usize) -> NodeId {
    NodeId(*blake3::hash(&(at as u64).to_be_bytes()).as_bytes())
}

pub(crate) fn address(node: &NodeId) -> MeshAddress {
    MeshAddress::derive(&MESH, node)
}

/// What a node of the twin shows as its `serial`th certificate, as long as a real one if `len` says so.
pub(crate) fn member_body(at: usize, serial: u64, len: usize) -> Vec<u8> {
    let mut body = [&[CERTIFICATE][..], &content(at, serial)].concat();
    body.resize(body.len().max(len), 0);
    body
}

/// First byte of a certificate (DER), and of a proof.
const CERTIFICATE: u8 = 0x30;
const PROOF: u8 = 1;
/// Bytes of a real log's entry of a certificate, without roles.
const ENTRY_LEN: usize = 165;

/// What a certificate or entry says.
fn content(at: usize, serial: u64) -> Vec<u8> {
    let node = node_id(at);
    [&node.0[..], &routing_key(&node), &serial.to_be_bytes(), format!("n{at}").as_bytes()].concat()
}

/// What a node shows to prove its `serial`th certificate under a head: as long as a real proof, and as hard to make for anybody who doesn't hold
/// the head.
pub(crate) fn proof_body(at: usize, serial: u64, head: HeadId, path: usize) -> Vec<u8> {
    let mut entry = content(at, serial);
    entry.resize(entry.len().max(ENTRY_LEN), 0);
    let count = u8::try_from(path).unwrap_or(u8::MAX);
    let fixed =
        [&[PROOF][..], &head.issuer.0, &head.size.to_be_bytes(), &serial.to_be_bytes(), &[count]].concat();
    [fixed, path_of(&root_of(&head), &entry, usize::from(count)), entry].concat()
}

/// Stands for a Merkle path: it depends on the root and the entry.
fn path_of(root: &[u8; 32], entry: &[u8], count: usize) -> Vec<u8> {
    let mut path = vec![0; count * 32];
    blake3::Hasher::new_keyed(root).update(entry).finalize_xof().fill(&mut path);
    path
}

/// What proofs under a head lead to.
fn root_of(head: &HeadId) -> [u8; 32] {
    *blake3::keyed_hash(&routing_key(&head.issuer), &head.size.to_be_bytes()).as_bytes()
}

/// A head, or with size 0 a statement of keys: what only the issuer can make, and as long as a real one. A head has lines of witnesses.
pub(crate) fn head_body(head: &HeadId, len: usize, witnesses: &[usize]) -> Vec<u8> {
    let mut body = mac(&routing_key(&head.issuer), &head.size.to_be_bytes()).to_vec();
    body.push(u8::try_from(witnesses.len()).unwrap_or(u8::MAX));
    for at in witnesses {
        body.extend(u32::try_from(*at).unwrap_or(u32::MAX).to_be_bytes());
        body.extend(cosignature(&routing_key(&node_id(*at)), head));
    }
    body.resize(body.len().max(len), 0);
    body
}

/// Bytes of a witness's line: who, and its signature.
const LINE: usize = 4 + 64;

/// What a witness signs.
fn cosignature(key: &[u8; 32], head: &HeadId) -> [u8; 64] {
    mac(key, &[&head.issuer.0[..], &head.size.to_be_bytes()].concat())
}

/// By the same rule as a real node: no line of a witness that is known here is wrong.
fn judge_lines(id: &HeadId, rest: &[u8], known: &Known<'_>) -> Result<JudgedHead, HeadError> {
    let (count, rest) = rest.split_first().ok_or(HeadError::Malformed)?;
    let lines = rest.get(..usize::from(*count) * LINE).ok_or(HeadError::Malformed)?;
    let (lines, _) = lines.as_chunks::<LINE>();
    let lines: Vec<(String, &[u8])> = lines
        .iter()
        .map(|[a, b, c, d, signed @ ..]| (format!("n{}", u32::from_be_bytes([*a, *b, *c, *d])), &signed[..]))
        .collect();
    if lines.is_empty() {
        return Err(HeadError::Unwitnessed);
    }
    let mut right = 0;
    for (_, name, key) in known.members().filter(|(node, ..)| *node != id.issuer) {
        for (_, signed) in lines.iter().filter(|(witness, _)| witness == name) {
            if cosignature(&key, id) != *signed {
                return Err(HeadError::Unwitnessed);
            }
            right += 1;
        }
    }
    let unknown = lines.into_iter().map(|(name, _)| name).filter(|_| right == 0).collect();
    Ok(JudgedHead { root: root_of(id), unknown })
}

/// Reads a proof: its head, and its entry if that is under the head's root.
fn read_proof<'a>(origin: &NodeId, body: &'a [u8], known: &Known<'_>) -> Result<&'a [u8], MemberError> {
    let malformed = MemberError::Malformed;
    let (issuer, rest) = body.split_first_chunk::<32>().ok_or(malformed)?;
    let (size, rest) = rest.split_first_chunk::<8>().ok_or(malformed)?;
    let (_index, rest) = rest.split_first_chunk::<8>().ok_or(malformed)?;
    let (count, rest) = rest.split_first().ok_or(malformed)?;
    let (path, entry) = rest.split_at_checked(usize::from(*count) * 32).ok_or(malformed)?;
    let head = HeadId { issuer: NodeId(*issuer), size: u64::from_be_bytes(*size) };
    let (id, rest) = entry.split_first_chunk::<32>().ok_or(malformed)?;
    let (routing_key, _) = rest.split_first_chunk::<32>().ok_or(malformed)?;
    if *id != origin.0 {
        return Err(MemberError::WrongNode);
    }
    let unknown = MemberError::UnknownHead { head, routing_key: *routing_key };
    let root = known.root(&head).ok_or(unknown)?;
    if path_of(&root, entry, usize::from(*count)) == path { Ok(entry) } else { Err(MemberError::Unproved) }
}

/// Whom a node knows to be revoked.
pub(crate) type Revoked = Arc<RwLock<BTreeSet<NodeId>>>;

/// Whether a node is among the revoked.
pub(crate) fn is_revoked(revoked: &Revoked, node: &NodeId) -> bool {
    read(revoked).contains(node)
}

/// A node is revoked from now on; whether that is news.
pub(crate) fn revoke(revoked: &Revoked, node: NodeId) -> bool {
    write(revoked).insert(node)
}

fn routing_key(node: &NodeId) -> [u8; 32] {
    *blake3::hash(&node.0).as_bytes()
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    blake3::Hasher::new_keyed(key).update(message).finalize_xof().fill(&mut out);
    out
}

/// Parts of the pool with a lock each, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// A record, and the key that its signature was checked with and is good.
struct Pooled {
    record: Record,
    good: Option<[u8; 32]>,
}

/// The newest record of each kind and origin: one copy for all nodes.
#[derive(Default)]
pub(crate) struct Pool {
    shards: [RwLock<HashMap<(NodeId, Kind), Pooled>>; SHARDS],
}

impl Pool {
    fn shard(&self, origin: &NodeId) -> &RwLock<HashMap<(NodeId, Kind), Pooled>> {
        let [first, ..] = &self.shards;
        self.shards.get(usize::from(origin.0[0]) % SHARDS).unwrap_or(first)
    }

    /// The record that these bytes are, byte for byte.
    fn read(&self, bytes: &[u8]) -> Result<Record, RecordError> {
        let Some((kind, origin, sequence)) = Record::peek(bytes) else { return Record::decode(bytes) };
        let shard = self.shard(&origin);
        let known = |pooled: &Pooled| pooled.record.bytes() == bytes;
        if let Some(pooled) = read(shard).get(&(origin, kind)).filter(|pooled| known(pooled)) {
            return Ok(pooled.record.clone());
        }
        let record = Record::decode(bytes)?;
        let mut shard = write(shard);
        let before = shard.get(&(origin, kind));
        // Another thread may have read it meanwhile.
        if let Some(pooled) = before.filter(|pooled| known(pooled)) {
            return Ok(pooled.record.clone());
        }
        if before.is_none_or(|before| before.record.sequence < sequence) {
            shard.insert((origin, kind), Pooled { record: record.clone(), good: None });
        }
        Ok(record)
    }

    /// Whether `key` made the record's signature: looked up, or found out.
    fn verify(&self, key: &[u8; 32], record: &Record) -> bool {
        let shard = self.shard(&record.origin);
        let place = (record.origin, record.kind);
        // The same copy, not only the same content: it can't have changed since.
        let same = |pooled: &Pooled| std::ptr::eq(pooled.record.bytes(), record.bytes());
        if read(shard).get(&place).is_some_and(|pooled| same(pooled) && pooled.good == Some(*key)) {
            return true;
        }
        let (message, signature) = record.signed();
        let good = mac(key, &message) == signature;
        if good && let Some(pooled) = write(shard).get_mut(&place).filter(|pooled| same(pooled)) {
            pooled.good = Some(*key);
        }
        good
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Signs as one node, checks all.
pub(crate) struct TwinAuth {
    key: [u8; 32],
    pool: Arc<Pool>,
    revoked: Revoked,
    /// How long a certificate is valid when it is seen.
    life: Duration,
    /// Who issues: the first nodes of all.
    issuers: usize,
}

impl TwinAuth {
    pub(crate) fn of(node: &NodeId, pool: &Arc<Pool>, revoked: &Revoked, life: Duration) -> Self {
        let (pool, revoked) = (Arc::clone(pool), Arc::clone(revoked));
        Self { key: routing_key(node), pool, revoked, life, issuers: 0 }
    }

    /// So many nodes issue.
    pub(crate) fn with_issuers(self, issuers: usize) -> Self {
        Self { issuers, ..self }
    }
}

impl Authenticator for TwinAuth {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        mac(&self.key, message)
    }

    fn verify(&self, routing_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        mac(routing_key, message) == *signature
    }

    fn read(&self, bytes: &[u8]) -> Result<Record, RecordError> {
        self.pool.read(bytes)
    }

    fn verify_record(&self, routing_key: &[u8; 32], record: &Record) -> bool {
        self.pool.verify(routing_key, record)
    }

    fn member(&self, origin: &NodeId, body: &[u8], known: &Known<'_>) -> Result<Member, MemberError> {
        let (kind, rest) = body.split_first().ok_or(MemberError::Malformed)?;
        let proved = *kind == PROOF;
        let body = if proved { read_proof(origin, rest, known)? } else { rest };
        let (id, rest) = body.split_first_chunk::<32>().ok_or(MemberError::Malformed)?;
        let (key, rest) = rest.split_first_chunk::<32>().ok_or(MemberError::Malformed)?;
        let (_serial, name) = rest.split_first_chunk::<8>().ok_or(MemberError::Malformed)?;
        if is_revoked(&self.revoked, origin) {
            return Err(MemberError::Revoked);
        }
        if *id != origin.0 {
            return Err(MemberError::WrongNode);
        }
        if *key != routing_key(origin) {
            return Err(MemberError::Untrusted);
        }
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| MemberError::Malformed)?.to_owned();
        Ok(Member { name, routing_key: *key, expires_in: self.life, proved })
    }

    fn wants_head(&self, id: &HeadId) -> bool {
        (0..self.issuers).any(|at| node_id(at) == id.issuer)
    }

    fn head(&self, id: &HeadId, body: &[u8], known: &Known<'_>) -> Result<JudgedHead, HeadError> {
        if !self.wants_head(id) {
            return Err(HeadError::UnknownLog);
        }
        if id.size > 0 && known.head(&HeadId::statement(id.issuer)).is_none() {
            return Err(HeadError::LacksKeys);
        }
        let signed = mac(&routing_key(&id.issuer), &id.size.to_be_bytes());
        let rest = body.strip_prefix(&signed).ok_or(HeadError::Untrusted)?;
        if id.size == 0 { Ok(JudgedHead::statement()) } else { judge_lines(id, rest, known) }
    }

    fn revoked(&self, node: &NodeId) -> bool {
        is_revoked(&self.revoked, node)
    }

    fn address(&self, node: &NodeId) -> MeshAddress {
        address(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_for_all_and_forgeries_stay_forgeries() {
        let pool = Arc::new(Pool::default());
        let (node, other) = (node_id(0), node_id(1));
        let day = Duration::from_secs(86_400);
        let auth = TwinAuth::of(&node, &pool, &Revoked::default(), day);
        let record = |sequence, key: &[u8; 32]| {
            Record::sign(Kind::Member, node, sequence, b"body", |message| mac(key, message)).unwrap()
        };
        let (good, forged) = (record(5, &routing_key(&node)), record(5, &routing_key(&other)));
        let first = auth.read(good.bytes()).unwrap();
        let second = TwinAuth::of(&other, &pool, &Revoked::default(), day).read(good.bytes()).unwrap();
        assert!(std::ptr::eq(first.bytes(), second.bytes()));
        for _ in 0..2 {
            assert!(auth.verify_record(&routing_key(&node), &second));
            assert!(!auth.verify_record(&routing_key(&other), &second));
            // The same version with other content takes no place and no credit from the first.
            let forged = auth.read(forged.bytes()).unwrap();
            assert!(!auth.verify_record(&routing_key(&node), &forged));
        }
        // Newer ones replace older ones, not the other way round.
        let newer = auth.read(record(6, &routing_key(&node)).bytes()).unwrap();
        assert!(!std::ptr::eq(auth.read(good.bytes()).unwrap().bytes(), second.bytes()));
        assert!(std::ptr::eq(auth.read(newer.bytes()).unwrap().bytes(), newer.bytes()));
        assert_eq!(auth.read(&[1]), Err(RecordError::Truncated));
    }
}
