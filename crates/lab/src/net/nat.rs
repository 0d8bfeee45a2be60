//! Two private networks behind address translation, and a public node between them.
//!
//! ```text
//! a (192.168.1.2) — nat-a — (203.0.113.2) \
//!                                          inet — public (198.51.100.2)
//! b (192.168.2.2) — nat-b — (203.0.113.6) /
//! ```

use anyhow::Result;

use super::link::join;
use super::namespace::Namespace;
use crate::run::Run;

/// How an address translator chooses the outer port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Translation {
    /// Keeps the inner port for every destination: hole punching works.
    PortPreserving,
    /// A new random port for every destination ("symmetric"): it does not.
    Symmetric,
}

/// The hosts that run nodes.
#[derive(Debug)]
pub(crate) struct NatLab {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    pub(crate) public: Namespace,
}

/// Where the public node listens.
pub(crate) const PUBLIC: &str = "198.51.100.2:6374";

impl NatLab {
    /// Builds it; `tag` keeps the names of several labs of one run apart.
    pub(crate) fn build(run: &Run, tag: &str, kinds: [Translation; 2]) -> Result<Self> {
        let host = |name: &str| Namespace::create(run.namespace(&format!("{tag}{name}")));
        let inet = host("inet")?;
        inet.sysctl("net.ipv4.ip_forward", "1")?;
        let public = host("public")?;
        join(&inet, "p", "198.51.100.1/30", &public, "eth", "198.51.100.2/30")?;
        public.ip(&["route", "add", "default", "via", "198.51.100.1"])?;
        let [a, b] = [("a", 1_u8, 0_u8, kinds[0]), ("b", 2, 4, kinds[1])].map(|(name, net, offset, kind)| {
            let inside = host(name)?;
            let nat = host(&format!("nat{name}"))?;
            let outer = |last: u8| format!("203.0.113.{}", offset + last);
            join(&inet, name, &format!("{}/30", outer(1)), &nat, "wan", &format!("{}/30", outer(2)))?;
            let inner = |last: u8| format!("192.168.{net}.{last}");
            join(&nat, "lan", &format!("{}/24", inner(1)), &inside, "eth", &format!("{}/24", inner(2)))?;
            nat.ip(&["route", "add", "default", "via", &outer(1)])?;
            inside.ip(&["route", "add", "default", "via", &inner(1)])?;
            nat.sysctl("net.ipv4.ip_forward", "1")?;
            nat.nft(&rules(kind))?;
            Ok::<_, anyhow::Error>(inside)
        });
        Ok(Self { a: a?, b: b?, public })
    }
}

/// Translation, and silence towards what nobody inside asked for: without the drop, an early packet of the other side would take the
/// port that the hole needs.
fn rules(kind: Translation) -> String {
    let random = match kind {
        Translation::PortPreserving => "",
        Translation::Symmetric => " random,fully-random",
    };
    format!(
        "add table ip nat; \
         add chain ip nat post {{ type nat hook postrouting priority 100; policy accept; }}; \
         add rule ip nat post oifname \"wan\" masquerade{random}; \
         add table ip filter; \
         add chain ip filter here {{ type filter hook input priority 0; policy accept; }}; \
         add rule ip filter here iifname \"wan\" ct state established,related accept; \
         add rule ip filter here iifname \"wan\" drop; \
         add chain ip filter across {{ type filter hook forward priority 0; policy accept; }}; \
         add rule ip filter across iifname \"wan\" ct state established,related accept; \
         add rule ip filter across iifname \"wan\" drop"
    )
}
