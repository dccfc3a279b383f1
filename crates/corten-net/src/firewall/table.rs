//! The table that an engine owns: its sets, maps, chains and rules. They are the same for every
//! network; what differs (links, subnets, ports) is elements. So a packet costs a fixed number of
//! lookups however many ports are published.
//!
//! ```text
//!  prerouting (raw)   from a container, to or from 127/8                drop
//!  prerouting (nat) ┐ to an address of the host's ─▶ publish
//!  output (nat)     ┘
//!  publish            [::1]                                             return
//!                     address . protocol . port in publish{4,6}_on      dnat
//!                     protocol . port in publish{4,6}                   dnat
//!  prerouting (nat)   to the gateway of a link in host_loopback, where
//!                     nobody listens                                    dnat to 127.0.0.1
//!  forward            within one network                                accept
//!                     from or to a link in internal                     drop
//!                     between two links in ingress                      drop
//!                     dnat'ed                                           accept
//!                     between a link in isolated and another of ours    drop
//!  postrouting (nat)  dnat'ed ─▶ published
//!                     from a masqueraded subnet to outside              masquerade
//!  published          to a target in plain{4,6}                         return
//!                     to a target in masqall{4,6}                       masquerade
//!                     from 127/8                                        masquerade
//!                     from container to container                       masquerade
//! ```

use corten_sys::netlink::Message;

use super::element::{Datatype, Set, new_set};
use super::expression::{
    Expression, Meta, Side, address, first_byte, from_link, only, only_protocol, protocol_and_port,
    to_link, to_local, was_dnat,
};
use super::message::{Chain, Family, new_chain, new_rule, new_table};
use super::plan::Features;

/// Written into the table's comment. A table with another number is made anew, with its elements:
/// raise it with every change below.
pub const REVISION: &str = "corten 2";

const IFNAME: &[Datatype] = &[Datatype::Ifname];
const TARGET4: &[Datatype] = &[Datatype::Ip4, Datatype::Protocol, Datatype::Port];
const TARGET6: &[Datatype] = &[Datatype::Ip6, Datatype::Protocol, Datatype::Port];

pub static SETS: [Set; 20] = [
    // Links of container networks, and what holds for them.
    plain("links", IFNAME),
    plain("same", &[Datatype::Ifname, Datatype::Ifname]),
    plain("internal", IFNAME),
    plain("isolated", IFNAME),
    plain("ingress", IFNAME),
    plain("host_loopback", IFNAME),
    subnets("local4", &[Datatype::Ip4]),
    subnets("local6", &[Datatype::Ip6]),
    subnets("masq4", &[Datatype::Ip4]),
    subnets("masq6", &[Datatype::Ip6]),
    map(
        "publish4",
        &[Datatype::Protocol, Datatype::Port],
        &[Datatype::Ip4, Datatype::Port],
    ),
    map(
        "publish6",
        &[Datatype::Protocol, Datatype::Port],
        &[Datatype::Ip6, Datatype::Port],
    ),
    map("publish4_on", TARGET4, &[Datatype::Ip4, Datatype::Port]),
    map("publish6_on", TARGET6, &[Datatype::Ip6, Datatype::Port]),
    owned("plain4", TARGET4),
    owned("plain6", TARGET6),
    owned("masqall4", TARGET4),
    owned("masqall6", TARGET6),
    // Whom the plugin `firewall` admitted. No rule asks; the plugin does.
    map("admitted4", &[Datatype::Ip4], IFNAME),
    map("admitted6", &[Datatype::Ip6], IFNAME),
];

const fn plain(name: &'static str, key: &'static [Datatype]) -> Set {
    Set {
        family: Family::Inet,
        name,
        key,
        data: &[],
        interval: false,
        owned: false,
    }
}

const fn subnets(name: &'static str, key: &'static [Datatype]) -> Set {
    Set {
        interval: true,
        ..plain(name, key)
    }
}

const fn owned(name: &'static str, key: &'static [Datatype]) -> Set {
    Set {
        owned: true,
        ..plain(name, key)
    }
}

const fn map(name: &'static str, key: &'static [Datatype], data: &'static [Datatype]) -> Set {
    Set {
        data,
        ..owned(name, key)
    }
}

/// Links of container networks.
pub fn links() -> &'static Set {
    &SETS[0]
}

/// Each link of ours with itself: where packets pass the bridge, br_netfilter shows them here.
pub fn same() -> &'static Set {
    &SETS[1]
}

/// Links that have no way in or out through the host.
pub fn internal() -> &'static Set {
    &SETS[2]
}

/// Links that do not reach the other links of ours, nor are reached by them.
pub fn isolated() -> &'static Set {
    &SETS[3]
}

/// Links among which nothing is forwarded: `ingressPolicy` of the plugin `firewall`.
pub fn ingress() -> &'static Set {
    &SETS[4]
}

/// Links whose containers reach the host's loopback by the gateway's address.
pub fn host_loopback() -> &'static Set {
    &SETS[5]
}

/// All subnets of containers.
pub fn local(v4: bool) -> &'static Set {
    &SETS[if v4 { 6 } else { 7 }]
}

/// The subnets whose packets to the outside are masqueraded.
pub fn masq(v4: bool) -> &'static Set {
    &SETS[if v4 { 8 } else { 9 }]
}

/// The map of ports published on all addresses, or on particular ones.
pub fn publish(v4: bool, on_address: bool) -> &'static Set {
    &SETS[10 + usize::from(!v4) + 2 * usize::from(on_address)]
}

/// Targets of published ports that see every client's own address, come what may.
pub fn plain_targets(v4: bool) -> &'static Set {
    &SETS[if v4 { 14 } else { 15 }]
}

/// Targets of published ports that see the host's address whoever the client is.
pub fn masqueraded_targets(v4: bool) -> &'static Set {
    &SETS[if v4 { 16 } else { 17 }]
}

/// Addresses that the plugin `firewall` admitted, each with its link.
pub fn admitted(v4: bool) -> &'static Set {
    &SETS[if v4 { 18 } else { 19 }]
}

const FILTER: i32 = 0;
// The priorities' names (nft(8)): raw, dstnat, srcnat.
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const CHAINS: [Chain; 8] = [
    chain("guard", Some(("filter", PREROUTING, RAW))),
    chain("publish", None),
    chain("loopback", None),
    chain("published", None),
    chain("prerouting", Some(("nat", PREROUTING, DSTNAT))),
    chain("output", Some(("nat", OUTPUT, DSTNAT))),
    chain("forward", Some(("filter", FORWARD, FILTER))),
    chain("postrouting", Some(("nat", POSTROUTING, SRCNAT))),
];

const fn chain(name: &'static str, hook: Option<(&'static str, u32, i32)>) -> Chain {
    Chain { name, hook }
}

/// The rules in their order, each with its chain.
fn rules(features: Features) -> Vec<(&'static str, Vec<Expression>)> {
    let mut all = guard().map(|r| ("guard", r)).to_vec();
    for v4 in [true, false] {
        if !v4 {
            all.push(("publish", not_ipv6_loopback()));
        }
        all.push(("publish", publish_rule(v4, true)));
        all.push(("publish", publish_rule(v4, false)));
    }
    if features.socket {
        all.extend(to_host_loopback().map(|r| ("loopback", r)));
    }
    for chain in ["prerouting", "output"] {
        all.push((chain, join([&to_local(), &[Expression::Jump("publish")]])));
    }
    all.push(("prerouting", to_gateway()));
    all.extend(forward().map(|r| ("forward", r)));
    let published = [Expression::Jump("published")];
    all.push(("postrouting", join([&was_dnat()[..], &published])));
    for v4 in [true, false] {
        all.push(("postrouting", to_outside(v4)));
        all.extend(as_published(v4).map(|r| ("published", r)));
    }
    all.push(("published", from_loopback()));
    for v4 in [true, false] {
        all.push(("published", hairpin(v4)));
    }
    all
}

fn join<const N: usize>(parts: [&[Expression]; N]) -> Vec<Expression> {
    parts.concat()
}

/// `route_localnet` on the bridge, which published ports on 127.0.0.1 need, would let containers
/// reach what the host serves on its loopback (CVE-2020-8558), and pose as the host's loopback
/// to what it serves elsewhere. Answers to the host are not concerned: they are still addressed to
/// the bridge when they pass here.
fn guard() -> [Vec<Expression>; 2] {
    [Side::Destination, Side::Source].map(|side| {
        let of_loopback = [
            first_byte(true, side),
            Expression::Equal(vec![127]),
            Expression::Drop,
        ];
        join([&from_link("links"), &only(true), &of_loopback])
    })
}

/// The kernel refuses answers to ::1 from another link and has no `route_localnet` for IPv6, so
/// a rewritten connection would hang. Left alone it reaches the supervisor's own socket.
fn not_ipv6_loopback() -> Vec<Expression> {
    let mut loopback = vec![0; 15];
    loopback.push(1);
    let rest = [
        address(false, Side::Destination),
        Expression::Equal(loopback),
        Expression::Return,
    ];
    join([&only(false), &rest])
}

fn publish_rule(v4: bool, on_address: bool) -> Vec<Expression> {
    let mut rule = only(v4);
    let mut word = 0;
    if on_address {
        rule.push(address(v4, Side::Destination));
        word = if v4 { 1 } else { 4 };
    }
    rule.extend(protocol_and_port(word));
    rule.push(Expression::Map(publish(v4, on_address).name));
    rule.push(Expression::Dnat { v4 });
    rule
}

/// What is addressed to the gateway of a network that may reach the host's loopback.
fn to_gateway() -> Vec<Expression> {
    let [_, local] = to_local();
    let rest = [
        Expression::FibDaddrTypeOnLink,
        local,
        Expression::Jump("loopback"),
    ];
    join([&from_link("host_loopback"), &rest])
}

/// Where somebody listens on the gateway's address, or on all, the packet is theirs as it is. (Were
/// it rewritten, a socket of UDP on all addresses would answer from the gateway's, and be no answer.)
fn to_host_loopback() -> [Vec<Expression>; 4] {
    let somebodys = |wildcard| {
        let rest = [
            Expression::SocketWildcard,
            Expression::Equal(vec![wildcard]),
            Expression::Return,
        ];
        join([&only(true), &rest])
    };
    let rewrite = |protocol| {
        let rest = [
            Expression::Load(vec![127, 0, 0, 1]),
            Expression::DnatAddress4,
        ];
        join([&only(true), &only_protocol(protocol), &rest])
    };
    [somebodys(0), somebodys(1), rewrite(6), rewrite(17)]
}

/// What may pass from one link to another. The order matters: an internal network has no way
/// out, not even by a published port; an isolated one reaches others by those alone.
fn forward() -> [Vec<Expression>; 7] {
    let within = [
        Expression::Meta(Meta::Iifname, 0),
        Expression::Meta(Meta::Oifname, 4),
        Expression::In("same"),
        Expression::Accept,
    ];
    let drop = [Expression::Drop];
    [
        within.to_vec(),
        join([&from_link("internal"), &drop]),
        join([&to_link("internal"), &drop]),
        join([&from_link("ingress"), &to_link("ingress"), &drop]),
        join([&was_dnat()[..], &[Expression::Accept]]),
        join([&from_link("isolated"), &to_link("links"), &drop]),
        join([&from_link("links"), &to_link("isolated"), &drop]),
    ]
}

/// What the mapping itself says of the source address.
fn as_published(v4: bool) -> [Vec<Expression>; 2] {
    let target = |set: &'static Set, then: Expression| {
        let mut rule = only(v4);
        rule.push(address(v4, Side::Destination));
        rule.extend(protocol_and_port(if v4 { 1 } else { 4 }));
        rule.extend([Expression::In(set.name), then]);
        rule
    };
    [
        target(plain_targets(v4), Expression::Return),
        target(masqueraded_targets(v4), Expression::Masquerade),
    ]
}

/// A client on the host's loopback: the container must see an address that it can answer to.
fn from_loopback() -> Vec<Expression> {
    let rest = [
        first_byte(true, Side::Source),
        Expression::Equal(vec![127]),
        Expression::Masquerade,
    ];
    join([&only(true), &rest])
}

/// A container that reaches another one, or itself, by a published port: the answer would go
/// straight over the bridge, from an address that the client did not ask.
fn hairpin(v4: bool) -> Vec<Expression> {
    let rest = [
        address(v4, Side::Source),
        Expression::In(local(v4).name),
        address(v4, Side::Destination),
        Expression::In(local(v4).name),
        Expression::Masquerade,
    ];
    join([&only(v4), &rest])
}

fn to_outside(v4: bool) -> Vec<Expression> {
    let mut rule = only(v4);
    rule.extend([
        address(v4, Side::Source),
        Expression::In(masq(v4).name),
        address(v4, Side::Destination),
        Expression::NotIn(local(v4).name),
    ]);
    // Multicast stays as it is.
    rule.extend(match v4 {
        true => vec![
            address(v4, Side::Destination),
            Expression::Mask(vec![0xf0, 0, 0, 0]),
            Expression::NotEqual(vec![224, 0, 0, 0]),
        ],
        false => vec![
            first_byte(v4, Side::Destination),
            Expression::NotEqual(vec![0xff]),
        ],
    });
    rule.push(Expression::Masquerade);
    rule
}

/// The messages that make the table, and fail if there is one.
pub fn create(table: &str, features: Features) -> Vec<Message> {
    let mut messages = vec![new_table(Family::Inet, table, REVISION)];
    messages.extend((1..).zip(&SETS).map(|(id, set)| new_set(table, set, id)));
    messages.extend(CHAINS.iter().map(|c| new_chain(Family::Inet, table, c)));
    for (chain, expressions) in rules(features) {
        messages.push(new_rule(Family::Inet, table, chain, true, &expressions, ""));
    }
    messages
}
