//! Forgetting flows of UDP, over ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
//!
//! A flow keeps the way that it was given by its first packet for as long as packets come. A
//! client that asked before the port was published, or whose container has gone since, would
//! go on asking the host, or the dead: TCP ends and begins anew, UDP has to be helped.

use std::net::{IpAddr, SocketAddr};

use corten_sys::netlink::{Attributes, Error as NetlinkError, Message, Reply, Socket};
use rustix::io::Errno;

use super::failed;
use crate::Error;
use crate::link::{address_of, octets};

/// `NFNL_SUBSYS_CTNETLINK << 8`.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const NFGEN: usize = 4;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: [u16; 2] = [1, 3];
const IP_DESTINATION: [u16; 2] = [2, 4];
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE: u16 = 2;
const PROTOCOL_DESTINATION: u16 = 3;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_FLAG(CTA_PROTO_NUM)`, `CTA_FILTER_FLAG(CTA_PROTO_DST_PORT)`.
const BY_NUMBER: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;
const UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// With more ports than this, one listing of all UDP is cheaper than one for each.
const PORTS_ONE_BY_ONE: usize = 8;

/// A flow, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Where answers come from: the destination after its rewriting.
    pub answers_from: SocketAddr,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

fn message(kind: u16, v4: bool) -> Message {
    Message::new(kind, 0).header(&[if v4 { AF_INET } else { AF_INET6 }, 0, 0, 0])
}

/// Lists UDP's flows; those to one port, if the kernel filters (Linux 5.8).
fn list(v4: bool, port: Option<u16>) -> Message {
    let mut m = message(GET, v4);
    m.nest(TUPLE_ORIGINAL, |m| {
        m.nest(TUPLE_PROTOCOL, |m| {
            m.attr_u8(PROTOCOL_NUMBER, UDP);
            if let Some(port) = port {
                m.attr(PROTOCOL_DESTINATION, &port.to_be_bytes());
            }
        });
    });
    let by_port = port.map_or(0, |_| BY_DESTINATION_PORT);
    m.nest(FILTER, |m| {
        m.attr_u32(FILTER_ORIGINAL_FLAGS, BY_NUMBER | by_port);
        m.attr_u32(FILTER_REPLY_FLAGS, 0);
    });
    m
}

fn delete(flow: &Flow) -> Message {
    let v4 = flow.source.is_ipv4();
    let mut m = message(DELETE, v4);
    m.nest(TUPLE_ORIGINAL, |m| {
        m.nest(TUPLE_IP, |m| {
            m.attr(IP_SOURCE[usize::from(!v4)], &octets(flow.source.ip()));
            m.attr(
                IP_DESTINATION[usize::from(!v4)],
                &octets(flow.destination.ip()),
            );
        });
        m.nest(TUPLE_PROTOCOL, |m| {
            m.attr_u8(PROTOCOL_NUMBER, UDP);
            m.attr(PROTOCOL_SOURCE, &flow.source.port().to_be_bytes());
            m.attr(PROTOCOL_DESTINATION, &flow.destination.port().to_be_bytes());
        });
    });
    // The same flow, not one that has taken its place meanwhile.
    if let Some(id) = &flow.id {
        m.attr(ID, id);
    }
    if let Some(zone) = &flow.zone {
        m.attr(ZONE, zone);
    }
    m
}

fn read(reply: &Reply<'_>) -> Option<Flow> {
    if reply.kind != NEW {
        return None;
    }
    let (_, attributes) = reply.split(NFGEN)?;
    let (source, destination) = tuple(attributes.nested(TUPLE_ORIGINAL)?)?;
    let (answers_from, _) = tuple(attributes.nested(TUPLE_REPLY)?)?;
    Some(Flow {
        source,
        destination,
        answers_from,
        id: attributes.get(ID).map(<[u8]>::to_vec),
        zone: attributes.get(ZONE).map(<[u8]>::to_vec),
    })
}

/// Source and destination of a tuple of UDP.
fn tuple(attributes: Attributes<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let ip = attributes.nested(TUPLE_IP)?;
    let protocol = attributes.nested(TUPLE_PROTOCOL)?;
    if protocol.get(PROTOCOL_NUMBER)?.first() != Some(&UDP) {
        return None;
    }
    let address = |kinds: [u16; 2]| kinds.iter().find_map(|k| ip.get(*k)).and_then(address_of);
    let port = |kind| Some(u16::from_be_bytes(protocol.get(kind)?.try_into().ok()?));
    Some((
        SocketAddr::new(address(IP_SOURCE)?, port(PROTOCOL_SOURCE)?),
        SocketAddr::new(address(IP_DESTINATION)?, port(PROTOCOL_DESTINATION)?),
    ))
}

/// Forgets the UDP flows to `ports` for which `stale` is true, and says how many there were.
pub fn forget(
    socket: &mut Socket,
    ports: &[SocketAddr],
    stale: &mut dyn FnMut(&Flow) -> Result<bool, Error>,
) -> Result<usize, Error> {
    let mut forgotten = 0;
    for v4 in [true, false] {
        let of_family: Vec<&SocketAddr> = ports.iter().filter(|p| p.is_ipv4() == v4).collect();
        let mut numbers: Vec<u16> = of_family.iter().map(|p| p.port()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let questions = match numbers.len() {
            0 => continue,
            1..=PORTS_ONE_BY_ONE => numbers.iter().map(|p| list(v4, Some(*p))).collect(),
            _ => vec![list(v4, None)],
        };
        for question in questions {
            for flow in flows(socket, question)? {
                let published = of_family.iter().any(|p| covers(p, &flow));
                if published && stale(&flow)? {
                    forgotten += usize::from(remove(socket, &flow)?);
                }
            }
        }
    }
    Ok(forgotten)
}

/// Whether a port published there is the one that the flow's client asked for.
pub fn covers(published: &SocketAddr, flow: &Flow) -> bool {
    is_to(published, flow.destination)
}

fn is_to(published: &SocketAddr, asked: SocketAddr) -> bool {
    let every: IpAddr = published.ip();
    published.port() == asked.port() && (every.is_unspecified() || every == asked.ip())
}

fn flows(socket: &mut Socket, question: Message) -> Result<Vec<Flow>, Error> {
    let listed = socket.dump(question, |all: &mut Vec<_>, r| all.extend(read(&r)));
    match listed {
        // Without ctnetlink there is nothing that we could forget, and no way to know.
        Err(e) if unsupported(&e) => Ok(Vec::new()),
        other => other.map_err(failed("list the flows of udp")),
    }
}

fn unsupported(error: &NetlinkError) -> bool {
    matches!(
        error.errno(),
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT)
    )
}

/// Whether it was still there.
fn remove(socket: &mut Socket, flow: &Flow) -> Result<bool, Error> {
    match socket.request(delete(flow)) {
        Ok(()) => Ok(true),
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(false),
        Err(e) => Err(failed(format!(
            "forget the flow from {} to {}",
            flow.source, flow.destination
        ))(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow() -> Flow {
        Flow {
            source: "192.0.2.2:5353".parse().unwrap(),
            destination: "192.0.2.1:53".parse().unwrap(),
            answers_from: "10.0.0.2:53".parse().unwrap(),
            id: Some(vec![1, 2, 3, 4]),
            zone: None,
        }
    }

    fn hex(m: &Message) -> String {
        m.payload().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// As `conntrack -D` of conntrack-tools sends it, with the id besides.
    #[test]
    fn a_deletion_names_the_flow_by_its_tuple() {
        let wanted = concat!(
            "02000000",
            "34000180",
            "14000180",
            "08000100c0000202",
            "08000200c0000201",
            "1c000280",
            "0500010011000000",
            "0600020014e90000",
            "0600030000350000",
            "08000c0001020304",
        );
        assert_eq!(hex(&delete(&flow())), wanted);
    }

    #[test]
    fn a_listing_asks_for_udp_and_the_port() {
        let wanted = concat!(
            "0a000000",
            "18000180",
            "14000280",
            "0500010011000000",
            "0600030000350000",
            "14001980",
            "0800010028000000",
            "0800020000000000",
        );
        assert_eq!(hex(&list(false, Some(53))), wanted);
    }

    #[test]
    fn a_port_covers_its_address_or_all() {
        let asked = "192.0.2.1:53".parse().unwrap();
        for (published, wanted) in [
            ("0.0.0.0:53", true),
            ("192.0.2.1:53", true),
            ("192.0.2.9:53", false),
            ("0.0.0.0:54", false),
        ] {
            assert_eq!(is_to(&published.parse().unwrap(), asked), wanted);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&Reply { kind: NEW, flags: 0, sequence: 0, payload: &payload });
        }
    }
}
