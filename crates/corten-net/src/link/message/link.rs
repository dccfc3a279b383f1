//! Links: made, changed, listed, and their Ethernet addresses as text.

use std::os::fd::RawFd;

use corten_sys::netlink::{Attributes, Message, Reply, flag};

use super::{AF_INET6, u32_at};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// No link-local address: a bridge's port needs none.
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;

const IFF_UP: u32 = 1;
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
    pub mtu: u32,
    pub master: Option<u32>,
    pub kind: String,
    pub up: bool,
}

/// A veth pair to be made.
#[derive(Clone, Debug)]
pub struct NewVeth<'a> {
    pub name: &'a str,
    pub alias: &'a str,
    pub mac: Mac,
    pub mtu: Option<u32>,
    pub master: u32,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    /// The namespace that the peer is born in: moving it there later would wait for RCU.
    pub peer_netns: RawFd,
    /// Whether this kernel has IPv6.
    pub ipv6: bool,
}

/// `struct ifinfomsg`: family u8, pad, type u16, index i32, flags u32, change u32.
fn ifinfo(index: u32, up: bool) -> [u8; IFINFO] {
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

pub fn new_bridge(name: &str, mac: Mac, mtu: Option<u32>) -> Message {
    let mut m = Message::new(RTM_NEWLINK, flag::CREATE | flag::EXCL).header(&ifinfo(0, true));
    m.attr_str(IFLA_IFNAME, name);
    // Without an address of its own a bridge takes the lowest of its ports', and changes it as
    // they come and go: every change costs the containers their neighbour entry.
    m.attr(IFLA_ADDRESS, &mac);
    if let Some(mtu) = mtu {
        m.attr_u32(IFLA_MTU, mtu);
    }
    m.nest(IFLA_LINKINFO, |m| {
        m.attr_str(IFLA_INFO_KIND, "bridge");
        m.nest(IFLA_INFO_DATA, |m| {
            // A port forwards at once, instead of after 15 s of learning.
            m.attr_u32(IFLA_BR_STP_STATE, 0);
            m.attr_u32(IFLA_BR_FORWARD_DELAY, 0);
        });
    });
    m
}

/// Two messages, for one system call: RTM_NEWLINK of a new link ignores the alias, and a process
/// killed between the two would leave a veth without its owner's name.
pub fn new_veth(v: &NewVeth<'_>) -> Vec<Message> {
    let mut make = Message::new(RTM_NEWLINK, flag::CREATE | flag::EXCL).header(&ifinfo(0, false));
    make.attr_str(IFLA_IFNAME, v.name);
    make.attr(IFLA_ADDRESS, &v.mac);
    make.attr_u32(IFLA_MASTER, v.master);
    if let Some(mtu) = v.mtu {
        make.attr_u32(IFLA_MTU, mtu);
    }
    make.nest(IFLA_LINKINFO, |m| {
        m.attr_str(IFLA_INFO_KIND, "veth");
        m.nest(IFLA_INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.raw(&ifinfo(0, false));
                m.attr_str(IFLA_IFNAME, v.peer_name);
                m.attr(IFLA_ADDRESS, &v.peer_mac);
                if let Some(mtu) = v.mtu {
                    m.attr_u32(IFLA_MTU, mtu);
                }
                m.attr(IFLA_NET_NS_FD, &v.peer_netns.to_ne_bytes());
            });
        });
    });
    let mut name = Message::new(RTM_SETLINK, 0).header(&ifinfo(0, false));
    name.attr_str(IFLA_IFNAME, v.name);
    name.attr_str(IFLA_IFALIAS, v.alias);
    if v.ipv6 {
        name.nest(IFLA_AF_SPEC, |m| {
            m.nest(u16::from(AF_INET6), |m| {
                m.attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        });
    }
    vec![make, name]
}

pub fn set_up(index: u32) -> Message {
    Message::new(RTM_SETLINK, 0).header(&ifinfo(index, true))
}

pub fn set_down(index: u32) -> Message {
    let mut header = ifinfo(index, false);
    header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    Message::new(RTM_SETLINK, 0).header(&header)
}

/// Sets a bridge's port up, in one message with its hairpin mode.
pub fn set_port_up(name: &str, hairpin: bool) -> Message {
    let mut m = Message::new(RTM_NEWLINK, 0).header(&ifinfo(0, true));
    m.attr_str(IFLA_IFNAME, name);
    m.nest(IFLA_LINKINFO, |m| {
        m.attr_str(IFLA_INFO_SLAVE_KIND, "bridge");
        m.nest(IFLA_INFO_SLAVE_DATA, |m| {
            m.attr_u8(IFLA_BRPORT_MODE, u8::from(hairpin));
        });
    });
    m
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
    Some(Link {
        index: u32_at(header, 4)?,
        name: attributes.string(IFLA_IFNAME)?,
        alias: attributes.string(IFLA_IFALIAS).unwrap_or_default(),
        mac: attributes.get(IFLA_ADDRESS).and_then(|b| b.try_into().ok()),
        mtu: attributes.u32(IFLA_MTU).unwrap_or(0),
        master: attributes.u32(IFLA_MASTER),
        kind: info
            .and_then(|i: Attributes<'_>| i.string(IFLA_INFO_KIND))
            .unwrap_or_default(),
        up: u32_at(header, 8)? & IFF_UP != 0,
    })
}

/// `02:00:00:00:00:01`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Reads a MAC as people write it. Multicast addresses and all zeros are no link's.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
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
    fn macs_read_as_written() {
        assert_eq!(
            mac_text(parse_mac("02:00:5e:10:00:ff").unwrap()),
            "02:00:5e:10:00:ff"
        );
        for bad in [
            "",
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
