//! Traffic control (tc(8), linux/pkt_sched.h): a rate for what a link sends, and the way of what
//! it receives to another link.
//!
//! ```text
//!   shaped, everything:   root 1: tbf
//!   shaped, in part:      root 1: htb ── 1:1 unlimited
//!                                     └─ 1:30 the rate      u32 filters on an address choose
//!   received:             ffff: ingress, one u32 filter that matches all ── mirred ──▶ an ifb
//! ```

use corten_spec::Cidr;
use corten_sys::netlink::{Message, Reply, flag};

use super::{octets, u32_at};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTCLASS: u16 = 40;
const RTM_NEWTFILTER: u16 = 44;
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_0000;
/// `1:`, the shaper of a link.
pub const ROOT: u32 = 0x0001_0000;
const UNSHAPED: u32 = ROOT | 1;
const SHAPED: u32 = ROOT | 0x30;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_LINKLAYER_ETHERNET: u8 = 1;
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// How long a packet may wait before it is dropped.
const LATENCY_MS: u64 = 25;
/// Bytes a second: more than any link of one host.
const UNLIMITED: u64 = 100_000_000_000;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes.
    pub burst: u32,
}

/// A token bucket as the kernel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub rate: u64,
    /// Bytes.
    pub limit: u32,
    /// Ticks.
    pub buffer: u32,
}

/// A queueing discipline of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    pub kind: String,
    pub handle: u32,
    pub bucket: Option<Bucket>,
}

impl Rate {
    /// What the kernel is told: the burst as the time that it takes, in ticks of 64 ns, by way of
    /// whole microseconds as in tc(8); and how many bytes may wait.
    pub fn bucket(self) -> Bucket {
        let rate = self.rate.max(1);
        let micros = u64::from(self.burst) * 1_000_000 / rate;
        let ticks = micros.min(u64::from(u32::MAX)) * 15_625 / 1000;
        let waiting = u128::from(rate) * u128::from(LATENCY_MS) / 1000;
        let limit = waiting.saturating_add(u128::from(self.burst));
        Bucket {
            rate: self.rate,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            buffer: u32::try_from(ticks).unwrap_or(u32::MAX),
        }
    }
}

/// `struct tcmsg`: family u8, pads, link i32, handle u32, parent u32, info u32.
fn tcmsg(link: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    for (at, value) in [(4, link), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// `struct tc_ratespec`: cell_log u8, linklayer u8, overhead u16, cell_align i16, mpu u16, rate
/// u32. The link layer says that the kernel is to count, not to look into a table of ours.
fn ratespec(rate: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[1] = TC_LINKLAYER_ETHERNET;
    let rate = u32::try_from(rate).unwrap_or(u32::MAX);
    bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
    bytes
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn make(kind: u16, header: [u8; TCMSG], name: &str) -> Message {
    let mut m = Message::new(kind, flag::CREATE | flag::EXCL).header(&header);
    m.attr_str(TCA_KIND, name);
    m
}

/// Everything that the link sends gets this rate.
pub fn new_tbf(link: u32, rate: Rate) -> Message {
    let mut m = make(RTM_NEWQDISC, tcmsg(link, ROOT, TC_H_ROOT, 0), "tbf");
    let bucket = rate.bucket();
    m.nest(TCA_OPTIONS, |m| {
        // struct tc_tbf_qopt: rate, peak rate, limit, buffer, mtu.
        let mut parms = ratespec(rate.rate).to_vec();
        parms.extend([0; 12]);
        parms.extend(words(&[bucket.limit, bucket.buffer, 0]));
        m.attr(TCA_TBF_PARMS, &parms);
        wide(m, TCA_TBF_RATE64, rate.rate);
    });
    m
}

/// A rate that 32 bits do not hold.
fn wide(m: &mut Message, kind: u16, rate: u64) {
    if rate > u64::from(u32::MAX) {
        m.attr(kind, &rate.to_ne_bytes());
    }
}

/// Which address of a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// What has `side` in one of `subnets` gets this rate (`only`), or all else does.
pub fn new_htb(link: u32, rate: Rate, side: Side, subnets: &[Cidr], only: bool) -> Vec<Message> {
    let mut root = make(RTM_NEWQDISC, tcmsg(link, ROOT, TC_H_ROOT, 0), "htb");
    let (others, theirs) = if only {
        (UNSHAPED, SHAPED)
    } else {
        (SHAPED, UNSHAPED)
    };
    root.nest(TCA_OPTIONS, |m| {
        // struct tc_htb_glob: version, rate2quantum, default class, two of no meaning here.
        m.attr(TCA_HTB_INIT, &words(&[3, 10, others & 0xffff, 0, 0]));
    });
    let mut all = vec![root, class(link, SHAPED, rate)];
    let burst = 1 << 20;
    let rest = Rate {
        rate: UNLIMITED,
        burst,
    };
    all.push(class(link, UNSHAPED, rest));
    all.extend(subnets.iter().map(|s| filter(link, side, *s, theirs)));
    all
}

fn class(link: u32, handle: u32, rate: Rate) -> Message {
    let mut m = make(RTM_NEWTCLASS, tcmsg(link, handle, ROOT, 0), "htb");
    let buffer = rate.bucket().buffer;
    m.nest(TCA_OPTIONS, |m| {
        // struct tc_htb_opt: rate, ceiling, buffer, cbuffer, quantum, level, prio. The quantum is
        // given, as the kernel complains of what it would reckon from high rates.
        let mut parms = ratespec(rate.rate).to_vec();
        parms.extend(ratespec(rate.rate));
        parms.extend(words(&[buffer, buffer, 60_000, 0, 0]));
        m.attr(TCA_HTB_PARMS, &parms);
        wide(m, TCA_HTB_RATE64, rate.rate);
        wide(m, TCA_HTB_CEIL64, rate.rate);
    });
    m
}

/// What has `side` in `subnet`, to the class `to`.
fn filter(link: u32, side: Side, subnet: Cidr, to: u32) -> Message {
    // Filters of one priority are of one protocol.
    let (priority, protocol) = match subnet.is_ipv4() {
        true => (16, ETH_P_IP),
        false => (15, ETH_P_IPV6),
    };
    // In the headers of RFC 791 and RFC 8200.
    let start = match (subnet.is_ipv4(), side) {
        (true, Side::Source) => 12,
        (true, Side::Destination) => 16,
        (false, Side::Source) => 8,
        (false, Side::Destination) => 24,
    };
    let info = priority << 16 | u32::from(protocol.to_be());
    let mut m = make(RTM_NEWTFILTER, tcmsg(link, 0, ROOT, info), "u32");
    m.nest(TCA_OPTIONS, |m| {
        m.attr_u32(TCA_U32_CLASSID, to);
        m.attr(TCA_U32_SEL, &selector(&keys(subnet, start)));
    });
    m
}

/// Mask, value and offset of each word of an address that counts.
fn keys(subnet: Cidr, start: u32) -> Vec<[u32; 3]> {
    let value = octets(subnet.first());
    let (words, mut left) = (value.chunks_exact(4), u32::from(subnet.prefix()));
    let mut keys = Vec::new();
    for (i, word) in words.enumerate() {
        let bits = left.min(32);
        left -= bits;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let word: [u8; 4] = word.try_into().unwrap_or_default();
        if mask != 0 {
            keys.push([mask, u32::from_be_bytes(word), start + 4 * i as u32]);
        }
    }
    if keys.is_empty() {
        keys.push([0, 0, 0]);
    }
    keys
}

/// `struct tc_u32_sel`: flags u8, offshift u8, nkeys u8, pad, offmask u16, off u16, offoff i16,
/// hoff i16, hmask u32; then each `tc_u32_key`: mask and value (network order), off, offmask.
fn selector(keys: &[[u32; 3]]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[0] = TC_U32_TERMINAL;
    bytes[2] = keys.len() as u8;
    for [mask, value, offset] in keys {
        bytes.extend(mask.to_be_bytes());
        bytes.extend(value.to_be_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

/// Everything that `link` receives goes to `target` instead, as if that one sent it; what comes
/// out of `target`'s queue goes on where it was going.
pub fn redirect(link: u32, target: u32) -> Vec<Message> {
    let ingress = make(
        RTM_NEWQDISC,
        tcmsg(link, INGRESS, TC_H_INGRESS, 0),
        "ingress",
    );
    let info = 1 << 16 | u32::from(ETH_P_ALL.to_be());
    let mut all = make(RTM_NEWTFILTER, tcmsg(link, 0, INGRESS, info), "u32");
    all.nest(TCA_OPTIONS, |m| {
        m.attr_u32(TCA_U32_CLASSID, UNSHAPED);
        m.attr(TCA_U32_SEL, &selector(&[[0, 0, 0]]));
        m.nest(TCA_U32_ACT, |m| {
            // The first action, and the only one.
            m.nest(1, |m| {
                m.attr_str(TCA_ACT_KIND, "mirred");
                m.nest(TCA_ACT_OPTIONS, |m| {
                    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
                    let parms = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target];
                    m.attr(TCA_MIRRED_PARMS, &words(&parms));
                });
            });
        });
    });
    vec![ingress, all]
}

pub fn delete_root(link: u32) -> Message {
    Message::new(RTM_DELQDISC, 0).header(&tcmsg(link, 0, TC_H_ROOT, 0))
}

/// With its filters.
pub fn delete_ingress(link: u32) -> Message {
    Message::new(RTM_DELQDISC, 0).header(&tcmsg(link, INGRESS, TC_H_INGRESS, 0))
}

pub fn list_qdiscs(link: u32) -> Message {
    Message::new(RTM_GETQDISC, 0).header(&tcmsg(link, 0, 0, 0))
}

/// With the index of its link.
pub fn read_qdisc(reply: &Reply<'_>) -> Option<(u32, Qdisc)> {
    if reply.kind != RTM_NEWQDISC {
        return None;
    }
    let (header, attributes) = reply.split(TCMSG)?;
    let kind = attributes.string(TCA_KIND)?;
    let bucket = attributes
        .nested(TCA_OPTIONS)
        .filter(|_| kind == "tbf")
        .and_then(|options| {
            let parms = options.get(TCA_TBF_PARMS)?;
            let wide = options.get(TCA_TBF_RATE64);
            let wide = wide.and_then(|b| Some(u64::from_ne_bytes(b.try_into().ok()?)));
            Some(Bucket {
                rate: wide.unwrap_or(u64::from(u32_at(parms, 8)?)),
                limit: u32_at(parms, 24)?,
                buffer: u32_at(parms, 28)?,
            })
        });
    let qdisc = Qdisc {
        kind,
        handle: u32_at(header, 8)?,
        bucket,
    };
    Some((u32_at(header, 4)?, qdisc))
}
