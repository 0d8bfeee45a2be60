//! `meshara peers`: the neighbours.

use clap::Args;
use meshara::api::PeerState;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Colour, Table};
use crate::text;

/// List the neighbours and their links
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara peers
  meshara peers --json | jq -r 'select(.state == \"up\") | .addr'")]
pub(crate) struct PeersArgs {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let peers = context.client().peers().await?;
    if context.json {
        for peer in &peers {
            output::json(peer)?;
        }
        return Ok(());
    }
    let mut table = Table::new(
        output::stdout_paint(),
        &[
            ("NAME", Align::Left),
            ("NODE", Align::Left),
            ("ADDRESS", Align::Left),
            ("STATE", Align::Left),
            ("SINCE", Align::Right),
            ("RTT ms", Align::Right),
            ("LOSS", Align::Right),
            ("Mbit/s", Align::Right),
            ("TIER", Align::Left),
            ("SENT", Align::Right),
            ("RECEIVED", Align::Right),
            ("KEYS", Align::Left),
        ],
    );
    for peer in peers {
        let (state, colour) = match peer.state {
            PeerState::Up => ("up", Colour::Good),
            PeerState::Suspect => ("suspect", Colour::Warn),
            PeerState::Down => ("down", Colour::Bad),
        };
        let plain = |cell: String| (cell, Colour::None);
        table.coloured_row(vec![
            plain(text::node(&peer.name, &peer.node_id)),
            plain(text::short(&peer.node_id)),
            plain(peer.addr),
            (state.to_owned(), colour),
            plain(text::seconds(peer.since_s)),
            plain(text::ms(peer.rtt_ms)),
            plain(format!("{:.1}%", peer.loss * 100.0)),
            plain(peer.rate_mbit_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"))),
            plain(peer.tier.unwrap_or_else(|| "-".to_owned())),
            plain(text::bytes(peer.tx_bytes)),
            plain(text::bytes(peer.rx_bytes)),
            plain(format!("{} {}", peer.kex, peer.auth)),
        ]);
    }
    Ok(output::line(table)?)
}
