//! nf_tables messages (linux/netfilter/nf_tables.h): tables, chains, rules; and batches of them,
//! each one transaction. Pure.

use corten_sys::netlink::{Attributes, Message, Reply, flag};

use super::expression::{self, Expression};

/// `NFNL_SUBSYS_NFTABLES << 8`.
pub(super) const SUBSYSTEM: u16 = 10 << 8;
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
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;

const BATCH_GENERATION: u16 = 1;
const GENERATION_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_FORWARD: u32 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
pub(super) const LIST_ITEM: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;
/// `struct nfgenmsg`.
pub(super) const NFGEN: usize = 4;
/// `NFTNL_UDATA_*_COMMENT`: the user data that nft shows as `comment`.
const COMMENT: u8 = 0;

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    Unspecified = 0,
    Inet = 1,
    Ip = 2,
    Bridge = 7,
    Ip6 = 10,
}

impl Family {
    /// As nft calls it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Unspecified => "unspecified",
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Bridge => "bridge",
            Family::Ip6 => "ip6",
        }
    }
}

/// A chain; with a hook, a base chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    pub name: &'static str,
    /// Type (`nat`, `filter`), hook number, priority.
    pub hook: Option<(&'static str, u32, i32)>,
}

pub(super) fn message(kind: u16, flags: u16, family: Family) -> Message {
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

/// A transaction that fails with `ERESTART` unless the ruleset is still of this generation: what
/// was decided from a reading is done only if nobody has changed anything since (Linux 4.10).
pub fn transaction_on(generation: u32, messages: Vec<Message>) -> Vec<Message> {
    let mut all = transaction(messages);
    all[0].attr_be32(BATCH_GENERATION, generation);
    all
}

pub fn get_generation() -> Message {
    message(GET_GENERATION, 0, Family::Inet)
}

/// The number that every transaction raises.
pub fn read_generation(reply: &Reply<'_>) -> Option<u32> {
    expect(reply, NEW_GENERATION)?.1.be32(GENERATION_ID)
}

/// Its length is one byte; an owner's text is at most 253 long. (nft lists any, and writes at most 128.)
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![COMMENT, (text.len() + 1) as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

pub(super) fn read_comment(userdata: Option<&[u8]>) -> String {
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

pub fn new_table(family: Family, table: &str, text: &str) -> Message {
    let mut m = message(NEW_TABLE, flag::CREATE | flag::EXCL, family);
    m.attr_str(TABLE_NAME, table);
    m.attr(TABLE_USERDATA, &comment(text));
    m
}

pub fn get_table(family: Family, table: &str) -> Message {
    let mut m = message(GET_TABLE, 0, family);
    m.attr_str(TABLE_NAME, table);
    m
}

pub fn delete_table(family: Family, table: &str) -> Message {
    let mut m = message(DEL_TABLE, 0, family);
    m.attr_str(TABLE_NAME, table);
    m
}

/// The comment of a table.
pub fn read_table(reply: &Reply<'_>) -> Option<String> {
    let (_, attributes) = expect(reply, NEW_TABLE)?;
    Some(read_comment(attributes.get(TABLE_USERDATA)))
}

pub fn new_chain(family: Family, table: &str, chain: &Chain) -> Message {
    let mut m = message(NEW_CHAIN, flag::CREATE, family);
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

/// Asks for the chains of all families.
pub fn list_chains() -> Message {
    message(GET_CHAIN, 0, Family::Unspecified)
}

/// What a chain says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    pub family: u8,
    pub table: String,
    pub name: String,
    /// Whether it sees forwarded packets first-hand.
    pub forwards: bool,
    /// Whether its policy is to drop.
    pub drops: bool,
}

pub fn read_chain(reply: &Reply<'_>) -> Option<BaseChain> {
    let (header, attributes) = expect(reply, NEW_CHAIN)?;
    let hook = attributes.nested(CHAIN_HOOK);
    Some(BaseChain {
        family: header[0],
        table: attributes.string(CHAIN_TABLE)?,
        name: attributes.string(CHAIN_NAME)?,
        forwards: hook.is_some_and(|h| h.be32(HOOK_NUMBER) == Some(HOOK_FORWARD)),
        drops: hook.is_some() && attributes.be32(CHAIN_POLICY) == Some(0),
    })
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

/// What we want to know of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub handle: u64,
    pub comment: String,
    /// Whether it drops or rejects every packet that comes to it.
    pub drops_all: bool,
}

pub fn read_rule(reply: &Reply<'_>) -> Option<Rule> {
    let (_, attributes) = expect(reply, NEW_RULE)?;
    let handle = attributes.get(RULE_HANDLE)?.try_into().ok()?;
    Some(Rule {
        handle: u64::from_be_bytes(handle),
        comment: read_comment(attributes.get(RULE_USERDATA)),
        drops_all: attributes
            .nested(RULE_EXPRESSIONS)
            .is_some_and(expression::drops_all),
    })
}

pub fn delete_rule(family: Family, table: &str, chain: &str, handle: u64) -> Message {
    let mut m = message(DEL_RULE, 0, family);
    m.attr_str(RULE_TABLE, table);
    m.attr_str(RULE_CHAIN, chain);
    m.attr(RULE_HANDLE, &handle.to_be_bytes());
    m
}

fn expect<'a>(reply: &Reply<'a>, kind: u16) -> Option<(&'a [u8], Attributes<'a>)> {
    (reply.kind == kind).then(|| reply.split(NFGEN)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_transaction_is_framed_and_its_last_message_acknowledged() {
        let all = transaction(vec![
            get_table(Family::Ip, "a"),
            delete_table(Family::Ip, "a"),
        ]);
        let kinds: Vec<u16> = all.iter().map(Message::kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, GET_TABLE, DEL_TABLE, BATCH_END]);
        let acks: Vec<bool> = all.iter().map(|m| m.flags() & flag::ACK != 0).collect();
        assert_eq!(acks, [false, false, true, false]);
        assert_eq!(all[0].payload(), [0, 0, 0, 10]);
        let on = transaction_on(7, vec![get_table(Family::Ip, "a")]);
        assert_eq!(on[0].payload(), [0, 0, 0, 10, 8, 0, 1, 0, 0, 0, 0, 7]);
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(
            kind in prop::sample::select(vec![NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_GENERATION]),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let reply = Reply { kind, flags: 0, sequence: 0, payload: &payload };
            let _ = (read_table(&reply), read_chain(&reply), read_rule(&reply), read_generation(&reply));
            let _ = read_comment(Some(&payload));
        }
    }
}
