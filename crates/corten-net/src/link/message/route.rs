//! Routes.

use std::net::IpAddr;

use corten_spec::Cidr;
use corten_sys::netlink::{Message, Reply, flag};

use super::{AF_INET, AF_INET6, address_of, family, octets};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
pub const RT_TABLE_MAIN: u32 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
pub const RT_SCOPE_LINK: u8 = 253;
/// The gateway is on the link although no route says so.
const RTNH_F_ONLINK: u32 = 4;

const RTMSG: usize = 12;

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
    /// The address that what takes this route is sent from, if its sender names none.
    pub source: Option<IpAddr>,
}

impl NewRoute {
    /// A route of the main table through the link.
    pub fn to(dst: Cidr, link: u32) -> Self {
        Self {
            dst,
            gateway: None,
            link,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
            onlink: false,
            source: None,
        }
    }
}

/// A route as the kernel has it, whole, so that it can be made again in another table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCopy {
    pub entry: RouteEntry,
    pub source: Option<IpAddr>,
    pub scope: u8,
    header: [u8; RTMSG],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl RouteCopy {
    fn message(&self, kind: u16, flags: u16, table: u32) -> Message {
        let mut header = self.header;
        header[4] = u8::try_from(table).unwrap_or(0);
        // Flags tell a state ("linkdown"), not a wish.
        header[8..12].fill(0);
        let mut m = Message::new(kind, flags).header(&header);
        for (kind, payload) in &self.attributes {
            m.attr(*kind, payload);
        }
        m.attr_u32(RTA_TABLE, table);
        m
    }
}

/// Makes the route in `table`, in the place of one like it that may be there.
pub fn put_route(route: &RouteCopy, table: u32) -> Message {
    route.message(RTM_NEWROUTE, flag::CREATE | flag::REPLACE, table)
}

pub fn delete_route(route: &RouteCopy) -> Message {
    route.message(RTM_DELROUTE, 0, route.entry.table)
}

pub fn copy_route(reply: &Reply<'_>) -> Option<RouteCopy> {
    let entry = read_route(reply)?;
    let (header, attributes) = reply.split(RTMSG)?;
    let kept = |kind: &u16| *kind != RTA_TABLE && *kind != RTA_CACHEINFO;
    Some(RouteCopy {
        entry,
        source: attributes.get(RTA_PREFSRC).and_then(address_of),
        scope: header[6],
        header: header.try_into().ok()?,
        attributes: attributes
            .filter(|(kind, _)| kept(kind))
            .map(|(kind, payload)| (kind, payload.to_vec()))
            .collect(),
    })
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
    if let Some(source) = r.source {
        m.attr(RTA_PREFSRC, &octets(source));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_carries_what_was_asked() {
        let m = new_route(&NewRoute {
            gateway: Some("10.0.0.1".parse().unwrap()),
            mtu: Some(1400),
            table: Some(1000),
            onlink: true,
            ..NewRoute::to("10.1.0.0/16".parse().unwrap(), 7)
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
}
