//! Encoding of everything that identity and trust put on a wire or in a file: one version byte, then postcard, canonical.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of every message and statement in this encoding.
pub const VERSION: u8 = 1;

/// Why bytes were not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than the format allows.
    #[error("{len} bytes where at most {max} are allowed")]
    TooLarge {
        /// Length received.
        len: usize,
        /// Longest allowed.
        max: usize,
    },
    /// Another version of the format.
    #[error("format version {found}, this program knows {supported}: update the older side")]
    UnsupportedVersion {
        /// Version in the data.
        found: u8,
        /// Version of this program.
        supported: u8,
    },
    /// Truncated, trailing bytes, a field out of range, or not the canonical encoding.
    #[error("malformed data")]
    Malformed,
}

/// Appends postcard of `value` to `out`. Types of plain data always encode; a failure leaves `Malformed`.
pub fn append<T: Serialize>(mut out: Vec<u8>, value: &T) -> Result<Vec<u8>, WireError> {
    out.extend_from_slice(&postcard::to_allocvec(value).map_err(|_| WireError::Malformed)?);
    Ok(out)
}

/// `VERSION | postcard(value)`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    append(vec![VERSION], value)
}

/// Decodes exactly what [`encode`] writes: nothing after it, no second spelling of the same value.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, WireError> {
    let body = check_version(bytes, max)?;
    let (value, rest) = take::<T>(body)?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Malformed) }
}

/// Decodes what [`append`] wrote after another version byte, `version`: for formats that grew a second form.
pub fn decode_version<T: Serialize + DeserializeOwned>(
    version: u8,
    bytes: &[u8],
    max: usize,
) -> Result<T, WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLarge { len: bytes.len(), max });
    }
    let body = match bytes.split_first() {
        Some((found, rest)) if *found == version => rest,
        Some((&found, _)) => return Err(WireError::UnsupportedVersion { found, supported: version }),
        None => return Err(WireError::Malformed),
    };
    let (value, rest) = take::<T>(body)?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Malformed) }
}

/// Checks length and version byte; gives what follows.
pub(crate) fn check_version(bytes: &[u8], max: usize) -> Result<&[u8], WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLarge { len: bytes.len(), max });
    }
    match bytes.split_first() {
        None => Err(WireError::Malformed),
        Some((&VERSION, rest)) => Ok(rest),
        Some((&found, _)) => Err(WireError::UnsupportedVersion { found, supported: VERSION }),
    }
}

/// Decodes one canonical postcard value from the front; gives the rest.
///
/// postcard accepts over-long varints, so the value is encoded again and compared.
pub(crate) fn take<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), WireError> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| WireError::Malformed)?;
    let used = bytes.get(..bytes.len() - rest.len()).ok_or(WireError::Malformed)?;
    let canonical = postcard::to_allocvec(&value).map_err(|_| WireError::Malformed)?;
    if canonical == used { Ok((value, rest)) } else { Err(WireError::Malformed) }
}
