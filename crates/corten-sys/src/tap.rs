//! Ethernet links whose other end is a file: `/dev/net/tun` (Documentation/networking/tuntap.rst).

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::call::checked;

/// Makes a link in the network namespace of the calling thread. It goes with the file that is
/// returned, unless [`keep`] was called.
pub fn create(name: &str, multi_queue: bool) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?);
    // SAFETY: an ifreq of zeros is valid: an empty name, and flags of 0.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(Errno::INVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which lives across the call.
    let rc = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETIFF as libc::Ioctl,
            &raw mut request,
        )
    };
    checked(rc.into())?;
    Ok(file)
}

/// Lets this user open the link without privilege.
pub fn set_owner(link: &File, uid: u32) -> Result<(), Errno> {
    set(link, libc::TUNSETOWNER as libc::Ioctl, uid)
}

/// Lets the members of this group open the link without privilege.
pub fn set_group(link: &File, gid: u32) -> Result<(), Errno> {
    set(link, libc::TUNSETGROUP as libc::Ioctl, gid)
}

/// Keeps the link when its file is closed.
pub fn keep(link: &File) -> Result<(), Errno> {
    set(link, libc::TUNSETPERSIST as libc::Ioctl, 1)
}

fn set(link: &File, what: libc::Ioctl, value: u32) -> Result<(), Errno> {
    // SAFETY: these calls take an integer and touch no memory of ours.
    let rc = unsafe { libc::ioctl(link.as_raw_fd(), what, libc::c_ulong::from(value)) };
    checked(rc.into()).map(drop)
}
