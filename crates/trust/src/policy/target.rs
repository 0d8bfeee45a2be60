//! Whom and what rules are about, and what they are asked.

use std::fmt;
use std::str::FromStr;

use meshara_identity::{NameError, RoleName};
use serde::{Deserialize, Serialize};

use super::glob::{Glob, GlobError};

/// Longest name that is asked for. A longer one matches no rule, so it is denied by default.
pub const NAME_MAX: usize = 256;

/// What kind of thing is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TargetKind {
    /// `NODE/SERVICE` as `meshara connect` names it.
    Service,
    /// A topic, the same in the whole mesh.
    Topic,
    /// `NODE/FILE`.
    File,
    /// `NODE/CALL` of the control API.
    Control,
    /// `NODE/PROTOCOL` (tcp, udp, icmp) and a port of the TUN interface.
    Tun,
    /// `NODE/ping`, `trace`, `bench`, `message`: what every node does for members.
    Mesh,
}

impl TargetKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Service, Self::Topic, Self::File, Self::Control, Self::Tun, Self::Mesh];

    /// The word for it in policy files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Topic => "topic",
            Self::File => "file",
            Self::Control => "control",
            Self::Tun => "tun",
            Self::Mesh => "mesh",
        }
    }
}

/// Who asks: as its certificate, which the caller of this crate has verified, says.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// Its SPIFFE ID.
    pub spiffe_id: &'a str,
    /// Its roles.
    pub roles: &'a [RoleName],
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its kind.
    pub kind: TargetKind,
    /// Its name.
    pub name: &'a str,
    /// Its port: TUN alone has one.
    pub port: u16,
}

impl<'a> Asked<'a> {
    /// Reads what a person asks about: `KIND:NAME`, `tun:NAME:PORT`, or `NODE/SERVICE` for a service.
    pub fn parse(text: &'a str) -> Result<Self, TargetError> {
        let (kind, name) = match text.split_once(':') {
            None => (TargetKind::Service, text),
            Some((word, name)) => {
                let kind = TargetKind::ALL.into_iter().find(|kind| kind.word() == word);
                (kind.ok_or_else(|| TargetError::NoKind(text.to_owned()))?, name)
            }
        };
        let (name, port) = match name.rsplit_once(':').filter(|_| kind == TargetKind::Tun) {
            None => (name, 0),
            Some((name, port)) => {
                let port = parse_port(port).ok_or_else(|| TargetError::BadPorts(port.to_owned()))?;
                (name, port)
            }
        };
        Ok(Self { kind, name, port })
    }
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Who {
    /// Nodes by name.
    Name(Glob),
    /// Members by SPIFFE ID.
    Spiffe(Glob),
    /// Members with a role.
    Role(RoleName),
}

impl Who {
    /// Whether it names `caller`.
    pub fn matches(&self, caller: &Caller<'_>) -> bool {
        match self {
            Self::Name(glob) => caller.name.len() <= NAME_MAX && glob.matches(caller.name),
            Self::Spiffe(glob) => caller.spiffe_id.len() <= NAME_MAX && glob.matches(caller.spiffe_id),
            Self::Role(role) => caller.roles.contains(role),
        }
    }
}

/// Why a text names no caller or target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// The role.
    #[error("{0} is not a role: {1}")]
    BadRole(String, NameError),
    /// No kind before the first `:`.
    #[error("{0:?} has no kind: write service:, topic:, file:, control:, tun: or mesh: before the name")]
    NoKind(String),
    /// Ports that aren't.
    #[error("{0:?} are no ports: one of 1-65535, or two with `-` between and the lower first")]
    BadPorts(String),
}

impl FromStr for Who {
    type Err = TargetError;

    /// `role:ROLE`, a pattern of SPIFFE IDs (`spiffe://…`), or a pattern of node names.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(role) = text.strip_prefix("role:") {
            let parsed = role.parse().map_err(|error| TargetError::BadRole(role.to_owned(), error))?;
            return Ok(Self::Role(parsed));
        }
        let glob = text.parse()?;
        Ok(if text.starts_with("spiffe://") { Self::Spiffe(glob) } else { Self::Name(glob) })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(glob) | Self::Spiffe(glob) => glob.fmt(f),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Every port, and port 0: what has no port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl TryFrom<(u16, u16)> for Ports {
    type Error = TargetError;

    fn try_from((first, last): (u16, u16)) -> Result<Self, TargetError> {
        let all = (first, last) == (Self::ALL.first, Self::ALL.last);
        if all || (first > 0 && first <= last) {
            Ok(Self { first, last })
        } else {
            Err(TargetError::BadPorts(format!("{first}-{last}")))
        }
    }
}

impl From<Ports> for (u16, u16) {
    fn from(ports: Ports) -> Self {
        (ports.first, ports.last)
    }
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The kind.
    pub kind: TargetKind,
    /// The name.
    pub name: Glob,
    /// The ports; [`Ports::ALL`] but for the TUN.
    pub ports: Ports,
}

impl Target {
    /// Whether it covers what is asked for.
    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        self.kind == asked.kind
            && self.ports.contains(asked.port)
            && asked.name.len() <= NAME_MAX
            && self.name.matches(asked.name)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// `KIND:PATTERN`, and `:PORT` or `:PORT-PORT` behind it for the TUN.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let kind = text.split_once(':').and_then(|(word, name)| {
            TargetKind::ALL.into_iter().find(|kind| kind.word() == word).map(|kind| (kind, name))
        });
        let (kind, name) = kind.ok_or_else(|| TargetError::NoKind(text.to_owned()))?;
        let (name, ports) = match name.rsplit_once(':').filter(|_| kind == TargetKind::Tun) {
            Some((name, ports)) => (name, parse_ports(ports)?),
            None => (name, Ports::ALL),
        };
        Ok(Self { kind, name: name.parse()?, ports })
    }
}

fn parse_ports(text: &str) -> Result<Ports, TargetError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    parse_port(first)
        .zip(parse_port(last))
        .and_then(|ports| Ports::try_from(ports).ok())
        .ok_or_else(|| TargetError::BadPorts(text.to_owned()))
}

/// 1 to 65535 without leading zeros.
fn parse_port(digits: &str) -> Option<u16> {
    digits.parse().ok().filter(|port: &u16| *port > 0 && port.to_string() == digits)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.name)?;
        match self.ports {
            Ports::ALL => Ok(()),
            Ports { first, last } if first == last => write!(f, ":{first}"),
            Ports { first, last } => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_rules_are_read_and_written_alike() {
        for text in
            ["service:db/*", "topic:news", "tun:*", "tun:db/tcp:22", "tun:*/udp:1-65535", "mesh:*/ping"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["alice", "web-*", "role:ops", "spiffe://lab/node/*"] {
            assert_eq!(text.parse::<Who>().unwrap().to_string(), text);
        }
        assert_eq!("db/*".parse::<Target>(), Err(TargetError::NoKind("db/*".into())));
        assert_eq!("Service:x".parse::<Target>(), Err(TargetError::NoKind("Service:x".into())));
        for ports in ["0", "07", "65536", "9-1", "1-", "-"] {
            assert_eq!(format!("tun:*:{ports}").parse::<Target>(), Err(TargetError::BadPorts(ports.into())));
        }
        assert_eq!("tun::22".parse::<Target>(), Err(TargetError::Glob(GlobError::Empty)));
    }

    #[test]
    fn people_ask_about_services_by_their_bare_names() {
        let read = |text| Asked::parse(text).map(|asked| (asked.kind, asked.name, asked.port));
        assert_eq!(read("db/postgres"), Ok((TargetKind::Service, "db/postgres", 0)));
        assert_eq!(read("topic:a:b"), Ok((TargetKind::Topic, "a:b", 0)));
        assert_eq!(read("tun:db/tcp:22"), Ok((TargetKind::Tun, "db/tcp", 22)));
        assert_eq!(read("tun:db/icmp"), Ok((TargetKind::Tun, "db/icmp", 0)));
        assert_eq!(read("tun:db/tcp:x"), Err(TargetError::BadPorts("x".into())));
        assert_eq!(read("disk:x"), Err(TargetError::NoKind("disk:x".into())));
    }
}
