//! Packets that vanish without a word: nftables hooks at the device, since tc has no classifier here.

use anyhow::Result;

use super::namespace::Namespace;

/// The table of the lab in a namespace; deleting it heals everything.
const TABLE: &str = "netdev lab";

/// Which packets of a device vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// The script that makes every packet of the given devices and ways vanish.
fn script(drops: &[(&str, Way)]) -> String {
    let mut script = format!("add table {TABLE};");
    for (number, (device, way)) in drops.iter().enumerate() {
        let hook = match way {
            Way::In => "ingress",
            Way::Out => "egress",
        };
        script += &format!(
            " add chain {TABLE} c{number} {{ type filter hook {hook} device {device} priority 0; policy drop; }};"
        );
    }
    script
}

/// Drops everything on these devices and ways, in one transaction.
pub(crate) fn begin(host: &Namespace, drops: &[(&str, Way)]) -> Result<()> {
    host.nft(&script(drops)).map(drop)
}

/// Lets packets pass again.
pub(crate) fn end(host: &Namespace) -> Result<()> {
    host.nft(&format!("delete table {TABLE}")).map(drop)
}

/// Drops a share of what a device sends at random, without delay; `per_mille` of 1,000 packets.
pub(crate) fn lose(host: &Namespace, device: &str, per_mille: u32) -> Result<()> {
    host.nft(&format!(
        "add table {TABLE}; add chain {TABLE} loss {{ type filter hook egress device {device} priority 0; policy accept; }}; \
         add rule {TABLE} loss numgen random mod 1000 < {per_mille} drop"
    ))
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_transaction_holds_a_chain_per_device_and_way() {
        assert_eq!(
            script(&[("e0", Way::In), ("e1", Way::Out)]),
            "add table netdev lab; \
             add chain netdev lab c0 { type filter hook ingress device e0 priority 0; policy drop; }; \
             add chain netdev lab c1 { type filter hook egress device e1 priority 0; policy drop; };"
        );
    }
}
