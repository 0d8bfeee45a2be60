//! Identifiers of nodes and meshes, mesh addresses, and wall-clock time.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 64 lower-case hex digits")]
pub struct ParseIdError;

macro_rules! id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), HEXLOWER.encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| ParseIdError)?;
                Ok(Self(bytes.try_into().map_err(|_| ParseIdError)?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    Ok(Self(<[u8; 32]>::deserialize(deserializer)?))
                }
            }
        }
    };
}

/// A node: BLAKE3-256 of its ML-DSA-65 public key. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

id!(NodeId);

impl NodeId {
    /// The id of the node that owns this raw ML-DSA-65 public key.
    pub fn of_public_key(public: &crate::keys::MlDsaPublic) -> Self {
        Self(*blake3::hash(public.as_ref()).as_bytes())
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0).chars().take(8).collect()
    }
}

/// A mesh: the fingerprint of its root public keys. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(pub [u8; 32]);

id!(MeshId);

/// Address of a node inside its mesh: `fd` and 120 bits of a hash over mesh and node.
///
/// It is a valid IPv6 unique local address (RFC 4193, with the L bit set). A collision can misroute but never
/// impersonate: sessions prove the full NodeId.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshAddress(pub [u8; 16]);

impl MeshAddress {
    /// The address of `node` in `mesh`.
    pub fn derive(mesh: &MeshId, node: &NodeId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("meshara 2026-11 mesh address v1");
        hasher.update(&mesh.0);
        hasher.update(&node.0);
        let mut address = [0; 16];
        hasher.finalize_xof().fill(&mut address);
        let [first, ..] = &mut address;
        *first = 0xfd;
        Self(address)
    }

    /// As an IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.0)
    }
}

impl fmt::Display for MeshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ipv6().fmt(f)
    }
}

impl fmt::Debug for MeshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshAddress({})", self.ipv6())
    }
}

/// Wall-clock time: milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This machine's clock; 1970 if it is set before that (every certificate is then not yet valid).
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Later by `by`, at most the largest time.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Earlier by `by`, at least 1970.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How far apart two times are.
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for UnixMillis {
    /// `YYYY-MM-DD HH:MM:SS UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Civil date from day count, after Howard Hinnant's chrono-compatible algorithm (era = 400 years).
        let seconds = self.seconds();
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_canonical_text() {
        let id = NodeId([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("AB".repeat(32).parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("ab".repeat(31).parse::<NodeId>(), Err(ParseIdError));
        assert_eq!(format!("{} ", "ab".repeat(32)).parse::<NodeId>(), Err(ParseIdError));
    }

    #[test]
    fn address_is_frozen_and_unique_local() {
        let address = MeshAddress::derive(&MeshId([1; 32]), &NodeId([2; 32]));
        assert_eq!(address.0[0], 0xfd);
        assert_ne!(address, MeshAddress::derive(&MeshId([2; 32]), &NodeId([1; 32])));
        assert_eq!(address.ipv6().to_string(), include_str!("../tests/fixtures/address.txt").trim());
    }

    #[test]
    fn times_read_as_dates() {
        assert_eq!(UnixMillis(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(UnixMillis(951_827_696_000).to_string(), "2000-02-29 12:34:56 UTC");
        assert_eq!(UnixMillis(1_795_000_000_999).to_string(), "2026-11-18 11:06:40 UTC");
    }

    proptest! {
        #[test]
        fn node_id_round_trips(bytes: [u8; 32]) {
            let id = NodeId(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(postcard::from_bytes::<NodeId>(&postcard::to_allocvec(&id).unwrap()).unwrap(), id);
        }
    }
}
