//! Names that network interfaces may have.

use std::fmt;
use std::str::FromStr;

/// `IFNAMSIZ`: a name and its final zero.
pub(crate) const NAME_LEN: usize = 16;

/// A name that an interface may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName(String);

/// The text can't name an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of an interface has 1 to 15 letters, digits, '-', '_' and '.'")]
pub struct DeviceNameError;

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..NAME_LEN).contains(&text.len()) && text.bytes().all(allowed);
        if fits && !matches!(text, "." | "..") { Ok(Self(text.to_owned())) } else { Err(DeviceNameError) }
    }
}

impl DeviceName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_interfaces() {
        for good in ["meshara0", "a", "tun-1_x.y", "fifteen-letters"] {
            assert_eq!(good.parse::<DeviceName>().unwrap().to_string(), good);
        }
        for bad in ["", "sixteen-letters-", ".", "..", "a/b", "a b", "mesh%d", "ä"] {
            assert_eq!(bad.parse::<DeviceName>(), Err(DeviceNameError), "{bad}");
        }
    }
}
