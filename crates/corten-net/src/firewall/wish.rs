//! What callers ask for, as elements. Pure.

use corten_spec::{Cidr, cidr};

use super::element::{Entry, Set};
use super::expression::ifname;
use super::{Admitted, Guarded, Network, ethernet, table};
use crate::link::octets;

/// The elements of a network's link and subnets.
pub fn network(network: &Network<'_>) -> Vec<Entry> {
    let mut all = Vec::new();
    if let Some(link) = network.link {
        let name = ifname(link);
        all.push(Entry::key(table::links(), name.clone()));
        all.push(Entry::key(table::same(), name.repeat(2)));
        let properties = [
            (network.internal, table::internal()),
            (network.isolated, table::isolated()),
            (network.host_loopback, table::host_loopback()),
        ];
        for (set, property) in properties {
            if set {
                all.push(Entry::key(property, name.clone()));
            }
        }
    }
    for subnet in network.subnets {
        let v4 = subnet.is_ipv4();
        all.push(interval(table::local(v4), subnet));
        if network.masquerade {
            all.push(interval(table::masq(v4), subnet));
        }
    }
    all
}

fn interval(set: &'static Set, subnet: &Cidr) -> Entry {
    Entry {
        end: cidr::next(subnet.last()).map(octets),
        ..Entry::key(set, octets(subnet.first()))
    }
}

/// Whether an entry is about a link, or one of these subnets.
pub fn is_about(entry: &Entry, link: &str, subnets: &[Cidr]) -> bool {
    if entry.set.owned {
        return false;
    }
    match entry.set.interval {
        false => entry.key.get(..16) == Some(&ifname(link)[..]),
        true => subnets.iter().any(|s| {
            [table::local(s.is_ipv4()), table::masq(s.is_ipv4())]
                .iter()
                .any(|set| *entry == interval(set, s))
        }),
    }
}

/// A link that nothing is forwarded to from others like it; within it, all is.
pub fn ingress(link: &str) -> [Entry; 2] {
    let name = ifname(link);
    [
        Entry::key(table::same(), name.repeat(2)),
        Entry::key(table::ingress(), name),
    ]
}

pub fn admitted(admitted: &Admitted) -> Vec<Entry> {
    let comment = admitted.owner.to_string();
    let mut all: Vec<Entry> = admitted
        .addresses
        .iter()
        .map(|a| Entry {
            data: ifname(&admitted.link),
            comment: comment.clone(),
            ..Entry::key(table::admitted(a.is_ipv4()), octets(*a))
        })
        .collect();
    if admitted.between_links {
        all.extend(ingress(&admitted.link));
    }
    all.extend(admitted.alone.iter().map(|port| Entry {
        comment: comment.clone(),
        ..Entry::key(ethernet::alone(), ifname(port))
    }));
    all
}

pub fn guarded(guarded: &Guarded) -> Vec<Entry> {
    let comment = guarded.owner.to_string();
    let port = ifname(&guarded.port);
    let mut pair = port.clone();
    pair.extend_from_slice(&guarded.mac);
    pair.extend_from_slice(&[0, 0]);
    [(ethernet::macs(), pair), (ethernet::guarded(), port)]
        .into_iter()
        .map(|(set, key)| Entry {
            comment: comment.clone(),
            ..Entry::key(set, key)
        })
        .collect()
}
