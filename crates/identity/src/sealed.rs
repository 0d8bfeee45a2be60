//! Files that hold secrets: format, sealing with a passphrase, atomic writing. See `docs/identity.md`, "Files".

mod disk;
mod error;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use self::disk::write_temporary;
pub(crate) use self::disk::{check_mode, link, temporary};
pub use self::disk::{private_directory, private_options, sync_directory};
pub use self::error::FileError;
pub(crate) use self::error::remedy;
use crate::keys::{KeyError, random};
use crate::membership::STORED_MAX;

/// What every file starts with.
const MAGIC: &[u8; 8] = b"MESHARA\0";

/// Version of the format.
pub const FILE_VERSION: u8 = 1;

/// Largest file, read or written: that of the largest membership, sealed. Nothing else that a home's files hold is as long.
const FILE_MAX: usize = STORED_MAX + HEAD_LEN + SEAL_LEN + TAG_LEN + CHECK_LEN;

/// Length of the BLAKE3 hash at the end of every file of every version.
const CHECK_LEN: usize = 32;

const PLAIN: u8 = 0;
const SEALED: u8 = 1;

const SALT_LEN: usize = 16;
/// Magic, kind, version, protection.
const HEAD_LEN: usize = MAGIC.len() + 3;
/// Three u32 of Argon2id, salt, nonce.
const SEAL_LEN: usize = 12 + SALT_LEN + NONCE_LEN;
/// Of AES-256-GCM, behind the content.
const TAG_LEN: usize = 16;

/// Argon2id cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// OWASP's minimum for Argon2id (Password Storage Cheat Sheet): 19 MiB, 2 passes, 1 lane. Small machines can pay it.
const COST: Cost = Cost { memory_kib: 19 * 1024, passes: 2, lanes: 1 };

/// Most that a file's header may ask for: a quarter GiB, a few seconds; a damaged or hostile header gets no more.
const COST_MAX: Cost = Cost { memory_kib: 256 * 1024, passes: 16, lanes: 4 };

/// What a file is for. Part of the header, so one file never passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// Node key and routing key.
    Keystore = 1,
    /// Root public, grants, leaf certificate and key.
    Membership = 2,
    /// CA key and its grant.
    Issuer = 3,
    /// The mesh root on the node that made it.
    Root = 4,
    /// A backup of the mesh root, always sealed.
    RootBackup = 5,
    /// Keys of an issuer's log.
    Log = 6,
    /// Roots that an issuer signs identities of workloads with.
    Workload = 7,
    /// Keys of a signer of the root document, revocations and policy.
    Signer = 8,
    /// CA key of a node that would issue, whose grant isn't signed yet.
    PendingIssuer = 9,
}

/// A passphrase, wiped when dropped and never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes without line ends at their end; `None` when nothing is left.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map(|last| last + 1)?;
        bytes.get(..end).map(|bytes| Self(Zeroizing::new(bytes.to_vec())))
    }

    /// Reads a passphrase file (at most 64 KiB); a line end at its end does not count.
    pub fn from_file(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(|error| FileError::io(path, "open", &error))?;
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(64 * 1024).read_to_end(&mut bytes).map_err(|error| FileError::io(path, "read", &error))?;
        Self::new(&bytes).ok_or_else(|| FileError::EmptyPassphrase { path: path.to_owned() })
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(secret)")
    }
}

/// Reads a file of `kind`, opening it with the passphrase when one is given.
pub fn read(
    path: &Path,
    kind: FileKind,
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = File::open(path).map_err(|error| FileError::io(path, "open", &error))?;
    let mut bytes = Zeroizing::new(Vec::new());
    (&file)
        .take(FILE_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::io(path, "read", &error))?;
    if bytes.len() > FILE_MAX {
        return Err(FileError::Damaged { path: path.to_owned(), what: "too large" });
    }
    let (protection, head, body) = parse(path, kind, &bytes)?;
    match (protection, passphrase) {
        (PLAIN, None) => {
            check_mode(path, &file)?;
            Ok(Zeroizing::new(body.to_vec()))
        }
        (PLAIN, Some(_)) => Err(FileError::NotSealed { path: path.to_owned() }),
        (SEALED, None) => Err(FileError::PassphraseRequired { path: path.to_owned() }),
        (SEALED, Some(passphrase)) => unseal(path, head, body, passphrase),
        _ => Err(FileError::Damaged { path: path.to_owned(), what: "protection byte" }),
    }
}

/// Writes a new file; fails when the name exists.
pub fn create(
    path: &Path,
    kind: FileKind,
    payload: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<(), FileError> {
    if path.symlink_metadata().is_ok() {
        return Err(FileError::AlreadyExists { path: path.to_owned() });
    }
    let bytes = assemble(path, kind, payload, passphrase)?;
    let temporary = write_temporary(path, &bytes)?;
    let linked = link(&temporary, path);
    let removed = fs::remove_file(&temporary).map_err(|error| FileError::io(&temporary, "remove", &error));
    linked?;
    removed?;
    sync_directory(path)
}

/// Replaces a file in one step: after a crash there is the old one or the new one.
pub fn replace(
    path: &Path,
    kind: FileKind,
    payload: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<(), FileError> {
    let bytes = assemble(path, kind, payload, passphrase)?;
    let temporary = write_temporary(path, &bytes)?;
    fs::rename(&temporary, path).map_err(|error| FileError::io(path, "replace", &error))?;
    sync_directory(path)
}

/// Checks magic, hash, version and kind in this order; gives protection, header and body.
fn parse<'a>(path: &Path, kind: FileKind, bytes: &'a [u8]) -> Result<(u8, &'a [u8], &'a [u8]), FileError> {
    let damaged = |what| FileError::Damaged { path: path.to_owned(), what };
    if !bytes.starts_with(MAGIC) {
        return Err(damaged(if bytes.is_empty() { "empty" } else { "not a Meshara file" }));
    }
    let (covered, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or_else(|| damaged("truncated"))?;
    let (head, body) = covered.split_at_checked(HEAD_LEN).ok_or_else(|| damaged("truncated"))?;
    if blake3::hash(covered) != blake3::Hash::from(*check) {
        return Err(damaged("checksum"));
    }
    let Some(&[found, version, protection]) = head.last_chunk::<3>() else {
        return Err(damaged("truncated"));
    };
    if version != FILE_VERSION {
        return Err(FileError::UnknownVersion {
            path: path.to_owned(),
            found: version,
            supported: FILE_VERSION,
        });
    }
    if found != kind as u8 {
        return Err(FileError::WrongKind { path: path.to_owned(), expected: kind as u8, found });
    }
    Ok((protection, head, body))
}

/// Entry for fuzzing: reads the frame of a file of `kind`; whether it is one.
#[doc(hidden)]
pub fn decodes(kind: FileKind, bytes: &[u8]) -> bool {
    parse(Path::new("fuzzed"), kind, bytes).is_ok()
}

fn assemble(
    path: &Path,
    kind: FileKind,
    payload: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mut out = Zeroizing::new(Vec::with_capacity(HEAD_LEN + SEAL_LEN + payload.len() + 64));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[kind as u8, FILE_VERSION]);
    match passphrase {
        None => {
            out.push(PLAIN);
            out.extend_from_slice(payload);
        }
        Some(passphrase) => {
            out.push(SEALED);
            let salt = random::<SALT_LEN>().map_err(|error| FileError::key(path, error))?;
            let nonce = random::<NONCE_LEN>().map_err(|error| FileError::key(path, error))?;
            for part in [COST.memory_kib, COST.passes, COST.lanes] {
                out.extend_from_slice(&part.to_le_bytes());
            }
            out.extend_from_slice(salt.as_slice());
            out.extend_from_slice(nonce.as_slice());
            let key = derive(path, passphrase, COST, &salt)?;
            let mut content = Zeroizing::new(payload.to_vec());
            key.seal_in_place_append_tag(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(out.as_slice()),
                &mut *content,
            )
            .map_err(|_| FileError::key(path, KeyError::Rejected))?;
            out.extend_from_slice(&content);
        }
    }
    let check = blake3::hash(&out);
    out.extend_from_slice(check.as_bytes());
    // What could not be read again must not take the place of what can.
    if out.len() > FILE_MAX {
        return Err(FileError::TooLarge { path: path.to_owned(), len: out.len(), max: FILE_MAX });
    }
    Ok(out)
}

fn unseal(
    path: &Path,
    head: &[u8],
    body: &[u8],
    passphrase: &Passphrase,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let damaged = |what| FileError::Damaged { path: path.to_owned(), what };
    let truncated = || damaged("truncated");
    let (parameters, ciphertext) = body.split_at_checked(SEAL_LEN).ok_or_else(truncated)?;
    let number = |at: usize| -> Result<u32, FileError> {
        let bytes = parameters.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(truncated)?;
        Ok(u32::from_le_bytes(*bytes))
    };
    let cost = Cost { memory_kib: number(0)?, passes: number(4)?, lanes: number(8)? };
    let allowed = (COST.memory_kib..=COST_MAX.memory_kib).contains(&cost.memory_kib)
        && (COST.passes..=COST_MAX.passes).contains(&cost.passes)
        && (COST.lanes..=COST_MAX.lanes).contains(&cost.lanes);
    if !allowed {
        return Err(damaged("key derivation cost out of range"));
    }
    let salt = parameters.get(12..).and_then(|rest| rest.first_chunk::<SALT_LEN>()).ok_or_else(truncated)?;
    let nonce = parameters.last_chunk::<NONCE_LEN>().ok_or_else(truncated)?;
    let key = derive(path, passphrase, cost, salt)?;
    let mut content = Zeroizing::new(ciphertext.to_vec());
    let plain_len = key
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from([head, parameters].concat().as_slice()),
            content.as_mut_slice(),
        )
        .map_err(|_| FileError::WrongPassphrase { path: path.to_owned() })?
        .len();
    content.truncate(plain_len);
    Ok(content)
}

fn derive(
    path: &Path,
    passphrase: &Passphrase,
    cost: Cost,
    salt: &[u8; SALT_LEN],
) -> Result<LessSafeKey, FileError> {
    let rejected = || FileError::key(path, KeyError::Rejected);
    let parameters =
        Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| rejected())?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(&passphrase.0, salt, key.as_mut_slice())
        .map_err(|_| rejected())?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| rejected())?))
}
