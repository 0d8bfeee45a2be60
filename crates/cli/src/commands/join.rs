//! `meshara join`: becomes a member with a ticket.

use clap::Args;
use meshara::config::PeerAddr;
use meshara_identity::NodeName;

use crate::context::Context;
use crate::duration::Span;
use crate::failure::Failure;
use crate::node;

/// Join a mesh with a ticket
///
/// Needs no running node. Tries the addresses in the ticket and every --peer for up to 20 seconds. The peers are remembered
/// for `up`. A refused join consumes no use of the ticket. With a ticket that asks for approval it waits until an operator has given it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara join meshara1abc… --name bob && meshara up
  meshara join meshara1abc… --name bob --peer 192.0.2.7:6374")]
pub(crate) struct JoinArgs {
    /// The ticket that `meshara invite` printed
    pub(crate) ticket: String,
    /// Name of this node in the mesh: a-z, 0-9 and '-', at most 63
    #[arg(long)]
    pub(crate) name: NodeName,
    /// Member to join through, HOST:PORT; repeatable
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Vec<PeerAddr>,
    /// How long to wait for an operator's approval, if the ticket asks for one; a later join goes on where this one ended
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) wait: Span,
}

pub(crate) async fn run(args: JoinArgs, context: &Context) -> Result<(), Failure> {
    node::join(context, args).await
}
