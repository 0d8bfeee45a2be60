//! A TUN device of Linux: IP packets without a link layer, unsegmented ones among them.
//!
//! The only module with unsafe code: two calls that hand the kernel a structure which no safe wrapper knows, and one that
//! promises the runtime that the device stays open.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Updater, ioctl};
use tokio::io::unix::AsyncFd;

use crate::device_name::{DeviceName, NAME_LEN};
use crate::vnet::VNET_LEN;

/// `TUNSETIFF`: `_IOW('T', 202, int)`, linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;
/// `TUNSETOFFLOAD`: `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;

/// A device of IP packets, without the four bytes of packet information, with a `virtio_net_hdr` before each packet.
const FLAGS: u16 = 0x0001 | 0x1000 | 0x4000;
/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`; the kernel takes the two only together with the first.
const OFFLOADS: usize = 0x01 | 0x02 | 0x04;
/// `TUN_F_USO4`, `TUN_F_USO6`: Linux 6.2 and later.
const UDP_OFFLOADS: usize = 0x20 | 0x40;

/// The kernel puts the first free number in.
const PATTERN: &str = "meshara%d";

/// Room for one read: the device's header and the largest packet, of 65,535 bytes behind its header.
const READ_LEN: usize = VNET_LEN + 40 + 65_535;

/// `struct ifreq` as `TUNSETIFF` uses it: name, flags, and the rest of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_LEN],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The kernel has no TUN driver, or it is hidden from this process.
    #[error("this system offers no TUN devices (/dev/net/tun)")]
    NoDriver,
    /// Making one needs a capability.
    #[error(
        "making a TUN device needs the capability CAP_NET_ADMIN: run as root, or give it to the program once with setcap cap_net_admin+ep"
    )]
    NotPermitted,
    /// Another process has the device.
    #[error("the interface {name} is in use")]
    InUse {
        /// Its name.
        name: String,
    },
    /// An interface of another kind has the name.
    #[error("the interface {name} is no TUN device of the kind needed")]
    OtherKind {
        /// Its name.
        name: String,
    },
    /// Anything else.
    #[error("can't make a TUN device: {0}")]
    Io(String),
}

/// An open device. It vanishes when this is dropped.
#[derive(Debug)]
pub struct Device {
    file: File,
    name: String,
}

impl Device {
    /// Makes a device with this name, or the first free `meshara0`, `meshara1`, …
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn open(name: Option<&DeviceName>) -> Result<Self, DeviceError> {
        let wanted = name.map_or(PATTERN, DeviceName::as_str);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/net/tun")
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => DeviceError::NoDriver,
                io::ErrorKind::PermissionDenied => DeviceError::NotPermitted,
                _ if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => DeviceError::NoDriver,
                _ => DeviceError::Io(error.to_string()),
            })?;
        let mut request = InterfaceRequest { name: [0; NAME_LEN], flags: FLAGS, rest: [0; 22] };
        request.name.iter_mut().zip(wanted.bytes()).for_each(|(to, from)| *to = from);
        configure(&file, &mut request).map_err(|error| match error {
            Errno::PERM | Errno::ACCESS => DeviceError::NotPermitted,
            Errno::BUSY => DeviceError::InUse { name: wanted.to_owned() },
            Errno::INVAL => DeviceError::OtherKind { name: wanted.to_owned() },
            _ => DeviceError::Io(error.to_string()),
        })?;
        let name = request.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self { file, name: String::from_utf8_lossy(name).into_owned() })
    }

    /// Lets the runtime say when packets wait.
    ///
    /// # Errors
    /// The runtime can't watch it. Must be called inside one with IO.
    #[allow(unsafe_code)]
    pub fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `as_raw_fd` gives the descriptor of the file that the device owns, open until the device is dropped; nothing
        // replaces or closes it before.
        Ok(unsafe { AsyncFd::register(self)? })
    }

    /// The name that it has.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet with its header ([`crate::vnet`]) into `buffer`, which is emptied first and grows as needed.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        buffer.reserve(READ_LEN);
        rustix::io::read(&self.file, rustix::buffer::spare_capacity(buffer))?;
        Ok(())
    }

    /// Writes one packet, its header in front.
    ///
    /// # Errors
    /// The kernel refuses it, or the device is down.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.file, pieces)?;
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[allow(unsafe_code)]
fn configure(file: &File, request: &mut InterfaceRequest) -> rustix::io::Result<()> {
    // SAFETY: `TUNSETIFF` reads and writes a `struct ifreq`, 40 bytes, and nothing else; `InterfaceRequest` has its size and
    // layout (asserted above), every bit pattern of it is valid, and the borrow lasts for the call.
    unsafe { ioctl(file.as_fd(), Updater::<TUNSETIFF, InterfaceRequest>::new(request))? };
    let offload = |flags| {
        // SAFETY: `TUNSETOFFLOAD` takes its flags as the argument itself and touches no memory of ours.
        unsafe { ioctl(file.as_fd(), IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }
    };
    offload(OFFLOADS | UDP_OFFLOADS).or_else(|_| offload(OFFLOADS))
}
