//! The table of family bridge: what a port of a bridge may send, and to whom. It is made when the
//! first port needs it, and bears the name of the other table.
//!
//! ```text
//!  prerouting   from a port in guarded, unless port . source MAC in macs   drop
//!  forward      from or to a port in alone                                 drop
//! ```

use corten_sys::netlink::Message;

use super::element::{Datatype, Set, new_set};
use super::expression::{Expression, Meta, ethernet_source, from_link, to_link};
use super::message::{Chain, Family, new_chain, new_rule, new_table};
use super::plan::Features;

/// As that of the other table.
pub const REVISION: &str = "corten 2";

pub static SETS: [Set; 3] = [
    set("guarded", &[Datatype::Ifname]),
    set("macs", &[Datatype::Ifname, Datatype::Mac]),
    set("alone", &[Datatype::Ifname]),
];

const fn set(name: &'static str, key: &'static [Datatype]) -> Set {
    Set {
        family: Family::Bridge,
        name,
        key,
        data: &[],
        interval: false,
        owned: true,
    }
}

/// Ports whose frames must have a source address that is in `macs`.
pub fn guarded() -> &'static Set {
    &SETS[0]
}

pub fn macs() -> &'static Set {
    &SETS[1]
}

/// Ports that reach the host and nobody else on the bridge.
pub fn alone() -> &'static Set {
    &SETS[2]
}

const CHAINS: [Chain; 2] = [
    // Before whatever else looks at the frame; the priority is iptables' raw.
    Chain {
        name: "prerouting",
        hook: Some(("filter", 0, -300)),
    },
    Chain {
        name: "forward",
        hook: Some(("filter", 2, 0)),
    },
];

fn rules() -> [(&'static str, Vec<Expression>); 3] {
    let foreign_mac = [
        Expression::Meta(Meta::Iifname, 0),
        ethernet_source(4),
        Expression::NotIn("macs"),
        Expression::Drop,
    ];
    let drop = [Expression::Drop];
    [
        (
            "prerouting",
            [&from_link("guarded")[..], &foreign_mac].concat(),
        ),
        ("forward", [&from_link("alone")[..], &drop].concat()),
        ("forward", [&to_link("alone")[..], &drop].concat()),
    ]
}

/// The messages that make the table, and fail if there is one.
pub fn create(table: &str, _: Features) -> Vec<Message> {
    let mut messages = vec![new_table(Family::Bridge, table, REVISION)];
    messages.extend((1..).zip(&SETS).map(|(id, set)| new_set(table, set, id)));
    messages.extend(CHAINS.iter().map(|c| new_chain(Family::Bridge, table, c)));
    for (chain, expressions) in rules() {
        messages.push(new_rule(
            Family::Bridge,
            table,
            chain,
            true,
            &expressions,
            "",
        ));
    }
    messages
}
