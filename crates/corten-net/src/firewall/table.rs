//! The table that an engine owns: its sets, maps, chains and rules. They are the same for every
//! network; what differs (links, subnets, ports) is elements. So a packet costs a fixed number of
//! lookups however many ports are published.
//!
//! ```text
//!  prerouting (raw)   from a container to 127/8                         drop
//!  prerouting (nat) ┐ to an address of the host's ─▶ publish
//!  output (nat)     ┘
//!  publish            [::1]                                             return
//!                     address . protocol . port in publish{4,6}_on      dnat
//!                     protocol . port in publish{4,6}                   dnat
//!  postrouting (nat)  dnat'ed, from 127/8                               masquerade
//!                     dnat'ed, from container to container              masquerade
//!                     from a masqueraded subnet to outside              masquerade
//! ```

use corten_sys::netlink::Message;

use super::expression::{
    Expression, Meta, Side, address, only, protocol_and_port, to_local, was_dnat,
};
use super::message::{Chain, Datatype, Family, Set, new_chain, new_rule, new_set, new_table};

/// Written into the table's comment. A table with another comment is made anew: raise the number
/// with every change below.
pub const REVISION: &str = "corten 1";

/// Links of container networks.
pub const LINKS: &str = "links";

pub const SETS: [Set; 9] = [
    set(LINKS, &[Datatype::Ifname], &[], false),
    set("local4", &[Datatype::Ip4], &[], true),
    set("local6", &[Datatype::Ip6], &[], true),
    set("masq4", &[Datatype::Ip4], &[], true),
    set("masq6", &[Datatype::Ip6], &[], true),
    set(
        "publish4",
        &[Datatype::Protocol, Datatype::Port],
        &[Datatype::Ip4, Datatype::Port],
        false,
    ),
    set(
        "publish6",
        &[Datatype::Protocol, Datatype::Port],
        &[Datatype::Ip6, Datatype::Port],
        false,
    ),
    set(
        "publish4_on",
        &[Datatype::Ip4, Datatype::Protocol, Datatype::Port],
        &[Datatype::Ip4, Datatype::Port],
        false,
    ),
    set(
        "publish6_on",
        &[Datatype::Ip6, Datatype::Protocol, Datatype::Port],
        &[Datatype::Ip6, Datatype::Port],
        false,
    ),
];

const fn set(
    name: &'static str,
    key: &'static [Datatype],
    data: &'static [Datatype],
    interval: bool,
) -> Set {
    Set {
        name,
        key,
        data,
        interval,
    }
}

/// All subnets of containers.
pub fn local(v4: bool) -> &'static str {
    if v4 { "local4" } else { "local6" }
}

/// The subnets whose packets to the outside are masqueraded.
pub fn masq(v4: bool) -> &'static str {
    if v4 { "masq4" } else { "masq6" }
}

/// The map of ports published on all addresses, or on particular ones.
pub fn publish(v4: bool, on_address: bool) -> &'static str {
    match (v4, on_address) {
        (true, false) => "publish4",
        (false, false) => "publish6",
        (true, true) => "publish4_on",
        (false, true) => "publish6_on",
    }
}

// Hook numbers and the priorities' names (nft(8)): raw, dstnat, srcnat.
const CHAINS: [Chain; 5] = [
    Chain {
        name: "guard",
        hook: Some(("filter", 0, -300)),
    },
    Chain {
        name: "publish",
        hook: None,
    },
    Chain {
        name: "prerouting",
        hook: Some(("nat", 0, -100)),
    },
    Chain {
        name: "output",
        hook: Some(("nat", 3, -100)),
    },
    Chain {
        name: "postrouting",
        hook: Some(("nat", 4, 100)),
    },
];

/// The rules in their order, each with its chain.
fn rules() -> Vec<(&'static str, Vec<Expression>)> {
    let mut all = vec![("guard", guard())];
    for v4 in [true, false] {
        if !v4 {
            all.push(("publish", not_ipv6_loopback()));
        }
        all.push(("publish", publish_rule(v4, true)));
        all.push(("publish", publish_rule(v4, false)));
    }
    for chain in ["prerouting", "output"] {
        let mut rule = to_local().to_vec();
        rule.push(Expression::Jump("publish"));
        all.push((chain, rule));
    }
    all.push(("postrouting", from_loopback()));
    for v4 in [true, false] {
        all.push(("postrouting", hairpin(v4)));
        all.push(("postrouting", to_outside(v4)));
    }
    all
}

/// `route_localnet` on the bridge, which published ports on 127.0.0.1 need, would let containers
/// reach what the host serves on its loopback (CVE-2020-8558). Answers to the host are not
/// concerned: they are still addressed to the bridge when they pass here.
fn guard() -> Vec<Expression> {
    let mut rule = vec![Expression::Meta(Meta::Iifname, 0), Expression::In(LINKS)];
    rule.extend(only(true));
    rule.extend([
        address(true, Side::Destination),
        Expression::Mask(vec![255, 0, 0, 0]),
        Expression::Equal(vec![127, 0, 0, 0]),
        Expression::Drop,
    ]);
    rule
}

/// The kernel refuses answers to ::1 from another link and has no `route_localnet` for IPv6, so
/// a rewritten connection would hang. Left alone it reaches the supervisor's own socket.
fn not_ipv6_loopback() -> Vec<Expression> {
    let mut rule = only(false);
    let mut loopback = vec![0; 15];
    loopback.push(1);
    rule.extend([
        address(false, Side::Destination),
        Expression::Equal(loopback),
        Expression::Return,
    ]);
    rule
}

fn publish_rule(v4: bool, on_address: bool) -> Vec<Expression> {
    let mut rule = only(v4);
    let mut word = 0;
    if on_address {
        rule.push(address(v4, Side::Destination));
        word = if v4 { 1 } else { 4 };
    }
    rule.extend(protocol_and_port(word));
    rule.push(Expression::Map(publish(v4, on_address)));
    rule.push(Expression::Dnat { v4 });
    rule
}

/// A client on the host's loopback: the container must see an address that it can answer to.
fn from_loopback() -> Vec<Expression> {
    let mut rule = only(true);
    rule.extend([
        address(true, Side::Source),
        Expression::Mask(vec![255, 0, 0, 0]),
        Expression::Equal(vec![127, 0, 0, 0]),
    ]);
    rule.extend(was_dnat());
    rule.push(Expression::Masquerade);
    rule
}

/// A container that reaches another one, or itself, by a published port: the answer would go
/// straight over the bridge, from an address that the client did not ask.
fn hairpin(v4: bool) -> Vec<Expression> {
    let mut rule = only(v4);
    rule.extend([
        address(v4, Side::Source),
        Expression::In(local(v4)),
        address(v4, Side::Destination),
        Expression::In(local(v4)),
    ]);
    rule.extend(was_dnat());
    rule.push(Expression::Masquerade);
    rule
}

fn to_outside(v4: bool) -> Vec<Expression> {
    let (mask, multicast) = match v4 {
        true => (vec![0xf0, 0, 0, 0], vec![224, 0, 0, 0]),
        false => {
            let mut prefix = vec![0; 16];
            prefix[0] = 0xff;
            (prefix.clone(), prefix)
        }
    };
    let mut rule = only(v4);
    rule.extend([
        address(v4, Side::Source),
        Expression::In(masq(v4)),
        address(v4, Side::Destination),
        Expression::NotIn(local(v4)),
        address(v4, Side::Destination),
        Expression::Mask(mask),
        Expression::NotEqual(multicast),
        Expression::Masquerade,
    ]);
    rule
}

/// The transaction that makes the table, and fails if there is one.
pub fn create(table: &str) -> Vec<Message> {
    let mut messages = vec![new_table(table, REVISION)];
    for (id, set) in (1..).zip(&SETS) {
        messages.push(new_set(table, set, id));
    }
    messages.extend(CHAINS.iter().map(|c| new_chain(table, c)));
    for (chain, expressions) in rules() {
        messages.push(new_rule(Family::Inet, table, chain, true, &expressions, ""));
    }
    messages
}
