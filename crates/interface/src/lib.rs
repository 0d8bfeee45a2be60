//! What joins a node to every program of its machine: a TUN device, IPv6 packets that the kernel hands over unsegmented, and
//! answers to DNS queries. Knows nothing of sessions. `docs/interface.md` says how the parts work together.

pub mod carry;
mod checksum;
#[cfg(target_os = "linux")]
pub mod device;
mod device_name;
pub mod dns;
pub mod flows;
pub mod icmp;
pub mod packet;
pub mod queue;
pub mod vnet;

pub use carry::{Arrival, Burst, CARRY_LEN, CarryError, Departure, DepartureError, TooBig};
#[cfg(target_os = "linux")]
pub use device::{Device, DeviceError};
pub use device_name::{DeviceName, DeviceNameError};
pub use dns::{Name, Zone};
pub use flows::{Flows, Question};
pub use icmp::Problem;
pub use packet::{Flow, Packet, PacketError};
pub use queue::Queue;

/// MTU of the device in bytes, above the 1,280 that IPv6 asks for (RFC 8200 §5), and the same for every peer.
///
/// One packet fits in the smallest QUIC packet of a session (1,380 bytes, of which QUIC takes 38 at most), so nothing is ever cut into
/// parts here; two TCP segments fit in one over a long path (2,760), and twelve, with TCP's timestamps, fill the largest (15,180) but for
/// 30 bytes, in which an acknowledgement finds room.
pub const MTU: u16 = 1325;

/// TCP segments that the kernel is asked to hand over at once: four datagrams of twelve.
pub const SEGMENTS: u16 = 48;
