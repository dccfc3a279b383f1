//! A published port as elements, and back. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use corten_spec::cni::Protocol;

use super::element::{Entry, Key, Set};
use super::{Published, Source, table};
use crate::link::{address_of, octets};
use crate::owner::Owner;

/// Keys and values are fields of whole words of four bytes.
fn push_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

/// The sets that have to do with ports.
pub fn sets() -> Vec<&'static Set> {
    let of_family = |v4| {
        [
            table::publish(v4, false),
            table::publish(v4, true),
            table::plain_targets(v4),
            table::masqueraded_targets(v4),
        ]
    };
    [of_family(true), of_family(false)].concat()
}

/// The element of the map, and the one that says what becomes of the source address.
pub fn entries(port: &Published) -> Vec<Entry> {
    let comment = port.owner.to_string();
    let address = port.host.ip();
    let v4 = address.is_ipv4();
    let mut key = match address.is_unspecified() {
        true => Vec::new(),
        false => octets(address),
    };
    key.extend_from_slice(&[port.protocol.number(), 0, 0, 0]);
    push_port(&mut key, port.host.port());
    let mut data = octets(port.target.ip());
    push_port(&mut data, port.target.port());
    let mut all = vec![Entry {
        set: table::publish(v4, !address.is_unspecified()),
        key,
        end: None,
        data,
        comment: comment.clone(),
    }];
    let set = match port.source {
        Source::Answerable => return all,
        Source::Kept => table::plain_targets(v4),
        Source::Host => table::masqueraded_targets(v4),
    };
    let mut key = octets(port.target.ip());
    key.extend_from_slice(&[port.protocol.number(), 0, 0, 0]);
    push_port(&mut key, port.target.port());
    all.push(Entry {
        comment,
        ..Entry::key(set, key)
    });
    all
}

/// The published ports among entries of all sets of ports; those that we cannot have made are left
/// out.
pub fn read(entries: &[Entry]) -> Vec<Published> {
    let mut all = Vec::new();
    for v4 in [true, false] {
        for on_address in [false, true] {
            let set = table::publish(v4, on_address);
            let here = entries.iter().filter(|e| e.set.name == set.name);
            all.extend(here.filter_map(|e| read_one(e, v4, on_address)));
        }
    }
    let particular: HashSet<Key<'_>> = entries
        .iter()
        .filter(|e| e.data.is_empty())
        .map(Entry::about)
        .collect();
    if particular.is_empty() {
        return all;
    }
    for port in &mut all {
        for source in [Source::Kept, Source::Host] {
            port.source = source;
            let wanted = &self::entries(port)[1];
            if particular.contains(&wanted.about()) {
                break;
            }
            port.source = Source::Answerable;
        }
    }
    all
}

/// What a map's element says; [`read`] finds out about the source address.
pub fn read_one(element: &Entry, v4: bool, on_address: bool) -> Option<Published> {
    let size = if v4 { 4 } else { 16 };
    let (address, rest) = match on_address {
        true => {
            let (address, rest) = element.key.split_at_checked(size)?;
            (address_of(address)?, rest)
        }
        false if v4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), &element.key[..]),
        false => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), &element.key[..]),
    };
    let protocol = Protocol::from_number(*rest.first()?)?;
    let port = port_at(rest, 4)?;
    let target = address_of(element.data.get(..size)?)?;
    let target_port = port_at(&element.data, size)?;
    Some(Published {
        host: SocketAddr::new(address, port),
        protocol,
        target: SocketAddr::new(target, target_port),
        source: Source::Answerable,
        owner: Owner::parse(&element.comment)?,
    })
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_reads_back_from_its_elements() {
        for (host, target) in [
            ("0.0.0.0:80", "10.0.0.2:8080"),
            ("192.0.2.1:80", "10.0.0.2:8080"),
            ("[::]:53", "[fd00::2]:5353"),
            ("[2001:db8::1]:53", "[fd00::2]:5353"),
        ] {
            for source in [Source::Answerable, Source::Kept, Source::Host] {
                let port = Published {
                    host: host.parse().unwrap(),
                    protocol: Protocol::Udp,
                    target: target.parse().unwrap(),
                    source,
                    owner: Owner::new("c1", "eth0", "n"),
                };
                assert_eq!(read(&entries(&port)), [port]);
            }
        }
    }

    #[test]
    fn odd_elements_are_none() {
        for (v4, on) in [(true, true), (true, false), (false, true), (false, false)] {
            let element = Entry::key(table::publish(v4, on), vec![6, 0, 0]);
            assert_eq!(read_one(&element, v4, on), None);
        }
    }
}
