//! Policy rules: which table a packet's route is looked up in (`struct fib_rule_hdr`).

use std::net::IpAddr;

use corten_spec::Cidr;
use corten_sys::netlink::{Message, Reply, flag};

use super::{AF_INET, AF_INET6, address_of, family, octets, u32_at};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE: usize = 12;

/// A rule that sends the packets of a source to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None` for any.
    pub source: Option<Cidr>,
    pub table: u32,
    pub priority: Option<u32>,
}

fn rule(kind: u16, flags: u16, source: IpAddr, table: u32) -> Message {
    let source = Cidr::host(source);
    let mut header = [0; FIB_RULE];
    header[0] = family(source.address());
    header[2] = source.prefix();
    header[4] = u8::try_from(table).unwrap_or(0);
    header[7] = FR_ACT_TO_TBL;
    let mut m = Message::new(kind, flags).header(&header);
    m.attr(FRA_SRC, &octets(source.address()));
    m.attr_u32(FRA_TABLE, table);
    m
}

/// The kernel gives it a priority: one before those that are there.
pub fn new_rule(source: IpAddr, table: u32) -> Message {
    rule(RTM_NEWRULE, flag::CREATE | flag::EXCL, source, table)
}

pub fn delete_rule(source: IpAddr, table: u32, priority: Option<u32>) -> Message {
    let mut m = rule(RTM_DELRULE, 0, source, table);
    if let Some(priority) = priority {
        m.attr_u32(FRA_PRIORITY, priority);
    }
    m
}

pub fn list_rules(v4: bool) -> Message {
    let mut header = [0; FIB_RULE];
    header[0] = if v4 { AF_INET } else { AF_INET6 };
    Message::new(RTM_GETRULE, 0).header(&header)
}

pub fn read_rule(reply: &Reply<'_>) -> Option<Rule> {
    if reply.kind != RTM_NEWRULE {
        return None;
    }
    let (header, attributes) = reply.split(FIB_RULE)?;
    let source = attributes.get(FRA_SRC).and_then(address_of);
    Some(Rule {
        source: source.and_then(|a| Cidr::new(a, header[2])),
        table: match attributes.get(FRA_TABLE) {
            Some(bytes) => u32_at(bytes, 0)?,
            None => u32::from(header[4]),
        },
        priority: attributes.u32(FRA_PRIORITY),
    })
}
