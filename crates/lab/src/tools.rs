//! What the lab needs of the machine: root, and a few programs.

use std::env;
use std::path::Path;

use anyhow::{Result, bail};

/// Programs and the Debian packages that hold them.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("iperf3", "iperf3"),
    ("ethtool", "ethtool"),
];

/// Why the lab cannot run here at all.
pub(crate) fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("skipped: needs root (network namespaces)".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("skipped: needs /dev/net/tun (links with delay)".to_owned());
    }
    None
}

/// Names every missing program and the package to install.
pub(crate) fn check() -> Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|(program, _)| !on_path(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    bail!("missing programs: {}; try: apt-get install {}", programs.join(", "), packages.join(" "))
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
