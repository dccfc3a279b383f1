//! nf_tables messages about sets and their elements, and an element as we speak of it. Pure.

use std::net::IpAddr;

use corten_sys::netlink::{Attributes, Message, Reply, flag};

use super::message::{
    DATA_VALUE, Family, LIST_ITEM, NFGEN, SUBSYSTEM, comment, message, read_comment,
};
use crate::link::octets;

const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
/// `NFTNL_UDATA_SET_KEYBYTEORDER` (and `DATABYTEORDER`) with `BYTEORDER_HOST_ENDIAN`: without it nft
/// lists the names of links as empty. Type, length, native u32.
const UDATA_KEY_BYTEORDER: u8 = 0;
const UDATA_DATA_BYTEORDER: u8 = 1;
const BYTEORDER_HOST: u32 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_INTERVAL_END: u32 = 1;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;

/// The types that nft calls by name when it lists a set. A concatenation has six bits for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Ip4,
    Ip6,
    Mac,
    Protocol,
    Port,
    Ifname,
}

impl Datatype {
    fn id(self) -> u32 {
        match self {
            Datatype::Ip4 => 7,
            Datatype::Ip6 => 8,
            Datatype::Mac => 9,
            Datatype::Protocol => 12,
            Datatype::Port => 13,
            Datatype::Ifname => 41,
        }
    }

    /// Its bytes in a concatenation, where each part fills whole registers of four.
    fn length(self) -> u32 {
        match self {
            Datatype::Ip4 | Datatype::Protocol | Datatype::Port => 4,
            Datatype::Mac => 8,
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
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    pub family: Family,
    pub name: &'static str,
    pub key: &'static [Datatype],
    pub data: &'static [Datatype],
    pub interval: bool,
    /// Whether each element belongs to a container, which its comment names.
    pub owned: bool,
}

/// One element of one of our sets or maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub set: &'static Set,
    pub key: Vec<u8>,
    /// Of an interval: the first key beyond it; `None` if it reaches to the top.
    pub end: Option<Vec<u8>>,
    pub data: Vec<u8>,
    pub comment: String,
}

/// The name of a set, and a key in it.
pub type Key<'a> = (&'static str, &'a [u8]);

impl Entry {
    pub fn key(set: &'static Set, key: Vec<u8>) -> Self {
        Self {
            set,
            key,
            end: None,
            data: Vec::new(),
            comment: String::new(),
        }
    }

    /// Whether it is a subnet that none of these addresses is in.
    pub fn is_idle(&self, addresses: &[IpAddr]) -> bool {
        let within = |address: &IpAddr| {
            let bytes = octets(*address);
            let below = self.end.as_ref().is_none_or(|end| bytes < *end);
            bytes.len() == self.key.len() && bytes >= self.key && below
        };
        self.set.interval && !addresses.iter().any(within)
    }

    /// What it is about, whatever it says of that.
    pub fn about(&self) -> Key<'_> {
        (self.set.name, &self.key)
    }
}

/// `id` tells the sets of one transaction apart.
pub fn new_set(table: &str, set: &Set, id: u32) -> Message {
    let mut m = message(NEW_SET, flag::CREATE, set.family);
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
    let orders = [
        (UDATA_KEY_BYTEORDER, set.key),
        (UDATA_DATA_BYTEORDER, set.data),
    ];
    let userdata: Vec<u8> = orders
        .iter()
        .filter(|(_, types)| *types == [Datatype::Ifname])
        .flat_map(|(which, _)| [&[*which, 4][..], &BYTEORDER_HOST.to_ne_bytes()].concat())
        .collect();
    if !userdata.is_empty() {
        m.attr(SET_USERDATA, &userdata);
    }
    m
}

fn about(kind: u16, flags: u16, table: &str, set: &Set) -> Message {
    let mut m = message(kind, flags, set.family);
    m.attr_str(ELEMENTS_TABLE, table);
    m.attr_str(ELEMENTS_SET, set.name);
    m
}

fn key(m: &mut Message, key: &[u8]) {
    m.nest(ELEMENT_KEY, |m| {
        m.attr(DATA_VALUE, key);
    });
}

/// The key, and the end of its interval.
fn range(m: &mut Message, entry: &Entry, more: impl FnOnce(&mut Message)) {
    m.nest(LIST_ITEM, |m| {
        key(m, &entry.key);
        more(m);
    });
    if let Some(end) = &entry.end {
        m.nest(LIST_ITEM, |m| {
            key(m, end);
            m.attr_be32(ELEMENT_FLAGS, ELEMENT_INTERVAL_END);
        });
    }
}

/// Adds an element. With an owner: `EEXIST` if the key is there. Without: it may be there.
pub fn add(table: &str, entry: &Entry) -> Message {
    let exclusive = if entry.set.owned { flag::EXCL } else { 0 };
    let mut m = about(NEW_ELEMENT, flag::CREATE | exclusive, table, entry.set);
    m.nest(ELEMENTS, |m| {
        range(m, entry, |m| {
            if !entry.data.is_empty() {
                m.nest(ELEMENT_DATA, |m| {
                    m.attr(DATA_VALUE, &entry.data);
                });
            }
            if !entry.comment.is_empty() {
                m.attr(ELEMENT_USERDATA, &comment(&entry.comment));
            }
        });
    });
    m
}

/// Deletes an element; `ENOENT` if it is not there.
pub fn delete(table: &str, entry: &Entry) -> Message {
    let mut m = about(DEL_ELEMENT, 0, table, entry.set);
    m.nest(ELEMENTS, |m| range(m, entry, |_| ()));
    m
}

/// Asks for one element; `ENOENT` if it is not there.
pub fn get(table: &str, set: &Set, bytes: &[u8]) -> Message {
    let mut m = about(GET_ELEMENT, 0, table, set);
    m.nest(ELEMENTS, |m| {
        m.nest(LIST_ITEM, |m| key(m, bytes));
    });
    m
}

pub fn list(table: &str, set: &Set) -> Message {
    about(GET_ELEMENT, 0, table, set)
}

/// An element as the kernel lists it: of an interval, its two ends are elements of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Raw {
    key: Vec<u8>,
    /// So that at one key the end of one interval sorts before the start of the next.
    starts: bool,
    data: Vec<u8>,
    comment: String,
}

/// The elements in one message of a dump.
pub fn read(reply: &Reply<'_>) -> Vec<Raw> {
    if reply.kind != NEW_ELEMENT {
        return Vec::new();
    }
    let list = reply.split(NFGEN).and_then(|(_, a)| a.nested(ELEMENTS));
    list.into_iter()
        .flatten()
        .filter(|(kind, _)| *kind == LIST_ITEM)
        .filter_map(|(_, bytes)| {
            let element = Attributes::new(bytes);
            let value = |kind| {
                let value = element.nested(kind)?.get(DATA_VALUE)?;
                Some(value.to_vec())
            };
            let flags = element.be32(ELEMENT_FLAGS).unwrap_or(0);
            Some(Raw {
                key: value(ELEMENT_KEY)?,
                starts: flags & ELEMENT_INTERVAL_END == 0,
                data: value(ELEMENT_DATA).unwrap_or_default(),
                comment: read_comment(element.get(ELEMENT_USERDATA)),
            })
        })
        .collect()
}

/// What a set's raw elements are. The kernel lists the ends of intervals in no order of ours, and
/// may begin with an end that ends nothing.
pub fn entries(set: &'static Set, mut raw: Vec<Raw>) -> Vec<Entry> {
    if set.interval {
        raw.sort();
    }
    let mut all: Vec<Entry> = Vec::with_capacity(raw.len());
    for element in raw {
        if element.starts {
            all.push(Entry {
                set,
                key: element.key,
                end: None,
                data: element.data,
                comment: element.comment,
            });
        } else if let Some(open) = all.last_mut().filter(|e| e.end.is_none()) {
            open.end = Some(element.key);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;
    use proptest::prelude::*;

    fn reply(m: &Message) -> Reply<'_> {
        Reply {
            kind: m.kind(),
            flags: 0,
            sequence: 0,
            payload: m.payload(),
        }
    }

    #[test]
    fn an_element_reads_back() {
        let entry = Entry {
            set: table::publish(true, false),
            key: vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0],
            end: None,
            data: vec![10, 0, 0, 2, 0, 80, 0, 0],
            comment: "abc eth0".into(),
        };
        let raw = read(&reply(&add("t", &entry)));
        assert_eq!(entries(entry.set, raw), [entry]);
    }

    #[test]
    fn intervals_read_back_in_any_order() {
        let interval = |first: u8, end: Option<u8>| Entry {
            end: end.map(|e| vec![e, 0, 0, 0]),
            ..Entry::key(table::local(true), vec![first, 0, 0, 0])
        };
        let all = [
            interval(10, Some(11)),
            interval(11, Some(12)),
            interval(200, None),
        ];
        let mut raw: Vec<Raw> = all
            .iter()
            .flat_map(|e| read(&reply(&add("t", e))))
            .collect();
        raw.push(Raw {
            key: vec![0; 4],
            starts: false,
            data: vec![],
            comment: String::new(),
        });
        raw.reverse();
        assert_eq!(entries(table::local(true), raw), all);
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let reply = Reply { kind: NEW_ELEMENT, flags: 0, sequence: 0, payload: &payload };
            let _ = entries(table::local(true), read(&reply));
        }
    }
}
