//! Addresses of links.

use corten_spec::Cidr;
use corten_sys::netlink::{Message, Reply, flag};

use super::{AF_UNSPEC, address_of, family, octets, u32_at};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address works at once instead of after a second.
/// host-local has made sure that it is nobody else's.
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

const IFADDR: usize = 8;

fn ifaddr(address: Cidr, link: u32) -> [u8; IFADDR] {
    let mut header = [0; IFADDR];
    header[0] = family(address.address());
    header[1] = address.prefix();
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

/// What the kernel is not to do of its own with a new address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// It is to look for others with the same address (IPv6).
    pub detect: bool,
    /// It is to make no route to the subnet.
    pub alone: bool,
}

pub fn new_address(address: Cidr, link: u32, manner: Manner) -> Message {
    let mut m = Message::new(RTM_NEWADDR, flag::CREATE | flag::EXCL).header(&ifaddr(address, link));
    let bytes = octets(address.address());
    m.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes);
    if address.is_ipv4() && address.prefix() < 31 {
        m.attr(IFA_BROADCAST, &octets(address.last()));
    }
    let mut flags = 0;
    if !address.is_ipv4() && !manner.detect {
        flags |= IFA_F_NODAD;
    }
    if manner.alone {
        flags |= IFA_F_NOPREFIXROUTE;
    }
    if flags != 0 {
        m.attr_u32(IFA_FLAGS, flags);
    }
    m
}

pub fn delete_address(address: Cidr, link: u32) -> Message {
    let mut m = Message::new(RTM_DELADDR, 0).header(&ifaddr(address, link));
    m.attr(IFA_LOCAL, &octets(address.address()));
    m
}

pub fn list_addresses(link: u32) -> Message {
    let mut header = [0; IFADDR];
    header[0] = AF_UNSPEC;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    Message::new(RTM_GETADDR, 0).header(&header)
}

/// How far duplicate address detection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    Done,
    Running,
    /// Somebody else has the address.
    Duplicate,
}

pub fn read_detection(reply: &Reply<'_>) -> Option<(Cidr, u32, Detection)> {
    let (address, link) = read_address(reply)?;
    let (_, attributes) = reply.split(IFADDR)?;
    let flags = attributes.u32(IFA_FLAGS).unwrap_or(0);
    let detection = match flags {
        f if f & IFA_F_DADFAILED != 0 => Detection::Duplicate,
        f if f & IFA_F_TENTATIVE != 0 => Detection::Running,
        _ => Detection::Done,
    };
    Some((address, link, detection))
}

/// The address and the index of its link.
pub fn read_address(reply: &Reply<'_>) -> Option<(Cidr, u32)> {
    if reply.kind != RTM_NEWADDR {
        return None;
    }
    let (header, attributes) = reply.split(IFADDR)?;
    let bytes = attributes
        .get(IFA_LOCAL)
        .or_else(|| attributes.get(IFA_ADDRESS))?;
    Some((
        Cidr::new(address_of(bytes)?, header[1])?,
        u32_at(header, 4)?,
    ))
}
