//! DNS messages, as far as a resolver of containers' names has to understand them (RFC 1035,
//! RFC 6891): a query is read, an answer of ours is written, and another server's answer is
//! recognised as that to a question of ours. What is forwarded stays the bytes that it was, but
//! for its id. Pure; nothing here allocates for a query.
//!
//! Foreign bytes are only looked at: nothing is decompressed, so there is no loop to fall into.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The largest query that is read, and what we say that we accept (EDNS). A question and its
/// options are a few hundred bytes.
pub const MAX_QUERY: usize = 4096;
/// What a client without EDNS takes over UDP.
const PLAIN_UDP: usize = 512;
/// How long a client may keep an address, in seconds: by then it may be another container's.
const TTL: u32 = 5;

const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const CHECKING_DISABLED: u8 = 0x10;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
const OPT: u16 = 41;
/// A compression pointer to the question's name, which follows the header.
const TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];

/// Types of records.
pub mod kind {
    pub const A: u16 = 1;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const ANY: u16 = 255;
}

/// Response codes; the last takes the bits that EDNS adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// A name in wire form without the root's zero, in lower case: names are equal if these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// `db`, `db.net.`; `None` if it is no name of a host in DNS.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 1);
        for label in text.split('.') {
            let length = u8::try_from(label.len()).ok();
            let length = length.filter(|l| (1..=MAX_LABEL).contains(l))?;
            wire.push(length);
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        (wire.len() < MAX_NAME).then_some(Self(wire.into()))
    }

    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
pub fn reverse(wire: &[u8]) -> Option<std::net::IpAddr> {
    if let Some(labels) = wire.strip_suffix(b"\x07in-addr\x04arpa") {
        let mut octets = [0; 4];
        let mut rest = labels;
        for octet in octets.iter_mut().rev() {
            let (length, tail) = rest.split_first()?;
            let (digits, tail) = tail.split_at_checked(usize::from(*length))?;
            let plain = digits == b"0" || digits.first().is_some_and(|d| *d != b'0');
            let digits = std::str::from_utf8(digits).ok().filter(|_| plain)?;
            *octet = digits
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then_some(())
                .and_then(|()| digits.parse().ok())?;
            rest = tail;
        }
        return rest.is_empty().then(|| Ipv4Addr::from(octets).into());
    }
    let labels = wire.strip_suffix(b"\x03ip6\x04arpa")?;
    let mut bits = 0u128;
    let (pairs, []) = labels.as_chunks::<2>() else {
        return None;
    };
    for (i, [length, digit]) in pairs.iter().enumerate() {
        let nibble = char::from(*digit).to_digit(16).filter(|_| *length == 1)?;
        bits |= u128::from(nibble) << (4 * i.min(31));
    }
    (pairs.len() == 32).then(|| Ipv6Addr::from(bits).into())
}

/// Why a message is no query that we work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No header, or an answer: whoever sent it waits for nothing.
    Silence,
    Code(Code),
}

/// What a client says of itself by EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    size: u16,
    version: u8,
}

/// A query, in the bytes that it came in.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    bytes: &'a [u8],
    /// Where the question ends.
    end: usize,
    pub kind: u16,
    class: u16,
    edns: Option<Edns>,
    name: [u8; MAX_NAME],
    length: usize,
}

impl<'a> Query<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let format = Refusal::Code(Code::FormErr);
        let header = bytes.first_chunk::<HEADER>().ok_or(Refusal::Silence)?;
        if header[2] & RESPONSE != 0 {
            return Err(Refusal::Silence);
        }
        if header[2] & OPCODE != 0 {
            return Err(Refusal::Code(Code::NotImp));
        }
        let [questions, answers, authorities, additional] =
            [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
        if bytes.len() > MAX_QUERY || (questions, answers, authorities) != (1, 0, 0) {
            return Err(format);
        }
        let mut query = Self {
            bytes,
            end: HEADER,
            kind: 0,
            class: 0,
            edns: None,
            name: [0; MAX_NAME],
            length: 0,
        };
        query.question().ok_or(format)?;
        query.additional(additional).ok_or(format)?;
        match query.edns {
            Some(edns) if edns.version != 0 => Err(Refusal::Code(Code::BadVers)),
            _ => Ok(query),
        }
    }

    /// Reads the question's name, lowered, its type and class.
    fn question(&mut self) -> Option<()> {
        let start = HEADER;
        let mut at = start;
        loop {
            let length = *self.bytes.get(at)?;
            if length == 0 {
                break;
            }
            // A pointer has the upper bits set: there is nothing before the question to point to.
            let next = at + 1 + usize::from(length);
            if length > MAX_LABEL || next - start >= MAX_NAME {
                return None;
            }
            at = next;
        }
        self.length = at - start;
        let name = self.name.get_mut(..self.length)?;
        name.copy_from_slice(self.bytes.get(start..at)?);
        name.make_ascii_lowercase();
        let tail = self.bytes.get(at + 1..at + 5)?;
        self.kind = u16::from_be_bytes([tail[0], tail[1]]);
        self.class = u16::from_be_bytes([tail[2], tail[3]]);
        self.end = at + 5;
        Some(())
    }

    /// Reads the additional records, of which only OPT is of interest.
    fn additional(&mut self, count: u16) -> Option<()> {
        let mut rest = self.bytes.get(self.end..)?;
        for _ in 0..count {
            let root = rest.first() == Some(&0);
            rest = skip_name(rest)?;
            let (fixed, tail) = rest.split_at_checked(10)?;
            let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
            if word(0) == OPT {
                if self.edns.is_some() || !root {
                    return None;
                }
                self.edns = Some(Edns {
                    size: word(2),
                    version: fixed[5],
                });
            }
            rest = tail.get(usize::from(word(8))..)?;
        }
        rest.is_empty().then_some(())
    }

    /// The name asked for, in wire form and lower case.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.length]
    }

    pub fn is_internet(&self) -> bool {
        matches!(self.class, CLASS_IN | CLASS_ANY)
    }

    pub fn wants(&self, kind: u16) -> bool {
        self.kind == kind || self.kind == kind::ANY
    }

    pub fn id(&self) -> [u8; 2] {
        [self.bytes[0], self.bytes[1]]
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the question ends, for [`answers`].
    pub fn question_end(&self) -> usize {
        self.end
    }

    /// What the client takes in one datagram.
    pub fn udp_limit(&self) -> usize {
        let asked = self.edns.map_or(PLAIN_UDP, |e| usize::from(e.size));
        asked.clamp(PLAIN_UDP, MAX_QUERY)
    }
}

fn skip_name(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, tail) = rest.split_first()?;
        match *length {
            0 => return Some(tail),
            1..=MAX_LABEL => rest = tail.get(usize::from(*length)..)?,
            0xc0.. => return tail.get(1..),
            _ => return None,
        }
    }
}

/// The data of a record of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(&'a Name),
}

impl Data<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let (kind, length) = match self {
            Data::A(_) => (kind::A, 4),
            Data::Aaaa(_) => (kind::AAAA, 16),
            Data::Ptr(name) => (kind::PTR, name.wire().len() as u16 + 1),
        };
        out.extend_from_slice(&TO_QUESTION);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out.extend_from_slice(&TTL.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        match self {
            Data::A(address) => out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => out.extend_from_slice(&address.octets()),
            Data::Ptr(name) => {
                out.extend_from_slice(name.wire());
                out.push(0);
            }
        }
    }
}

/// Writes our answer to a query at the end of `out`. What does not fit `limit` bytes is left out,
/// and the answer says so: the client comes again over TCP.
pub fn answer<'d>(
    query: &Query<'_>,
    code: Code,
    records: impl Iterator<Item = Data<'d>>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let opt = if query.edns.is_some() { 11 } else { 0 };
    out.extend_from_slice(&query.bytes[..query.end]);
    let mut count = 0u16;
    let mut truncated = 0;
    for record in records {
        let before = out.len();
        record.write(out);
        if out.len() - start + opt > limit || count == u16::MAX {
            out.truncate(before);
            truncated = TRUNCATED;
            break;
        }
        count += 1;
    }
    if query.edns.is_some() {
        write_opt(code, out);
    }
    let header = &mut out[start..start + HEADER];
    header[2] = RESPONSE | AUTHORITATIVE | truncated | (header[2] & RECURSION_DESIRED);
    header[3] = RECURSION_AVAILABLE | (header[3] & CHECKING_DISABLED) | (code as u8 & 0x0f);
    header[6..8].copy_from_slice(&count.to_be_bytes());
    header[8..10].fill(0);
    header[10..12].copy_from_slice(&u16::from(query.edns.is_some()).to_be_bytes());
}

fn write_opt(code: Code, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&OPT.to_be_bytes());
    out.extend_from_slice(&(MAX_QUERY as u16).to_be_bytes());
    // The upper bits of the code, version 0, no flags, no options.
    out.extend_from_slice(&[code as u8 >> 4, 0, 0, 0, 0, 0]);
}

/// Writes the answer to a message that is no query: its header, and an OPT record for the one
/// code that needs it.
pub fn refuse(bytes: &[u8], code: Code, out: &mut Vec<u8>) {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return;
    };
    let opt = code == Code::BadVers;
    out.extend_from_slice(&header[..2]);
    out.push(RESPONSE | (header[2] & (OPCODE | RECURSION_DESIRED)));
    out.push(RECURSION_AVAILABLE | (code as u8 & 0x0f));
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&u16::from(opt).to_be_bytes());
    if opt {
        write_opt(code, out);
    }
}

/// What a message from a server that we asked is to the question that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No answer to it: forged, late, or damaged.
    Other,
    /// The server does not serve us; another may.
    Failed,
    Answer {
        truncated: bool,
    },
}

/// `asked` is the query as it was sent, with our id; its question ends at `end`.
pub fn reply(asked: &[u8], end: usize, bytes: &[u8]) -> Reply {
    let (Some(ours), Some(header)) = (asked.get(..end), bytes.first_chunk::<HEADER>()) else {
        return Reply::Other;
    };
    let same_kind = header[2] & (RESPONSE | OPCODE) == RESPONSE;
    if end < HEADER + 5 || header[..2] != ours[..2] || !same_kind {
        return Reply::Other;
    }
    let code = header[3] & 0x0f;
    if header[4..6] == [0, 0] {
        // Some servers leave the question out when they refuse to read it.
        let unread = code == Code::FormErr as u8 || code == Code::NotImp as u8;
        return if unread { Reply::Failed } else { Reply::Other };
    }
    let Some(question) = bytes.get(HEADER..end).filter(|_| header[4..6] == [0, 1]) else {
        return Reply::Other;
    };
    let (name, fixed) = question.split_at(question.len() - 4);
    let (own_name, own_fixed) = ours[HEADER..].split_at(question.len() - 4);
    // Lengths of labels are below `A`, so lowering cannot make two of them equal.
    if fixed != own_fixed || !name.eq_ignore_ascii_case(own_name) {
        return Reply::Other;
    }
    if code == Code::ServFail as u8 || code == Code::Refused as u8 || code == Code::NotImp as u8 {
        return Reply::Failed;
    }
    Reply::Answer {
        truncated: header[2] & TRUNCATED != 0,
    }
}

/// Gives an answer of another server the client's id; cut down to its question if it is longer than
/// the client takes.
pub fn relay(id: [u8; 2], end: usize, limit: usize, answer: &mut [u8]) -> &[u8] {
    answer[..2].copy_from_slice(&id);
    if answer.len() <= limit {
        return answer;
    }
    answer[2] |= TRUNCATED;
    answer[6..HEADER].fill(0);
    &answer[..end]
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
