//! Links: made, changed, listed, and their Ethernet addresses as text.

use std::os::fd::RawFd;

use corten_sys::netlink::{Attributes, Message, Reply, flag};

use super::kind::{self, Details, IFLA_INFO_KIND, Kind};
use super::{AF_INET6, u32_at};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
pub(super) const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// No link-local address: a bridge's port needs none.
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
const IFINFO: usize = 16;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What a link says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    pub master: Option<u32>,
    /// The link below (macvlan, ipvlan, vlan), or the other end (veth), in whichever namespace
    /// that is.
    pub parent: Option<u32>,
    pub kind: String,
    pub details: Details,
    pub up: bool,
    pub promisc: bool,
    pub allmulti: bool,
    /// Packets.
    pub txqlen: u32,
}

/// What went through a link, as it counts itself (`struct rtnl_link_stats64`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: Traffic,
    pub sent: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// What a new link is to be besides its kind.
#[derive(Clone, Debug)]
pub struct NewLink<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    /// The link below, in the namespace of the socket.
    pub parent: Option<u32>,
    /// The namespace that the link is born in; the socket's own if absent.
    pub netns: Option<RawFd>,
    pub up: bool,
}

impl<'a> NewLink<'a> {
    pub fn new(name: &'a str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            mac: None,
            mtu: None,
            parent: None,
            netns: None,
            up: false,
        }
    }
}

/// A veth pair to be made.
#[derive(Clone, Debug)]
pub struct NewVeth<'a> {
    pub name: &'a str,
    pub alias: &'a str,
    pub mac: Mac,
    pub mtu: Option<u32>,
    pub master: Option<u32>,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    /// The namespace that the peer is born in: moving it there later would wait for RCU.
    pub peer_netns: RawFd,
    /// Whether to give the host's end no link-local address: it is a port, or has addresses given.
    pub quiet: bool,
}

/// Changes of a link, all in one message. The kernel applies them in this order and stops at the
/// first that it refuses: namespace, address, MTU, name, alias, master, flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    pub netns: Option<RawFd>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub txqlen: Option<u32>,
    pub name: Option<&'a str>,
    pub alias: Option<&'a str>,
    /// The index of the new master; 0 for none.
    pub master: Option<u32>,
    pub up: Option<bool>,
    pub promisc: Option<bool>,
    pub allmulti: Option<bool>,
}

/// `struct ifinfomsg`: family u8, pad, type u16, index i32, flags u32, change u32.
pub(super) fn ifinfo(index: u32, up: bool) -> [u8; IFINFO] {
    let mut header = [0; IFINFO];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        header[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    header
}

pub fn get_link(name: &str) -> Message {
    let mut m = Message::new(RTM_GETLINK, 0).header(&ifinfo(0, false));
    m.attr_str(IFLA_IFNAME, name);
    m
}

pub fn get_link_at(index: u32) -> Message {
    Message::new(RTM_GETLINK, 0).header(&ifinfo(index, false))
}

pub fn list_links(master: Option<u32>) -> Message {
    let mut m = Message::new(RTM_GETLINK, 0).header(&ifinfo(0, false));
    if let Some(master) = master {
        m.attr_u32(IFLA_MASTER, master);
    }
    m
}

pub fn new_link(l: &NewLink<'_>) -> Message {
    let mut m = Message::new(RTM_NEWLINK, flag::CREATE | flag::EXCL).header(&ifinfo(0, l.up));
    m.attr_str(IFLA_IFNAME, l.name);
    if let Some(mac) = l.mac {
        m.attr(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = l.mtu {
        m.attr_u32(IFLA_MTU, mtu);
    }
    if let Some(parent) = l.parent {
        m.attr_u32(IFLA_LINK, parent);
    }
    if let Some(netns) = l.netns {
        m.attr(IFLA_NET_NS_FD, &netns.to_ne_bytes());
    }
    m.nest(IFLA_LINKINFO, |m| l.kind.write(m));
    m
}

/// Two messages, for one system call: RTM_NEWLINK of a new link ignores the alias, and a process
/// killed between the two would leave a veth without its owner's name.
pub fn new_veth(v: &NewVeth<'_>) -> Vec<Message> {
    let mut make = Message::new(RTM_NEWLINK, flag::CREATE | flag::EXCL).header(&ifinfo(0, false));
    make.attr_str(IFLA_IFNAME, v.name);
    make.attr(IFLA_ADDRESS, &v.mac);
    if let Some(master) = v.master {
        make.attr_u32(IFLA_MASTER, master);
    }
    if let Some(mtu) = v.mtu {
        make.attr_u32(IFLA_MTU, mtu);
    }
    make.nest(IFLA_LINKINFO, |m| {
        let write_peer = |m: &mut Message| {
            m.raw(&ifinfo(0, false));
            m.attr_str(IFLA_IFNAME, v.peer_name);
            m.attr(IFLA_ADDRESS, &v.peer_mac);
            if let Some(mtu) = v.mtu {
                m.attr_u32(IFLA_MTU, mtu);
            }
            m.attr(IFLA_NET_NS_FD, &v.peer_netns.to_ne_bytes());
        };
        kind::write_veth(m, write_peer);
    });
    vec![make, name_owner(v.name, v.alias, v.quiet)]
}

/// Gives the link its alias, and no link-local address if it is to be quiet.
pub fn name_owner(name: &str, alias: &str, quiet: bool) -> Message {
    let mut m = Message::new(RTM_SETLINK, 0).header(&ifinfo(0, false));
    m.attr_str(IFLA_IFNAME, name);
    m.attr_str(IFLA_IFALIAS, alias);
    if quiet {
        m.nest(IFLA_AF_SPEC, |m| {
            m.nest(u16::from(AF_INET6), |m| {
                m.attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        });
    }
    m
}

pub fn change_link(index: u32, c: &Change<'_>) -> Message {
    let mut header = ifinfo(index, false);
    let flags = [
        (IFF_UP, c.up),
        (IFF_PROMISC, c.promisc),
        (IFF_ALLMULTI, c.allmulti),
    ];
    let (mut value, mut mask) = (0, 0);
    for (flag, wanted) in flags {
        mask |= if wanted.is_some() { flag } else { 0 };
        value |= if wanted == Some(true) { flag } else { 0 };
    }
    header[8..12].copy_from_slice(&u32::to_ne_bytes(value));
    header[12..16].copy_from_slice(&u32::to_ne_bytes(mask));
    let mut m = Message::new(RTM_SETLINK, 0).header(&header);
    if let Some(netns) = c.netns {
        m.attr(IFLA_NET_NS_FD, &netns.to_ne_bytes());
    }
    if let Some(name) = c.name {
        m.attr_str(IFLA_IFNAME, name);
    }
    if let Some(alias) = c.alias {
        // Without its terminating zero: an alias of no bytes is how it is taken away.
        m.attr(IFLA_IFALIAS, alias.as_bytes());
    }
    if let Some(mac) = c.mac {
        m.attr(IFLA_ADDRESS, &mac);
    }
    let numbers = [
        (IFLA_MTU, c.mtu),
        (IFLA_TXQLEN, c.txqlen),
        (IFLA_MASTER, c.master),
    ];
    for (attribute, number) in numbers {
        if let Some(number) = number {
            m.attr_u32(attribute, number);
        }
    }
    m
}

pub fn set_up(index: u32) -> Message {
    Message::new(RTM_SETLINK, 0).header(&ifinfo(index, true))
}

pub fn set_down(index: u32) -> Message {
    let mut header = ifinfo(index, false);
    header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    Message::new(RTM_SETLINK, 0).header(&header)
}

pub fn delete_link(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0).header(&ifinfo(index, false))
}

pub fn read_link(reply: &Reply<'_>) -> Option<Link> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let (header, attributes) = reply.split(IFINFO)?;
    let info = attributes.nested(IFLA_LINKINFO);
    let flags = u32_at(header, 8)?;
    let kind = info
        .and_then(|i: Attributes<'_>| i.string(IFLA_INFO_KIND))
        .unwrap_or_default();
    Some(Link {
        index: u32_at(header, 4)?,
        name: attributes.string(IFLA_IFNAME)?,
        alias: attributes.string(IFLA_IFALIAS).unwrap_or_default(),
        mac: attributes.get(IFLA_ADDRESS).and_then(|b| b.try_into().ok()),
        mtu: attributes.u32(IFLA_MTU).unwrap_or(0),
        master: attributes.u32(IFLA_MASTER),
        parent: attributes.u32(IFLA_LINK),
        details: info.map(|i| Details::read(&kind, &i)).unwrap_or_default(),
        kind,
        up: flags & IFF_UP != 0,
        promisc: flags & IFF_PROMISC != 0,
        allmulti: flags & IFF_ALLMULTI != 0,
        txqlen: attributes.u32(IFLA_TXQLEN).unwrap_or(0),
    })
}

/// A link's name and counters.
pub fn read_counters(reply: &Reply<'_>) -> Option<(String, Counters)> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let (_, attributes) = reply.split(IFINFO)?;
    let counters = read_stats(attributes.get(IFLA_STATS64)?)?;
    Some((attributes.string(IFLA_IFNAME)?, counters))
}

/// Pairs of u64, received and sent: packets, bytes, errors, dropped; what follows is of no use here.
fn read_stats(bytes: &[u8]) -> Option<Counters> {
    let at = |n: usize| {
        let bytes = bytes.get(n * 8..n * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let direction = |first: usize| {
        Some(Traffic {
            packets: at(first)?,
            bytes: at(first + 2)?,
            errors: at(first + 4)?,
            dropped: at(first + 6)?,
        })
    };
    Some(Counters {
        received: direction(0)?,
        sent: direction(1)?,
    })
}

/// `02:00:00:00:00:01`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Reads a MAC as people write it. Multicast addresses and all zeros are no link's.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let hex = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
        let part = parts.next().filter(hex)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let valid = parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6];
    valid.then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_in_pairs() {
        let bytes: Vec<u8> = (1..=8u64).flat_map(u64::to_ne_bytes).collect();
        let read = read_stats(&bytes).unwrap();
        let traffic = |packets, bytes, errors, dropped| Traffic {
            packets,
            bytes,
            errors,
            dropped,
        };
        assert_eq!(read.received, traffic(1, 3, 5, 7));
        assert_eq!(read.sent, traffic(2, 4, 6, 8));
        assert_eq!(read_stats(&bytes[..63]), None);
    }

    #[test]
    fn macs_read_as_written() {
        assert_eq!(
            mac_text(parse_mac("02:00:5e:10:00:ff").unwrap()),
            "02:00:5e:10:00:ff"
        );
        assert_eq!(
            parse_mac("02-00-5E-10-00-ff"),
            parse_mac("02:00:5e:10:00:ff")
        );
        for bad in [
            "",
            "02:00-5e:10:00:ff",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:00",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "+2:00:00:00:00:00",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
