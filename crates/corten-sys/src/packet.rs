//! IP packets of one link, past the kernel's IP stack (packet(7)): for a link that has no address yet.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::call::checked;

const ETH_P_IP: u16 = 0x0800;
const BROADCAST: [u8; 6] = [0xff; 6];

/// A packet socket on one link, without the link's own headers, that sees only UDP datagrams to
/// one port.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    link: i32,
}

/// Of classic BPF: code, two jumps, a constant.
fn step(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    }
}

/// IPv4, UDP, no later fragment, the port: everything else is dropped before it wakes anybody. The
/// packet begins with its IP header.
fn only_udp(port: u16) -> [libc::sock_filter; 9] {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD};
    let load = |size, k| step(BPF_LD | size | BPF_ABS, 0, 0, k);
    [
        load(BPF_B, 9),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 17),
        load(BPF_H, 6),
        step(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 0x1fff),
        // The length of the IP header, into X.
        step(libc::BPF_LDX | BPF_B | libc::BPF_MSH, 0, 0, 0),
        step(BPF_LD | BPF_H | BPF_IND, 0, 0, 2),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, u32::from(port)),
        step(libc::BPF_RET | BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | BPF_K, 0, 0, 0),
    ]
}

fn address(link: i32) -> libc::sockaddr_ll {
    // SAFETY: a sockaddr_ll of zeros is valid: integers and an array of bytes.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_IP.to_be();
    address.sll_ifindex = link;
    address.sll_halen = BROADCAST.len() as u8;
    address.sll_addr[..BROADCAST.len()].copy_from_slice(&BROADCAST);
    address
}

impl PacketSocket {
    /// Opens one in the calling thread's network namespace, on the link of this index.
    pub fn open(link: u32, port: u16) -> Result<Self, Errno> {
        let link = i32::try_from(link).map_err(|_| Errno::NODEV)?;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing is received before the filter is there and the link chosen.
        // SAFETY: socket takes integers only.
        let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) }.into())?;
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut steps = only_udp(port);
        let program = libc::sock_fprog {
            len: steps.len() as u16,
            filter: steps.as_mut_ptr(),
        };
        // SAFETY: `program` and the steps that it points to live across the call, which copies them.
        let attached = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        checked(attached.into())?;
        let local = address(link);
        // SAFETY: `local` lives across the call and its size goes with it.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const local).cast(),
                size_of_val(&local) as libc::socklen_t,
            )
        };
        checked(bound.into())?;
        Ok(Self { fd, link })
    }

    /// Sends an IP packet to everybody on the link.
    pub fn broadcast(&self, packet: &[u8]) -> Result<(), Errno> {
        let to = address(self.link);
        // SAFETY: pointers and lengths describe `packet` and `to`, which the kernel only reads.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        checked(sent as i64).map(drop)
    }

    /// The next IP packet, cut to the buffer; `None` if none comes in time.
    pub fn receive(&self, buffer: &mut [u8], within: Duration) -> Result<Option<usize>, Errno> {
        let timeout = rustix::time::Timespec {
            tv_sec: within.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: within.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
        match rustix::net::recv(&self.fd, buffer, rustix::net::RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
