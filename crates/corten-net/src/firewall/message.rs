//! nf_tables messages (linux/netfilter/nf_tables.h): tables, chains, rules, sets and their
//! elements; and batches of them, each one transaction. Pure.

use corten_sys::netlink::{Attributes, Message, Reply, flag};

use super::expression::Expression;

/// `NFNL_SUBSYS_NFTABLES << 8`.
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DEL_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
/// `NFTNL_UDATA_SET_KEYBYTEORDER` with `BYTEORDER_HOST_ENDIAN`: without it nft lists the names of
/// links as empty. Type, length, native u32.
const UDATA_KEY_BYTEORDER: u8 = 0;
const BYTEORDER_HOST: u32 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
pub(super) const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
pub(super) const DATA_VALUE: u16 = 1;
const ELEMENT_INTERVAL_END: u32 = 1;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
/// `struct nfgenmsg`.
const NFGEN: usize = 4;
/// `NFTNL_UDATA_*_COMMENT`: the user data that nft shows as `comment`.
const COMMENT: u8 = 0;

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Ip6 = 10,
}

/// The types that nft calls by name when it lists a set. A concatenation has six bits for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Ip4,
    Ip6,
    Protocol,
    Port,
    Ifname,
}

impl Datatype {
    fn id(self) -> u32 {
        match self {
            Datatype::Ip4 => 7,
            Datatype::Ip6 => 8,
            Datatype::Protocol => 12,
            Datatype::Port => 13,
            Datatype::Ifname => 41,
        }
    }

    /// Its bytes in a concatenation, where each part fills whole registers of four.
    fn length(self) -> u32 {
        match self {
            Datatype::Ip4 | Datatype::Protocol | Datatype::Port => 4,
            Datatype::Ip6 | Datatype::Ifname => 16,
        }
    }
}

fn concatenated(types: &[Datatype]) -> (u32, u32) {
    types
        .iter()
        .fold((0, 0), |(id, len), t| (id << 6 | t.id(), len + t.length()))
}

/// A set, or with `data` a map.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    pub name: &'static str,
    pub key: &'static [Datatype],
    pub data: &'static [Datatype],
    pub interval: bool,
}

/// A chain; with a hook, a base chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    pub name: &'static str,
    /// Type (`nat`, `filter`), hook number, priority.
    pub hook: Option<(&'static str, u32, i32)>,
}

/// An element of a set or map, as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Vec<u8>,
    pub comment: String,
}

fn message(kind: u16, flags: u16, family: Family) -> Message {
    Message::new(kind, flags).header(&[family as u8, 0, 0, 0])
}

fn batch(kind: u16) -> Message {
    // The subsystem, in network order, where other messages have zero.
    let subsystem = (SUBSYSTEM >> 8).to_be_bytes();
    Message::new(kind, 0).header(&[0, 0, subsystem[0], subsystem[1]])
}

/// Frames messages as one transaction. Only the last is acknowledged: refusals come anyway.
pub fn transaction(mut messages: Vec<Message>) -> Vec<Message> {
    if let Some(last) = messages.pop() {
        messages.push(last.with_flags(flag::ACK));
    }
    messages.insert(0, batch(BATCH_BEGIN));
    messages.push(batch(BATCH_END));
    messages
}

/// nft reads at most 128 bytes of comment; the callers stay below.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![COMMENT, (text.len() + 1) as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

fn read_comment(userdata: Option<&[u8]>) -> String {
    let mut rest = userdata.unwrap_or(&[]);
    while let [kind, length, tail @ ..] = rest {
        let Some(value) = tail.get(..usize::from(*length)) else {
            break;
        };
        if *kind == COMMENT {
            let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
            return String::from_utf8_lossy(&value[..end]).into_owned();
        }
        rest = &tail[value.len()..];
    }
    String::new()
}

pub fn new_table(table: &str, text: &str) -> Message {
    let mut m = message(NEW_TABLE, flag::CREATE | flag::EXCL, Family::Inet);
    m.attr_str(TABLE_NAME, table);
    m.attr(TABLE_USERDATA, &comment(text));
    m
}

pub fn get_table(table: &str) -> Message {
    let mut m = message(GET_TABLE, 0, Family::Inet);
    m.attr_str(TABLE_NAME, table);
    m
}

pub fn delete_table(table: &str) -> Message {
    let mut m = message(DEL_TABLE, 0, Family::Inet);
    m.attr_str(TABLE_NAME, table);
    m
}

/// The comment of a table.
pub fn read_table(reply: &Reply<'_>) -> Option<String> {
    let (_, attributes) = expect(reply, NEW_TABLE)?;
    Some(read_comment(attributes.get(TABLE_USERDATA)))
}

pub fn new_chain(table: &str, chain: &Chain) -> Message {
    let mut m = message(NEW_CHAIN, flag::CREATE, Family::Inet);
    m.attr_str(CHAIN_TABLE, table);
    m.attr_str(CHAIN_NAME, chain.name);
    if let Some((kind, hook, priority)) = chain.hook {
        m.nest(CHAIN_HOOK, |m| {
            m.attr_be32(HOOK_NUMBER, hook);
            m.attr_be32(HOOK_PRIORITY, priority as u32);
        });
        m.attr_str(CHAIN_TYPE, kind);
    }
    m
}

pub fn get_chain(family: Family, table: &str, chain: &str) -> Message {
    let mut m = message(GET_CHAIN, 0, family);
    m.attr_str(CHAIN_TABLE, table);
    m.attr_str(CHAIN_NAME, chain);
    m
}

/// Whether the chain's policy is to drop.
pub fn read_chain_drops(reply: &Reply<'_>) -> Option<bool> {
    let (_, attributes) = expect(reply, NEW_CHAIN)?;
    Some(attributes.be32(CHAIN_POLICY) == Some(0))
}

/// A rule at the end of its chain, or (not `append`) at its head.
pub fn new_rule(
    family: Family,
    table: &str,
    chain: &str,
    append: bool,
    expressions: &[Expression],
    text: &str,
) -> Message {
    let flags = flag::CREATE | if append { flag::APPEND } else { 0 };
    let mut m = message(NEW_RULE, flags, family);
    m.attr_str(RULE_TABLE, table);
    m.attr_str(RULE_CHAIN, chain);
    m.nest(RULE_EXPRESSIONS, |m| {
        for e in expressions {
            m.nest(LIST_ITEM, |m| e.encode(m));
        }
    });
    if !text.is_empty() {
        m.attr(RULE_USERDATA, &comment(text));
    }
    m
}

pub fn list_rules(family: Family, table: &str, chain: &str) -> Message {
    let mut m = message(GET_RULE, 0, family);
    m.attr_str(RULE_TABLE, table);
    m.attr_str(RULE_CHAIN, chain);
    m
}

/// The handle and the comment of a rule.
pub fn read_rule(reply: &Reply<'_>) -> Option<(u64, String)> {
    let (_, attributes) = expect(reply, NEW_RULE)?;
    let handle = attributes.get(RULE_HANDLE)?.try_into().ok()?;
    Some((
        u64::from_be_bytes(handle),
        read_comment(attributes.get(RULE_USERDATA)),
    ))
}

pub fn delete_rule(family: Family, table: &str, chain: &str, handle: u64) -> Message {
    let mut m = message(DEL_RULE, 0, family);
    m.attr_str(RULE_TABLE, table);
    m.attr_str(RULE_CHAIN, chain);
    m.attr(RULE_HANDLE, &handle.to_be_bytes());
    m
}

/// `id` tells the sets of one transaction apart.
pub fn new_set(table: &str, set: &Set, id: u32) -> Message {
    let mut m = message(NEW_SET, flag::CREATE, Family::Inet);
    let (key_type, key_length) = concatenated(set.key);
    let mut flags = 0;
    if set.interval {
        flags |= SET_INTERVAL;
    }
    if !set.data.is_empty() {
        flags |= SET_MAP;
    }
    m.attr_str(SET_TABLE, table);
    m.attr_str(SET_NAME, set.name);
    m.attr_be32(SET_FLAGS, flags);
    m.attr_be32(SET_KEY_TYPE, key_type);
    m.attr_be32(SET_KEY_LENGTH, key_length);
    if !set.data.is_empty() {
        let (data_type, data_length) = concatenated(set.data);
        m.attr_be32(SET_DATA_TYPE, data_type);
        m.attr_be32(SET_DATA_LENGTH, data_length);
    }
    m.attr_be32(SET_ID, id);
    if set.key == [Datatype::Ifname] {
        let mut userdata = vec![UDATA_KEY_BYTEORDER, 4];
        userdata.extend_from_slice(&BYTEORDER_HOST.to_ne_bytes());
        m.attr(SET_USERDATA, &userdata);
    }
    m
}

fn elements(
    kind: u16,
    flags: u16,
    table: &str,
    set: &str,
    fill: impl FnOnce(&mut Message),
) -> Message {
    let mut m = message(kind, flags, Family::Inet);
    m.attr_str(ELEMENTS_TABLE, table);
    m.attr_str(ELEMENTS_SET, set);
    m.nest(ELEMENTS, fill);
    m
}

fn key(m: &mut Message, key: &[u8]) {
    m.nest(ELEMENT_KEY, |m| {
        m.attr(DATA_VALUE, key);
    });
}

/// Adds one element to a map; `EEXIST` if the key is there.
pub fn new_element(table: &str, set: &str, element: &Element) -> Message {
    elements(NEW_ELEMENT, flag::CREATE | flag::EXCL, table, set, |m| {
        m.nest(LIST_ITEM, |m| {
            key(m, &element.key);
            if !element.data.is_empty() {
                m.nest(ELEMENT_DATA, |m| {
                    m.attr(DATA_VALUE, &element.data);
                });
            }
            m.attr(ELEMENT_USERDATA, &comment(&element.comment));
        });
    })
}

pub fn delete_element(table: &str, set: &str, bytes: &[u8]) -> Message {
    elements(DEL_ELEMENT, 0, table, set, |m| {
        m.nest(LIST_ITEM, |m| key(m, bytes));
    })
}

/// A plain key of a set, there already or not.
pub fn add_key(table: &str, set: &str, bytes: &[u8]) -> Message {
    elements(NEW_ELEMENT, flag::CREATE, table, set, |m| {
        m.nest(LIST_ITEM, |m| key(m, bytes));
    })
}

/// An interval of an interval set: from `first` up to, but without, `end` (`None`: to the top).
pub fn interval(add: bool, table: &str, set: &str, first: &[u8], end: Option<&[u8]>) -> Message {
    let (kind, flags) = match add {
        true => (NEW_ELEMENT, flag::CREATE),
        false => (DEL_ELEMENT, 0),
    };
    elements(kind, flags, table, set, |m| {
        m.nest(LIST_ITEM, |m| key(m, first));
        if let Some(end) = end {
            m.nest(LIST_ITEM, |m| {
                key(m, end);
                m.attr_be32(ELEMENT_FLAGS, ELEMENT_INTERVAL_END);
            });
        }
    })
}

pub fn list_elements(table: &str, set: &str) -> Message {
    let mut m = message(GET_ELEMENT, 0, Family::Inet);
    m.attr_str(ELEMENTS_TABLE, table);
    m.attr_str(ELEMENTS_SET, set);
    m
}

/// The elements in one message of a dump.
pub fn read_elements(reply: &Reply<'_>) -> Vec<Element> {
    let Some((_, attributes)) = expect(reply, NEW_ELEMENT) else {
        return Vec::new();
    };
    let Some(list) = attributes.nested(ELEMENTS) else {
        return Vec::new();
    };
    list.filter(|(kind, _)| *kind == LIST_ITEM)
        .filter_map(|(_, bytes)| {
            let element = Attributes::new(bytes);
            let value = |kind| {
                let value = element.nested(kind)?.get(DATA_VALUE)?;
                Some(value.to_vec())
            };
            Some(Element {
                key: value(ELEMENT_KEY)?,
                data: value(ELEMENT_DATA).unwrap_or_default(),
                comment: read_comment(element.get(ELEMENT_USERDATA)),
            })
        })
        .collect()
}

fn expect<'a>(reply: &Reply<'a>, kind: u16) -> Option<(&'a [u8], Attributes<'a>)> {
    (reply.kind == kind).then(|| reply.split(NFGEN)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_element_reads_back() {
        let element = Element {
            key: vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0],
            data: vec![10, 0, 0, 2, 0, 80, 0, 0],
            comment: "abc eth0".into(),
        };
        let m = new_element("t", "publish4", &element);
        let reply = Reply {
            kind: m.kind(),
            flags: 0,
            sequence: 0,
            payload: m.payload(),
        };
        assert_eq!(read_elements(&reply), [element]);
    }

    #[test]
    fn a_transaction_is_framed_and_its_last_message_acknowledged() {
        let all = transaction(vec![get_table("a"), delete_table("a")]);
        let kinds: Vec<u16> = all.iter().map(Message::kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, GET_TABLE, DEL_TABLE, BATCH_END]);
        let acks: Vec<bool> = all.iter().map(|m| m.flags() & flag::ACK != 0).collect();
        assert_eq!(acks, [false, false, true, false]);
        assert_eq!(all[0].payload(), [0, 0, 0, 10]);
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(
            kind in prop::sample::select(vec![NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_ELEMENT]),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let reply = Reply { kind, flags: 0, sequence: 0, payload: &payload };
            let _ = (read_table(&reply), read_chain_drops(&reply), read_rule(&reply), read_elements(&reply));
            let _ = read_comment(Some(&payload));
        }
    }
}
