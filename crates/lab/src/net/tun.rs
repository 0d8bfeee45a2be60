//! Opens a TUN device in the namespace of the calling thread: the kernel's end of a delayed wire.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{IntegerSetter, Setter, ioctl};

/// `TUNSETIFF`: `_IOW('T', 202, int)`, linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;
/// `TUNSETOFFLOAD`: `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;

/// A device of IP packets, without the four bytes of packet information.
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
/// A `virtio_net_hdr` before each packet, so that unsegmented packets can pass.
const IFF_VNET_HDR: u16 = 0x4000;

/// Checksum, TSO for IPv4 and IPv6, and UDP segmentation for both (`TUN_F_*`).
const OFFLOADS: usize = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;

/// `IFNAMSIZ`: a name and its final zero.
const NAME_LEN: usize = 16;

/// `struct ifreq` as `TUNSETIFF` reads it: name, flags, and the rest of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_LEN],
    flags: u16,
    rest: [u8; 22],
}

/// Creates the device. With `offload`, segmentation is left to its other end, and every packet read begins with the header of it
/// (10 bytes), which is valid to write to another such device.
pub(crate) fn open(name: &str, offload: bool) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun (is the tun module there?)")?;
    ensure!(name.len() < NAME_LEN, "interface name {name} is too long");
    let mut request = InterfaceRequest { name: [0; NAME_LEN], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    if offload {
        request.flags |= IFF_VNET_HDR;
    }
    configure(&file, request, offload).with_context(|| format!("cannot create the TUN device {name}"))?;
    Ok(file)
}

// The one place of the workspace where the kernel is handed a structure that no safe wrapper knows.
#[allow(unsafe_code)]
fn configure(file: &File, request: InterfaceRequest, offload: bool) -> rustix::io::Result<()> {
    // SAFETY: `TUNSETIFF` reads a `struct ifreq` of 40 bytes and writes only inside it; `InterfaceRequest` has its layout.
    unsafe { ioctl(file.as_fd(), Setter::<TUNSETIFF, InterfaceRequest>::new(request))? };
    if offload {
        // SAFETY: `TUNSETOFFLOAD` takes its flags as the argument itself.
        unsafe { ioctl(file.as_fd(), IntegerSetter::<TUNSETOFFLOAD>::new_usize(OFFLOADS))? };
    }
    Ok(())
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);
