//! DHCP messages (RFC 2131), their options (RFC 2132, 3396, 3442) and the IP packets that carry
//! them while a client has no address. Pure.
//!
//! Anybody on the wire can send them. Each length is checked, options are only looked at, and an
//! address that cannot be a host's is refused where it would be used.

use std::net::Ipv4Addr;

use corten_spec::Cidr;

pub const CLIENT_PORT: u16 = 68;
pub const SERVER_PORT: u16 = 67;

/// Up to the options: `op` to `file` (RFC 2131, section 2), and the magic cookie.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const BROADCAST_FLAG: u16 = 0x8000;
const XID: usize = 4;
const SECS: usize = 8;
const FLAGS: usize = 10;
const CIADDR: usize = 12;
const YIADDR: usize = 16;
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
/// Some relays drop what is shorter than a BOOTP message.
const SHORTEST: usize = 300;

/// Codes of options.
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTERS: u8 = 3;
    pub const NAME_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const STATIC_ROUTES: u8 = 33;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// The message types that a client meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

/// What a client sends.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub kind: Kind,
    pub xid: u32,
    /// Seconds since the client began to ask.
    pub seconds: u16,
    pub broadcast: bool,
    pub mac: [u8; 6],
    /// The address that the client has already; else unspecified.
    pub own: Ipv4Addr,
    /// In their order; the message's type is put before them.
    pub options: &'a [(u8, Vec<u8>)],
}

impl Outgoing<'_> {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[REQUEST, ETHERNET, self.mac.len() as u8]);
        bytes[XID..][..4].copy_from_slice(&self.xid.to_be_bytes());
        bytes[SECS..][..2].copy_from_slice(&self.seconds.to_be_bytes());
        if self.broadcast {
            bytes[FLAGS..][..2].copy_from_slice(&BROADCAST_FLAG.to_be_bytes());
        }
        bytes[CIADDR..][..4].copy_from_slice(&self.own.octets());
        bytes[CHADDR..][..6].copy_from_slice(&self.mac);
        bytes.extend_from_slice(&COOKIE);
        bytes.extend_from_slice(&[code::MESSAGE_TYPE, 1, self.kind as u8]);
        for (code, value) in self.options {
            // A longer value is several options of the same code (RFC 3396).
            for part in value.chunks(255) {
                bytes.extend_from_slice(&[*code, part.len() as u8]);
                bytes.extend_from_slice(part);
            }
        }
        bytes.push(code::END);
        bytes.resize(bytes.len().max(SHORTEST), code::PAD);
        bytes
    }
}

/// What a server sent.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub kind: Kind,
    pub xid: u32,
    /// The address that is offered or given.
    pub address: Ipv4Addr,
    pub mac: [u8; 6],
    options: Vec<(u8, Vec<u8>)>,
}

impl Incoming {
    /// `None` if it is no message of a server's.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        let options = rest.strip_prefix(&COOKIE)?;
        if fixed[..3] != [REPLY, ETHERNET, 6] {
            return None;
        }
        let mut message = Self {
            kind: Kind::Discover,
            xid: u32::from_be_bytes(fixed[XID..XID + 4].try_into().ok()?),
            address: <[u8; 4]>::try_from(&fixed[YIADDR..YIADDR + 4]).ok()?.into(),
            mac: fixed[CHADDR..CHADDR + 6].try_into().ok()?,
            options: Vec::new(),
        };
        message.read_options(options)?;
        // Where the options did not fit, they go on in fields that are not used otherwise.
        let overload = message.byte(code::OVERLOAD).unwrap_or(0);
        if overload & 1 != 0 {
            message.read_options(&fixed[FILE..])?;
        }
        if overload & 2 != 0 {
            message.read_options(&fixed[SNAME..FILE])?;
        }
        message.kind = match message.byte(code::MESSAGE_TYPE)? {
            2 => Kind::Offer,
            5 => Kind::Ack,
            6 => Kind::Nak,
            _ => return None,
        };
        Some(message)
    }

    fn read_options(&mut self, mut rest: &[u8]) -> Option<()> {
        loop {
            match rest {
                [] | [code::END, ..] => return Some(()),
                [code::PAD, tail @ ..] => rest = tail,
                [code, length, tail @ ..] => {
                    let (value, tail) = tail.split_at_checked(usize::from(*length))?;
                    match self.options.iter_mut().find(|(known, _)| known == code) {
                        Some((_, all)) => all.extend_from_slice(value),
                        None => self.options.push((*code, value.to_vec())),
                    }
                    rest = tail;
                }
                [_] => return None,
            }
        }
    }

    pub fn option(&self, code: u8) -> Option<&[u8]> {
        let mut all = self.options.iter();
        all.find(|(known, _)| *known == code).map(|(_, v)| &v[..])
    }

    fn byte(&self, code: u8) -> Option<u8> {
        match self.option(code)? {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    pub fn number(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.option(code)?.try_into().ok()?))
    }

    pub fn short(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(self.option(code)?.try_into().ok()?))
    }

    /// A list of addresses, without those that no host can have.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let bytes = self.option(code).unwrap_or(&[]);
        let (all, _) = bytes.as_chunks::<4>();
        let all = all.iter().map(|a| Ipv4Addr::from(*a));
        all.filter(|a| is_host(*a)).collect()
    }

    /// A text for people or programs; one with control characters is none, it would end up in
    /// files and terminals.
    pub fn text(&self, code: u8) -> Option<String> {
        let bytes = self.option(code)?;
        // Some servers end it like a string of C.
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).ok()?;
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        plain.then(|| text.to_owned())
    }

    /// The length of the prefix; `None` if the mask has holes.
    pub fn prefix(&self) -> Option<u8> {
        let mask = self.number(code::SUBNET_MASK)?;
        (mask.leading_ones() + mask.trailing_zeros().min(32) == 32 && mask != 0)
            .then_some(mask.leading_ones() as u8)
    }

    /// Routes and their gateways; the unspecified gateway means that the destination is on the link.
    /// The classless ones, if there are any, are all that counts (RFC 3442).
    pub fn routes(&self) -> Vec<(Cidr, Ipv4Addr)> {
        match self.option(code::CLASSLESS_ROUTES).map(classless) {
            Some(Some(routes)) if !routes.is_empty() => routes,
            _ => {
                let mut all = self.static_routes();
                let everywhere = Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                let router = self.addresses(code::ROUTERS).first().copied();
                all.extend(everywhere.zip(router));
                all
            }
        }
    }

    /// Option 33: pairs of a host's address and a gateway.
    fn static_routes(&self) -> Vec<(Cidr, Ipv4Addr)> {
        let bytes = self.option(code::STATIC_ROUTES).unwrap_or(&[]);
        let (pairs, _) = bytes.as_chunks::<8>();
        let pair = |p: &[u8; 8]| {
            let [a, b, c, d, gateway @ ..] = *p;
            let host = Ipv4Addr::new(a, b, c, d);
            let gateway = Ipv4Addr::from(gateway);
            (is_host(host) && is_host(gateway)).then(|| (Cidr::host(host.into()), gateway))
        };
        pairs.iter().filter_map(pair).collect()
    }
}

/// Option 121: the prefix's length, as many octets of it as count, the gateway. `None` if it is
/// damaged: then nothing in it can be trusted.
fn classless(mut bytes: &[u8]) -> Option<Vec<(Cidr, Ipv4Addr)>> {
    let mut all = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first() {
        let count = usize::from(prefix.div_ceil(8));
        let mut octets = [0; 4];
        let (significant, rest) = rest.split_at_checked(count)?;
        octets.get_mut(..count)?.copy_from_slice(significant);
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let destination = Cidr::new(Ipv4Addr::from(octets).into(), *prefix)?.network();
        let gateway = Ipv4Addr::from(*gateway);
        if !gateway.is_unspecified() && !is_host(gateway) {
            return None;
        }
        all.push((destination, gateway));
        bytes = rest;
    }
    Some(all)
}

/// Whether an address can be a host's.
pub fn is_host(address: Ipv4Addr) -> bool {
    let never = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !never && !address.is_broadcast() && address.octets()[0] != 0
}

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    // Every part but the last has an even length.
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The message in an IP packet to everybody, from `own` or from nobody yet.
pub fn packet(own: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let length = (IP_HEADER + UDP_HEADER + message.len()) as u16;
    let mut ip = [0; IP_HEADER];
    ip[0] = 0x45;
    // Low delay, as the reference client's.
    ip[1] = 0x10;
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip[8..10].copy_from_slice(&[64, UDP]);
    ip[12..16].copy_from_slice(&own.octets());
    ip[16..20].copy_from_slice(&Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let datagram = length - IP_HEADER as u16;
    let mut udp = [0; UDP_HEADER];
    udp[..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&datagram.to_be_bytes());
    let [high, low] = datagram.to_be_bytes();
    let pseudo = [0, UDP, high, low];
    // Zero would mean that there is none.
    let sum = match checksum(&[&ip[12..20], &pseudo, &udp, message]) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [&ip[..], &udp, message].concat()
}

/// The sender and the message in an IP packet from a server. The checksum is not looked at: on a
/// link between namespaces the kernel fills it in for nobody.
pub fn unpack(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let ip = packet.first_chunk::<IP_HEADER>()?;
    let header = usize::from(ip[0] & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    if ip[0] >> 4 != 4 || header < IP_HEADER || ip[9] != UDP || fragment != 0 {
        return None;
    }
    let udp = packet.get(header..length)?;
    let (head, message) = udp.split_first_chunk::<UDP_HEADER>()?;
    let [source, target, length] = [0, 2, 4].map(|at| u16::from_be_bytes([head[at], head[at + 1]]));
    if (source, target) != (SERVER_PORT, CLIENT_PORT) {
        return None;
    }
    let message = message.get(..usize::from(length).checked_sub(UDP_HEADER)?)?;
    Some((Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]), message))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
