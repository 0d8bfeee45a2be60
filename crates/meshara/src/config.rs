//! `config.toml` in the home: what the flags of `meshara up` can set. Flags override the file.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use meshara_interface::DeviceName;
use meshara_transport::quic::CongestionControl;
use meshara_trust::sets::SILENCE_LIMIT;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Name of the file inside a home.
pub const CONFIG_NAME: &str = "config.toml";

/// UDP port used when none is given: "MESH" on a telephone keypad, unassigned at IANA.
pub const DEFAULT_PORT: u16 = 6374;

/// Largest configuration file read: a thousand neighbours fit many times over.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Most neighbours that may be configured; each is dialled for ever.
pub const MAX_CONFIGURED_PEERS: usize = 256;

/// How long a name may take to resolve. A resolver with a dead first server asks the next after 1 to 2 s as commonly configured;
/// the C library's own limit is far longer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How a node behaves. Unknown keys are errors, so that a typing mistake never passes for a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// UDP address to listen on. None: all interfaces, [`DEFAULT_PORT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Neighbours to keep a link with, beside those remembered from `join`.
    pub peers: Vec<PeerAddr>,
    /// Whether to find neighbours by LAN multicast and be found.
    pub multicast: bool,
    /// Whether to choose further neighbours; `false` keeps links with configured ones only.
    pub auto: bool,
    /// Whether sessions may go straight to the peer; `false` keeps them on the overlay.
    pub direct: bool,
    /// Whether peers must prove that their certificates are in the log of who issued them; `false` only says who doesn't.
    pub require_logged: bool,
    /// Congestion control of sessions: `bbr`, `cubic`, `newreno` or `quinn-bbr`.
    pub congestion: CongestionControl,
    /// For how many seconds the mesh's signers may be silent before this node accepts nothing any more: 24 h.
    pub stale_after_s: u64,
    /// Whether programs of this machine reach other nodes through a TUN interface: `true`, or its name.
    pub tun: TunSetting,
    /// Where DNS queries for the mesh's names are answered. None: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<SocketAddr>,
    /// TCP address where other trust domains fetch the mesh's SPIFFE bundle. None: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint: Option<SocketAddr>,
    /// Form of the log of `meshara up`: `human` or `json`.
    pub log: LogForm,
}

/// Whether there is to be a TUN interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TunSetting {
    /// None.
    #[default]
    Off,
    /// One with the first free name: `meshara0`, `meshara1`, …
    On,
    /// One with this name.
    Named(DeviceName),
}

impl Serialize for TunSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::On => serializer.serialize_bool(true),
            Self::Named(name) => serializer.collect_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for TunSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Setting;

        impl de::Visitor<'_> for Setting {
            type Value = TunSetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or the name of an interface")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<TunSetting, E> {
                Ok(if on { TunSetting::On } else { TunSetting::Off })
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TunSetting, E> {
                name.parse().map(TunSetting::Named).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Setting)
    }
}

/// Form of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogForm {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            peers: Vec::new(),
            multicast: true,
            auto: true,
            direct: true,
            require_logged: false,
            congestion: CongestionControl::default(),
            tun: TunSetting::default(),
            dns: None,
            bundle_endpoint: None,
            stale_after_s: SILENCE_LIMIT.as_secs(),
            log: LogForm::default(),
        }
    }
}

impl Config {
    /// Reads `config.toml` of a home. A home without one has the default configuration.
    ///
    /// # Errors
    /// The file does not read, is too large, or is not valid: the error names file, line and column.
    pub fn load(home: &Path) -> Result<Self, ConfigError> {
        let path = home.join(CONFIG_NAME);
        let read = |source: io::Error| ConfigError::Read {
            path: path.clone(),
            kind: source.kind(),
            reason: source.to_string(),
        };
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(read(error)),
        };
        if size > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge { path, size, limit: MAX_CONFIG_BYTES });
        }
        let text = std::fs::read_to_string(&path).map_err(read)?;
        Self::parse(&text, &path)
    }

    /// How long the mesh's signers may be silent.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        Duration::from_secs(self.stale_after_s)
    }

    /// Reads configuration from text; `path` is what errors name.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = error.span().map_or((1, 1), |span| position(text, span.start));
            ConfigError::Invalid { path: path.to_owned(), line, column, reason: error.message().to_owned() }
        })?;
        if config.peers.len() > MAX_CONFIGURED_PEERS {
            return Err(ConfigError::TooManyPeers {
                path: path.to_owned(),
                count: config.peers.len(),
                limit: MAX_CONFIGURED_PEERS,
            });
        }
        Ok(config)
    }
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

/// Why a configuration was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The operating system refused.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// For programs.
        kind: io::ErrorKind,
        /// For people.
        reason: String,
    },
    /// The file is absurdly large.
    #[error("{} holds {size} bytes, more than the {limit} that a configuration may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The largest size.
        limit: u64,
    },
    /// The text is not TOML, or not a configuration.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// More neighbours than a node keeps.
    #[error("{} lists {count} peers, more than {limit}", path.display())]
    TooManyPeers {
        /// The file.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// The UDP address of a node as people write it: `host:port`, with a name or an address (`[::1]:6374`) as host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(String);

impl PeerAddr {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address itself, when it isn't a name.
    #[must_use]
    pub fn literal(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }

    /// Addresses that the host has now, without duplicates, in the resolver's order.
    ///
    /// # Errors
    /// The name does not resolve, or not within 3 s.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(self.as_str())).await;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the name does not resolve within 3 s");
        let mut found = Vec::new();
        for addr in lookup.map_err(late)?? {
            if !found.contains(&addr) {
                found.push(addr);
            }
        }
        Ok(found)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.to_string())
    }
}

/// The text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address of the form HOST:PORT")]
pub struct PeerAddrError {
    /// The text.
    pub text: String,
}

impl FromStr for PeerAddr {
    type Err = PeerAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.parse::<SocketAddr>().map_or_else(
            |_| {
                text.rsplit_once(':').is_some_and(|(host, port)| {
                    is_host_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
                })
            },
            |addr| addr.port() != 0,
        );
        if valid { Ok(Self(text.to_owned())) } else { Err(PeerAddrError { text: text.to_owned() }) }
    }
}

/// RFC 1123 host names, plus the underscore that some sites use.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let all_numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253 && !all_numeric && host.trim_end_matches('.').split('.').all(label)
}

impl Serialize for PeerAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PeerAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/h/config.toml"))
    }

    #[test]
    fn every_key_reads() {
        let config = parse(
            "listen = '[::]:2'\npeers = ['a.example:3', '192.0.2.1:4']\nmulticast = false\nauto = false\ndirect = false\nrequire_logged = true\ncongestion = 'cubic'\ntun = 'mesh0'\ndns = '[::1]:53'\nbundle_endpoint = '[::]:8443'\nstale_after_s = 60\nlog = 'json'\n",
        )
        .unwrap();
        assert_eq!(
            config,
            Config {
                listen: Some("[::]:2".parse().unwrap()),
                peers: vec!["a.example:3".parse().unwrap(), "192.0.2.1:4".parse().unwrap()],
                multicast: false,
                auto: false,
                direct: false,
                require_logged: true,
                congestion: CongestionControl::Cubic,
                tun: TunSetting::Named("mesh0".parse().unwrap()),
                dns: Some("[::1]:53".parse().unwrap()),
                bundle_endpoint: Some("[::]:8443".parse().unwrap()),
                stale_after_s: 60,
                log: LogForm::Json,
            }
        );
        assert_eq!(parse(&toml::to_string(&config).unwrap()), Ok(config));
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let error = parse("auto = true\nmulticst = false\n").unwrap_err();
        assert!(matches!(&error, ConfigError::Invalid { line: 2, column: 1, .. }), "{error:?}");
        assert!(error.to_string().starts_with("/h/config.toml:2:1: unknown field `multicst`"), "{error}");
        let error = parse("\n\nauto = 'yes'\n").unwrap_err();
        assert!(matches!(error, ConfigError::Invalid { line: 3, column: 8, .. }), "{error:?}");
        for (text, tun) in [("tun = true", TunSetting::On), ("tun = false", TunSetting::Off)] {
            assert_eq!(parse(text).unwrap().tun, tun);
        }
        let error = parse("tun = 1").unwrap_err();
        assert!(error.to_string().contains("true, false or the name of an interface"), "{error}");
        let error = parse("peers = ['nowhere']").unwrap_err();
        assert!(error.to_string().contains("`nowhere` is not an address of the form HOST:PORT"), "{error}");
    }

    #[test]
    fn too_many_peers_are_refused() {
        let peers = (1..=257).map(|port| format!("'h:{port}'")).collect::<Vec<_>>().join(",");
        assert!(matches!(
            parse(&format!("peers = [{peers}]")),
            Err(ConfigError::TooManyPeers { count: 257, limit: 256, .. })
        ));
    }

    #[test]
    fn a_home_without_a_file_has_the_defaults_and_a_directory_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(home.path()), Ok(Config::default()));
        std::fs::create_dir(home.path().join(CONFIG_NAME)).unwrap();
        assert!(matches!(Config::load(home.path()), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let literal = |text: &str| text.parse::<PeerAddr>().unwrap().literal();
        assert_eq!(literal("[::1]:9"), Some("[::1]:9".parse().unwrap()));
        assert_eq!(literal("localhost:9"), None);
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for good in ["h:1", "a-b.example:65535", "127.0.0.1:9", "[::1]:9", "fqdn.example.:7"] {
            assert!(good.parse::<PeerAddr>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ":1",
            "h",
            "h:",
            "h:0",
            "h:70000",
            "127.0.0.1",
            "::1:9",
            "-h:1",
            "a..b:1",
            "300.1.1.1:5",
            "h h:1",
        ] {
            assert_eq!(bad.parse::<PeerAddr>(), Err(PeerAddrError { text: bad.to_owned() }), "{bad}");
        }
    }
}
