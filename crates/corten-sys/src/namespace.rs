//! Namespaces: sets of them, joining, unsharing, names of the host.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl};

use crate::call::checked;

/// A set of namespace kinds, as the kernel's `CLONE_NEW*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u32);

impl Namespaces {
    pub const NONE: Self = Self(0);
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u32);
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u32);
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u32);
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u32);
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u32);
    pub const PID: Self = Self(libc::CLONE_NEWPID as u32);
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET as u32);
    pub const TIME: Self = Self(0x80);

    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Moves the calling thread into the namespaces `kinds` of `fd`: a namespace file, or a pidfd
/// (Linux 5.8), which may give several at once. A pid or time namespace takes effect for children.
pub fn enter(fd: impl AsFd, kinds: Namespaces) -> Result<(), Errno> {
    // SAFETY: setns takes a descriptor and an integer; it touches no memory of ours.
    checked(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds.0 as i32) }.into()).map(drop)
}

/// `_IO(NSIO, n)` of `linux/nsfs.h`; the same number on every architecture that we build for.
const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Which kind of namespace a file is of (Linux 4.11). `ENOTTY`: of none.
pub fn kind_of(fd: impl AsFd) -> Result<Namespaces, Errno> {
    // SAFETY: the call takes no argument and returns a CLONE_NEW* number.
    let kind = checked(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) }.into())?;
    u32::try_from(kind)
        .map(Namespaces)
        .map_err(|_| Errno::OVERFLOW)
}

/// The user namespace that owns another namespace. `EPERM`: it is not below our own.
pub fn owner_of(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes no argument and returns a descriptor.
    let owner = checked(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_USERNS) }.into())?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(owner as i32) })
}

/// Gives the calling thread new namespaces of `kinds`.
pub fn unshare(kinds: Namespaces) -> Result<(), Errno> {
    // SAFETY: only CLONE_NEW* bits can be in `kinds`, so descriptor tables stay shared as they are.
    checked(unsafe { libc::unshare(kinds.0 as i32) }.into()).map(drop)
}

/// Sets the link `lo` of the current network namespace up: a new one has it, down (netdevice(7)).
pub fn loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    // SAFETY: an ifreq of zeros is valid: an empty name, and flags of 0.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq. Not the C library's ioctl: see `ahead`.
    unsafe {
        ioctl(
            &socket,
            Setter::<{ libc::SIOCSIFFLAGS as u32 }, _>::new(request),
        )
    }
}

/// Sets the host name of the current UTS namespace.
pub fn set_hostname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe `name`, which the kernel only reads.
    checked(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Sets the NIS domain name of the current UTS namespace.
pub fn set_domainname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe `name`, which the kernel only reads.
    checked(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Gives the calling thread a root and working directory of its own, so that it may join a mount
/// namespace without its process.
pub fn unshare_filesystem() -> Result<(), Errno> {
    // SAFETY: CLONE_FS separates root, working directory and umask only; no memory or descriptors.
    checked(unsafe { libc::unshare(libc::CLONE_FS) }.into()).map(drop)
}
