//! rtnetlink messages (rtnetlink(7), linux/if_link.h): what we ask, and what we read of the
//! answers. Pure.

use std::net::IpAddr;
use std::os::fd::RawFd;

use corten_spec::Cidr;
use corten_sys::netlink::{Attributes, Message, Reply, flag};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address works at once instead of after a second.
/// host-local has made sure that it is nobody else's.
const IFA_F_NODAD: u32 = 0x02;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RT_TABLE_MAIN: u32 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;
/// The gateway is on the link although no route says so.
const RTNH_F_ONLINK: u32 = 4;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;

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

/// An entry of a routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// `None` for the default route.
    pub dst: Option<Cidr>,
    pub gateway: Option<IpAddr>,
    pub link: u32,
    pub table: u32,
}

/// A route to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    pub dst: Cidr,
    pub gateway: Option<IpAddr>,
    pub link: u32,
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    pub priority: Option<u32>,
    pub table: Option<u32>,
    pub scope: Option<u8>,
    /// The gateway lies outside the link's subnets.
    pub onlink: bool,
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
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(crate) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
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

/// Two messages, for one system call: RTM_NEWLINK ignores the alias, and a process killed
/// between the two would leave a veth without its owner's name.
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
    if hairpin {
        m.nest(IFLA_LINKINFO, |m| {
            m.attr_str(IFLA_INFO_SLAVE_KIND, "bridge");
            m.nest(IFLA_INFO_SLAVE_DATA, |m| {
                m.attr_u8(IFLA_BRPORT_MODE, 1);
            });
        });
    }
    m
}

pub fn delete_link(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0).header(&ifinfo(index, false))
}

fn ifaddr(address: Cidr, link: u32) -> [u8; IFADDR] {
    let mut header = [0; IFADDR];
    header[0] = family(address.address());
    header[1] = address.prefix();
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

pub fn new_address(address: Cidr, link: u32) -> Message {
    let mut m = Message::new(RTM_NEWADDR, flag::CREATE | flag::EXCL).header(&ifaddr(address, link));
    let bytes = octets(address.address());
    m.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes);
    if address.is_ipv4() {
        if address.prefix() < 31 {
            m.attr(IFA_BROADCAST, &octets(address.last()));
        }
    } else {
        m.attr_u32(IFA_FLAGS, IFA_F_NODAD);
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

pub fn new_route(r: &NewRoute) -> Message {
    let table = r.table.unwrap_or(RT_TABLE_MAIN);
    let mut header = [0; RTMSG];
    header[0] = family(r.dst.address());
    header[1] = r.dst.prefix();
    header[4] = u8::try_from(table).unwrap_or(0);
    header[5] = RTPROT_BOOT;
    header[6] = match (r.scope, r.gateway) {
        (Some(scope), _) => scope,
        (None, None) if r.dst.is_ipv4() => RT_SCOPE_LINK,
        (None, _) => 0,
    };
    header[7] = RTN_UNICAST;
    if r.onlink && r.gateway.is_some() {
        header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    let mut m = Message::new(RTM_NEWROUTE, flag::CREATE | flag::EXCL).header(&header);
    m.attr(RTA_DST, &octets(r.dst.first()));
    m.attr_u32(RTA_TABLE, table);
    m.attr_u32(RTA_OIF, r.link);
    if let Some(gateway) = r.gateway {
        m.attr(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(priority) = r.priority {
        m.attr_u32(RTA_PRIORITY, priority);
    }
    if r.mtu.is_some() || r.advmss.is_some() {
        m.nest(RTA_METRICS, |m| {
            if let Some(mtu) = r.mtu {
                m.attr_u32(RTAX_MTU, mtu);
            }
            if let Some(advmss) = r.advmss {
                m.attr_u32(RTAX_ADVMSS, advmss);
            }
        });
    }
    m
}

/// Which way a packet to `address` would go.
pub fn get_route(address: IpAddr) -> Message {
    let mut header = [0; RTMSG];
    header[0] = family(address);
    header[1] = Cidr::host(address).prefix();
    let mut m = Message::new(RTM_GETROUTE, 0).header(&header);
    m.attr(RTA_DST, &octets(address));
    m
}

pub fn list_routes(v4: bool) -> Message {
    let mut header = [0; RTMSG];
    header[0] = if v4 { AF_INET } else { AF_INET6 };
    Message::new(RTM_GETROUTE, 0).header(&header)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
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

pub fn read_route(reply: &Reply<'_>) -> Option<RouteEntry> {
    if reply.kind != RTM_NEWROUTE {
        return None;
    }
    let (header, attributes) = reply.split(RTMSG)?;
    let dst = attributes
        .get(RTA_DST)
        .and_then(address_of)
        .and_then(|a| Cidr::new(a, header[1]));
    Some(RouteEntry {
        dst,
        gateway: attributes.get(RTA_GATEWAY).and_then(address_of),
        link: attributes.u32(RTA_OIF)?,
        table: attributes
            .u32(RTA_TABLE)
            .unwrap_or_else(|| u32::from(header[4])),
    })
}

/// Whether a route is in the main table.
pub fn is_main(route: &RouteEntry) -> bool {
    route.table == RT_TABLE_MAIN
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
    use proptest::prelude::*;

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

    #[test]
    fn a_route_carries_what_was_asked() {
        let m = new_route(&NewRoute {
            dst: "10.1.0.0/16".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            link: 7,
            mtu: Some(1400),
            advmss: None,
            priority: None,
            table: Some(1000),
            scope: None,
            onlink: true,
        });
        let reply = Reply {
            kind: RTM_NEWROUTE,
            flags: 0,
            sequence: 0,
            payload: m.payload(),
        };
        assert_eq!(
            read_route(&reply).unwrap(),
            RouteEntry {
                dst: Some("10.1.0.0/16".parse().unwrap()),
                gateway: Some("10.0.0.1".parse().unwrap()),
                link: 7,
                table: 1000,
            }
        );
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(kind in 14u16..30, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let reply = Reply { kind, flags: 0, sequence: 0, payload: &payload };
            let _ = (read_link(&reply), read_address(&reply), read_route(&reply));
        }
    }
}
