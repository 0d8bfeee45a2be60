//! The words that the driver and the core share: links, peers, outputs, events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::{MeshAddress, NodeId};

use crate::table::ForwardingTable;

/// A link, named by the driver. Never reused while the core knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Takes part in routing: advertised, carries transit and floods.
    Routing,
    /// Made on demand between two nodes that talk. Not advertised; carries only traffic to that peer.
    Direct,
}

/// What the driver knows of the other end of a link when the link comes up.
#[derive(Clone, Debug)]
pub struct LinkPeer {
    /// The peer, proved by the handshake.
    pub node: NodeId,
    /// Its mesh address.
    pub address: MeshAddress,
    /// Whether we dialled.
    pub dialled_by_us: bool,
    /// What the link is for.
    pub kind: LinkKind,
    /// Largest hop-frame payload, bytes.
    pub mtu: u16,
    /// Round trip measured by the handshake.
    pub rtt: Option<Duration>,
    /// Where the peer's packets come from. Tells which address-only target a dialled link fulfils.
    pub remote: Option<SocketAddr>,
}

/// Who we are.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Our node id.
    pub node: NodeId,
    /// Our mesh address.
    pub address: MeshAddress,
}

/// Why the driver says that a link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkDownReason {
    /// The peer closed it and gave no reason that concerns us.
    Closed,
    /// The peer closed it with [`CloseReason::Full`]: don't ask again soon.
    Refused,
    /// The peer closed it with [`CloseReason::Duplicate`] or [`CloseReason::Swapped`]: no reason to redial.
    Redundant,
    /// The peer said that it leaves the mesh.
    Left,
    /// The transport gave up (idle timeout, reset).
    TimedOut,
    /// The driver closed it (misbehaviour, shutdown of the link by the user).
    Local,
}

/// Evidence from the operating system that a link may have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// The interface that carries the link went down.
    InterfaceDown,
    /// ICMP said that the peer's host or port can't be reached.
    Unreachable,
}

/// Where a [`KnownNode`] was learnt. Later variants are trusted less and forgotten first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnownOrigin {
    /// The operator named it: always kept as a neighbour.
    Configured,
    /// It came in the ticket: dialled while we have no neighbour.
    Ticket,
    /// It announced itself on the local network.
    Multicast,
    /// Members gossip its signed address record, or the driver's address book holds it.
    Gossip,
}

/// A node that could be dialled.
#[derive(Clone, Debug)]
pub struct KnownNode {
    /// Its id, if known; an address alone will do.
    pub node: Option<NodeId>,
    /// Where to try, best first. More than [`crate::record::MAX_ADDRESSES`] are cut off.
    pub addrs: Vec<SocketAddr>,
    /// How we know.
    pub origin: KnownOrigin,
}

/// Whom to dial. The driver hands it back to [`crate::Core::dial_failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialTarget {
    /// The node that must answer, if known.
    pub node: Option<NodeId>,
    /// Addresses to try.
    pub addrs: Vec<SocketAddr>,
}

/// Why the core closes a link. The driver sends [`CloseReason::code`] as the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Nothing heard for the dead time.
    Dead,
    /// Another link to the same node is kept.
    Duplicate,
    /// We have as many neighbours as we accept.
    Full,
    /// Probes never passed both ways after the handshake.
    Unconfirmed,
    /// A better neighbour took its place.
    Swapped,
    /// This node leaves the mesh.
    Leaving,
    /// The mesh revoked the node at the other end.
    Revoked,
}

impl CloseReason {
    /// The reason as a number for the wire, 1 to 7.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Dead => 1,
            Self::Duplicate => 2,
            Self::Full => 3,
            Self::Unconfirmed => 4,
            Self::Swapped => 5,
            Self::Leaving => 6,
            Self::Revoked => 7,
        }
    }

    /// What a close with this code means at the end that did not close.
    #[must_use]
    pub const fn heard(code: u64) -> LinkDownReason {
        match code {
            2 | 5 => LinkDownReason::Redundant,
            3 | 7 => LinkDownReason::Refused,
            6 => LinkDownReason::Left,
            _ => LinkDownReason::Closed,
        }
    }
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a probe on the link, unreliable, at once.
    Probe {
        /// On which link.
        link: LinkId,
        /// The probe.
        bytes: Vec<u8>,
    },
    /// Send a control message on the link, reliable and in order.
    Control {
        /// On which link.
        link: LinkId,
        /// The message, at most [`crate::control::MAX_CONTROL_LEN`] bytes.
        bytes: Vec<u8>,
    },
    /// Dial. A second dial of a target under way restarts it if nothing was heard from the target yet, else is ignored.
    Dial {
        /// Whom.
        target: DialTarget,
        /// For what kind of link.
        kind: LinkKind,
    },
    /// Close the link. The core has forgotten it already; a `link_down` for it is ignored.
    CloseLink {
        /// Which link.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// Flip the data plane's flag for the link at once.
    LinkUsable {
        /// Which link.
        link: LinkId,
        /// Whether frames may be sent on it.
        usable: bool,
    },
    /// Publish this table to the data plane.
    Table(Arc<ForwardingTable>),
    /// Something that users or logs want to know.
    Event(Event),
}

/// What happened, for logs and the API. Nothing depends on these.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Probes pass both ways on a new link.
    LinkUp {
        /// Which link.
        link: LinkId,
        /// To whom.
        node: NodeId,
    },
    /// The link fell silent (or one-way); traffic moves away.
    LinkSuspect {
        /// Which link.
        link: LinkId,
        /// To whom.
        node: NodeId,
    },
    /// A suspect link is heard again.
    LinkRecovered {
        /// Which link.
        link: LinkId,
        /// To whom.
        node: NodeId,
        /// How long it was suspect.
        after: Duration,
    },
    /// The link is gone: closed by us (reason given) or by the driver (none).
    LinkDown {
        /// Which link.
        link: LinkId,
        /// To whom.
        node: NodeId,
        /// Our reason, if we closed it.
        reason: Option<CloseReason>,
    },
    /// A route to the node exists now.
    NodeReachable(NodeId),
    /// No route to the node is left.
    NodeUnreachable(NodeId),
    /// The node announced that it leaves.
    NodeLeft(NodeId),
    /// A head of an issuer's log is held from now on.
    HeadTaken(crate::heads::HeadId),
    /// The process stood still this long; peers were given credit for it.
    Stalled(Duration),
    /// The process or machine slept this long; every link is probed anew.
    Woke(Duration),
}
