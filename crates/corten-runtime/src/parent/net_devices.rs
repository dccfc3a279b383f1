//! Moves network devices into the container's namespace, over netlink: with their permanent global addresses, which
//! the kernel forgets on the way, and set up there.

use std::os::fd::OwnedFd;

use corten_sys::namespace::{self, Namespaces};
use corten_sys::netlink::{self, Family, Message, Reply, Socket, flag};
use rustix::io::Errno;

use crate::error::{Error, failed};
use crate::plan::net_devices::NetDevice;

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_F_PERMANENT: u32 = 0x80;
/// Set by the kernel while it looks for a duplicate, and after it has found one.
const IFA_F_STATE: u32 = 0x40 | 0x08;

/// One end of the way.
struct Place {
    socket: Socket,
    /// A process in its namespace.
    pid: u32,
}

struct Link {
    index: u32,
    name: String,
}

/// An address as the kernel described it.
struct Address {
    header: [u8; 8],
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Moves all of them to the network namespace of the process `pid`, or none.
pub(crate) fn give(devices: &[NetDevice], pid: u32, init: &OwnedFd) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut host = Place {
        socket: open().map_err(failed("open a socket for", "network devices"))?,
        pid: rustix::process::getpid().as_raw_nonzero().get() as u32,
    };
    let mut container = Place {
        socket: open_in(init).map_err(failed("open a socket for", "network devices"))?,
        pid,
    };
    let mut moved: Vec<(&NetDevice, String)> = Vec::new();
    for device in devices {
        match shift(&mut host, &mut container, &device.host, &device.name) {
            Ok(name) => moved.push((device, name)),
            Err(errno) => {
                // Best effort, newest first: the error that led here is the one to tell.
                for (device, name) in moved.iter().rev() {
                    let _ = shift(&mut container, &mut host, name, &device.host);
                }
                return Err(failed("move the network device", &device.host)(errno));
            }
        }
    }
    Ok(())
}

fn open() -> Result<Socket, Errno> {
    Socket::open(Family::Route).map_err(errno)
}

/// A socket belongs to the namespace of the thread that opens it, so a thread goes there.
fn open_in(init: &OwnedFd) -> Result<Socket, Errno> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            namespace::enter(init, Namespaces::NETWORK)?;
            open()
        });
        thread.join().unwrap_or(Err(Errno::IO))
    })
}

fn errno(error: netlink::Error) -> Errno {
    error.errno().unwrap_or(Errno::IO)
}

/// Moves one device; returns its name there.
fn shift(from: &mut Place, to: &mut Place, name: &str, new: &str) -> Result<String, Errno> {
    let link = find(&mut from.socket, name)?;
    let addresses = addresses(&mut from.socket, link.index)?;
    let before = links(&mut to.socket)?;
    let mut message = Message::new(RTM_SETLINK, 0).header(&ifinfo(link.index, 0, 0));
    // The kernel refuses a name that is taken, and fills in a template (EEXIST, `%d`).
    message
        .attr_u32(IFLA_NET_NS_PID, to.pid)
        .attr_str(IFLA_IFNAME, new);
    from.socket.request(message).map_err(errno)?;
    // Its number may be another there, and its name too.
    let after = links(&mut to.socket)?;
    let arrived = after
        .into_iter()
        .find(|l| before.iter().all(|b| b.index != l.index))
        .ok_or(Errno::NODEV)?;
    for address in addresses {
        let message = address.message(arrived.index);
        to.socket.request(message).map_err(errno)?;
    }
    let up = Message::new(RTM_SETLINK, 0).header(&ifinfo(arrived.index, IFF_UP, IFF_UP));
    to.socket.request(up).map_err(errno)?;
    Ok(arrived.name)
}

/// `struct ifinfomsg`.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(bytes) = bytes.get(at..at + 4) {
        word.copy_from_slice(bytes);
    }
    u32::from_ne_bytes(word)
}

fn link(reply: Reply<'_>) -> Option<Link> {
    let (header, attributes) = reply.split(16)?;
    Some(Link {
        index: word(header, 4),
        name: attributes.string(IFLA_IFNAME)?,
    })
}

fn find(socket: &mut Socket, name: &str) -> Result<Link, Errno> {
    let mut found = None;
    let mut message = Message::new(RTM_GETLINK, 0).header(&ifinfo(0, 0, 0));
    message.attr_str(IFLA_IFNAME, name);
    socket
        .query(message, |reply| found = found.take().or(link(reply)))
        .map_err(errno)?;
    found.ok_or(Errno::NODEV)
}

fn links(socket: &mut Socket) -> Result<Vec<Link>, Errno> {
    let message = Message::new(RTM_GETLINK, 0).header(&ifinfo(0, 0, 0));
    let all = socket.dump(message, |all: &mut Vec<Link>, reply| {
        all.extend(link(reply))
    });
    all.map_err(errno)
}

/// What is to be kept: permanent, and of global scope (`RT_SCOPE_UNIVERSE`).
fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Address>, Errno> {
    let message = Message::new(RTM_GETADDR, flag::REQUEST).header(&[0; 8]);
    let all = socket.dump(message, |all: &mut Vec<Address>, reply| {
        let Some((header, attributes)) = reply.split(8) else {
            return;
        };
        let flags = attributes.u32(IFA_FLAGS).unwrap_or(0);
        let wanted = word(header, 4) == index && header[3] == 0 && flags & IFA_F_PERMANENT != 0;
        if !wanted {
            return;
        }
        let kept = [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_RT_PRIORITY];
        let kept = attributes.filter(|(kind, _)| kept.contains(kind));
        let mut address = Address {
            header: [0; 8],
            attributes: kept.map(|(kind, value)| (kind, value.to_vec())).collect(),
        };
        address.header[..4].copy_from_slice(&header[..4]);
        let flags = (flags & !IFA_F_STATE).to_ne_bytes();
        address.attributes.push((IFA_FLAGS, flags.to_vec()));
        all.push(address);
    });
    all.map_err(errno)
}

impl Address {
    fn message(mut self, index: u32) -> Message {
        // The flags travel as an attribute; one byte has no room for all.
        self.header[2] = 0;
        self.header[4..8].copy_from_slice(&index.to_ne_bytes());
        let flags = flag::CREATE | flag::REPLACE;
        let mut message = Message::new(RTM_NEWADDR, flags).header(&self.header);
        for (kind, value) in &self.attributes {
            message.attr(*kind, value);
        }
        message
    }
}
