//! The expressions that our rules are made of, and how nf_tables encodes them.

use corten_sys::netlink::{Attributes, Message};

use super::message::DATA_VALUE;

const NAME: u16 = 1;
const DATA: u16 = 2;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const REGISTER_VERDICT: u32 = 0;
/// `NFT_REG32_00`: 16 registers of four bytes; 0 to 3 are also `NFT_REG_1`, and so on.
const REGISTER_0: u32 = 8;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = -3i32 as u32;
const NFT_RETURN: u32 = -5i32 as u32;
/// `IPS_DST_NAT`: the connection's destination was rewritten.
const CT_STATUS_DNAT: u32 = 1 << 5;
/// iptables' own `conntrack` match, revision 3: `struct xt_conntrack_mtinfo3`, padded to 8.
const XT_CONNTRACK_SIZE: usize = 168;
const XT_CONNTRACK_MATCH_FLAGS: usize = 146;
const XT_CONNTRACK_STATE_MASK: usize = 150;
const XT_CONNTRACK_STATE: u16 = 1;
/// ESTABLISHED, RELATED, DNAT.
const XT_CONNTRACK_STATES: u16 = 1 << 1 | 1 << 2 | 1 << 7;
const RTN_LOCAL: u32 = 2;

/// A register, counted in words of four bytes.
pub type Word = u32;

fn register(word: Word) -> u32 {
    REGISTER_0 + word
}

/// What `meta` loads.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Meta {
    Iifname = 6,
    Oifname = 7,
    Nfproto = 15,
    L4proto = 16,
}

/// Where `payload` counts from.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// What `ct` loads.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Ct {
    Status = 2,
}

/// One step of a rule. Values are compared and looked up from word 0 on.
#[derive(Clone, Debug)]
pub enum Expression {
    Meta(Meta, Word),
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        word: Word,
    },
    Ct(Ct),
    /// The type of the destination address, by the routing table.
    FibDaddrType,
    /// The same, counting only addresses of the link that the packet came in by.
    FibDaddrTypeOnLink,
    /// Whether the socket that the packet is for listens on all addresses; ends the rule if there
    /// is no such socket (Linux 5.10).
    SocketWildcard,
    Mask(Vec<u8>),
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    In(&'static str),
    NotIn(&'static str),
    /// Replaces the words from 0 on by what the map has for them; ends the rule if nothing.
    Map(&'static str),
    /// Rewrites the destination to the address at word 0 and the port in the word after it.
    Dnat {
        v4: bool,
    },
    /// Rewrites the destination to the IPv4 address at word 0 and leaves the port.
    DnatAddress4,
    Masquerade,
    /// `-m conntrack --ctstate RELATED,ESTABLISHED,DNAT` as iptables-nft writes it.
    XtConntrack,
    Counter,
    Drop,
    Accept,
    Return,
    Jump(&'static str),
    /// Connection tracking passes the packet over.
    Notrack,
    /// Loads a constant into word 0.
    Load(Vec<u8>),
    /// Writes a port, from word 0, into the transport header, whose checksum lies at `checksum`.
    SetPort {
        offset: u32,
        checksum: u32,
    },
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Expression::Meta(..) => "meta",
            Expression::Payload { .. } => "payload",
            Expression::Ct(_) => "ct",
            Expression::FibDaddrType | Expression::FibDaddrTypeOnLink => "fib",
            Expression::SocketWildcard => "socket",
            Expression::Mask(_) => "bitwise",
            Expression::Equal(_) | Expression::NotEqual(_) => "cmp",
            Expression::In(_) | Expression::NotIn(_) | Expression::Map(_) => "lookup",
            Expression::Dnat { .. } | Expression::DnatAddress4 => "nat",
            Expression::Masquerade => "masq",
            Expression::XtConntrack => "match",
            Expression::Counter => "counter",
            Expression::Drop | Expression::Accept | Expression::Return | Expression::Jump(_) => {
                "immediate"
            }
            Expression::Notrack => "notrack",
            Expression::Load(_) => "immediate",
            Expression::SetPort { .. } => "payload",
        }
    }

    /// Writes the expression into its list item.
    pub fn encode(&self, m: &mut Message) {
        m.attr_str(NAME, self.name());
        m.nest(DATA, |m| self.data(m));
    }

    fn data(&self, m: &mut Message) {
        match self {
            Expression::Meta(key, word) => {
                m.attr_be32(2, *key as u32).attr_be32(1, register(*word));
            }
            Expression::Payload {
                base,
                offset,
                length,
                word,
            } => {
                m.attr_be32(1, register(*word))
                    .attr_be32(2, *base as u32)
                    .attr_be32(3, *offset)
                    .attr_be32(4, *length);
            }
            Expression::Ct(key) => {
                m.attr_be32(2, *key as u32).attr_be32(1, register(0));
            }
            Expression::FibDaddrType => {
                // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR.
                m.attr_be32(1, register(0)).attr_be32(2, 3).attr_be32(3, 2);
            }
            Expression::FibDaddrTypeOnLink => {
                // As above, with NFTA_FIB_F_IIF.
                m.attr_be32(1, register(0))
                    .attr_be32(2, 3)
                    .attr_be32(3, 2 | 8);
            }
            Expression::SocketWildcard => {
                m.attr_be32(1, 2).attr_be32(2, register(0));
            }
            Expression::Mask(mask) => bitwise(m, mask),
            Expression::Equal(value) => compare(m, 0, value),
            Expression::NotEqual(value) => compare(m, 1, value),
            Expression::In(set) => {
                m.attr_str(1, set).attr_be32(2, register(0));
            }
            Expression::NotIn(set) => {
                m.attr_str(1, set).attr_be32(2, register(0)).attr_be32(5, 1);
            }
            Expression::Map(set) => {
                m.attr_str(1, set)
                    .attr_be32(2, register(0))
                    .attr_be32(3, register(0));
            }
            Expression::Dnat { v4 } => dnat(m, *v4),
            Expression::DnatAddress4 => {
                m.attr_be32(1, 1).attr_be32(2, 2).attr_be32(3, register(0));
            }
            Expression::Masquerade => {}
            Expression::XtConntrack => xt_conntrack(m),
            Expression::Counter => {
                m.attr(1, &[0; 8]).attr(2, &[0; 8]);
            }
            Expression::Drop => verdict(m, NF_DROP, None),
            Expression::Accept => verdict(m, NF_ACCEPT, None),
            Expression::Return => verdict(m, NFT_RETURN, None),
            Expression::Jump(chain) => verdict(m, NFT_JUMP, Some(chain)),
            Expression::Notrack => {}
            Expression::Load(value) => {
                m.attr_be32(1, register(0)).nest(2, |m| {
                    m.attr(DATA_VALUE, value);
                });
            }
            Expression::SetPort { offset, checksum } => {
                // Source register; NFT_PAYLOAD_CSUM_INET and where it is.
                m.attr_be32(5, register(0))
                    .attr_be32(2, Base::Transport as u32)
                    .attr_be32(3, *offset)
                    .attr_be32(4, 2)
                    .attr_be32(6, 1)
                    .attr_be32(7, *checksum);
            }
        }
    }
}

fn compare(m: &mut Message, operation: u32, value: &[u8]) {
    m.attr_be32(1, register(0))
        .attr_be32(2, operation)
        .nest(3, |m| {
            m.attr(DATA_VALUE, value);
        });
}

fn bitwise(m: &mut Message, mask: &[u8]) {
    m.attr_be32(1, register(0))
        .attr_be32(2, register(0))
        .attr_be32(3, mask.len() as u32)
        .nest(4, |m| {
            m.attr(DATA_VALUE, mask);
        })
        .nest(5, |m| {
            m.attr(DATA_VALUE, &vec![0; mask.len()]);
        });
}

fn dnat(m: &mut Message, v4: bool) {
    // NF_NAT destination; the family; address and port registers.
    let (family, words) = if v4 { (2, 1) } else { (10, 4) };
    m.attr_be32(1, 1)
        .attr_be32(2, family)
        .attr_be32(3, register(0))
        .attr_be32(5, register(words));
}

fn xt_conntrack(m: &mut Message) {
    let mut info = [0; XT_CONNTRACK_SIZE];
    info[XT_CONNTRACK_MATCH_FLAGS..][..2].copy_from_slice(&XT_CONNTRACK_STATE.to_ne_bytes());
    info[XT_CONNTRACK_STATE_MASK..][..2].copy_from_slice(&XT_CONNTRACK_STATES.to_ne_bytes());
    m.attr_str(1, "conntrack").attr_be32(2, 3).attr(3, &info);
}

fn verdict(m: &mut Message, code: u32, chain: Option<&str>) {
    m.attr_be32(1, REGISTER_VERDICT).nest(2, |m| {
        m.nest(VERDICT, |m| {
            m.attr_be32(VERDICT_CODE, code);
            if let Some(chain) = chain {
                m.attr_str(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// Whether a rule of these expressions takes every packet: it counts or logs at most, and then
/// drops or rejects.
pub fn drops_all(expressions: Attributes<'_>) -> bool {
    let mut expressions = expressions.map(|(_, bytes)| Attributes::new(bytes));
    let last = expressions.find(|e| !matches!(name_of(*e).as_deref(), Some("counter" | "log")));
    let Some(last) = last else {
        return false;
    };
    let data = last.nested(DATA);
    match name_of(last).as_deref() {
        Some("reject") => true,
        // iptables' own targets.
        Some("target") => data.is_some_and(|d| d.string(1).as_deref() == Some("REJECT")),
        Some("immediate") => data
            .and_then(|d| d.nested(2))
            .and_then(|d| d.nested(VERDICT))
            .is_some_and(|v| v.be32(VERDICT_CODE) == Some(NF_DROP)),
        _ => false,
    }
}

fn name_of(expression: Attributes<'_>) -> Option<String> {
    expression.string(NAME)
}

/// Which address of the IP header.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Source,
    Destination,
}

/// Only packets of this family.
pub fn only(v4: bool) -> Vec<Expression> {
    vec![
        Expression::Meta(Meta::Nfproto, 0),
        Expression::Equal(vec![if v4 { 2 } else { 10 }]),
    ]
}

/// Loads an address of the IP header.
pub fn address(v4: bool, side: Side) -> Expression {
    let (offset, length) = match (v4, side) {
        (true, Side::Source) => (12, 4),
        (true, Side::Destination) => (16, 4),
        (false, Side::Source) => (8, 16),
        (false, Side::Destination) => (24, 16),
    };
    Expression::Payload {
        base: Base::Network,
        offset,
        length,
        word: 0,
    }
}

/// Loads the first byte of an address of the IP header: enough for a prefix of eight bits.
pub fn first_byte(v4: bool, side: Side) -> Expression {
    match address(v4, side) {
        Expression::Payload {
            base, offset, word, ..
        } => Expression::Payload {
            base,
            offset,
            length: 1,
            word,
        },
        other => other,
    }
}

/// Loads protocol and destination port, from `word` on.
pub fn protocol_and_port(word: Word) -> [Expression; 2] {
    [
        Expression::Meta(Meta::L4proto, word),
        Expression::Payload {
            base: Base::Transport,
            offset: 2,
            length: 2,
            word: word + 1,
        },
    ]
}

/// Loads the source address of the Ethernet header.
pub fn ethernet_source(word: Word) -> Expression {
    Expression::Payload {
        base: Base::Link,
        offset: 6,
        length: 6,
        word,
    }
}

/// Only packets of this transport protocol.
pub fn only_protocol(number: u8) -> [Expression; 2] {
    [
        Expression::Meta(Meta::L4proto, 0),
        Expression::Equal(vec![number]),
    ]
}

/// Only packets that came in by a link of the set.
pub fn from_link(set: &'static str) -> [Expression; 2] {
    [Expression::Meta(Meta::Iifname, 0), Expression::In(set)]
}

/// Only packets that go out by a link of the set.
pub fn to_link(set: &'static str) -> [Expression; 2] {
    [Expression::Meta(Meta::Oifname, 0), Expression::In(set)]
}

/// Only connections whose destination was rewritten.
pub fn was_dnat() -> [Expression; 3] {
    [
        Expression::Ct(Ct::Status),
        Expression::Mask(CT_STATUS_DNAT.to_ne_bytes().to_vec()),
        Expression::NotEqual(vec![0; 4]),
    ]
}

/// Only packets to an address of the host's own.
pub fn to_local() -> [Expression; 2] {
    [
        Expression::FibDaddrType,
        Expression::Equal(RTN_LOCAL.to_ne_bytes().to_vec()),
    ]
}

/// A name as the kernel compares it: 16 bytes, padded with zeros.
pub fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
