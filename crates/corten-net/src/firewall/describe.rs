//! An element in words: for errors, and for what a reload found missing. Pure.

use corten_spec::cidr;

use super::element::Entry;
use super::{ethernet, plan, port, table};
use crate::Error;
use crate::link::{address_of, mac_text};
use crate::owner::Owner;

/// `port 0.0.0.0:8080/tcp of c1`.
pub fn entry(entry: &Entry) -> String {
    let owner = Owner::parse(&entry.comment);
    let of = owner.map_or_else(String::new, |o| format!(" of {}", o.container_id));
    format!("{}{of}", thing(entry))
}

/// Without its owner.
pub fn thing(entry: &Entry) -> String {
    let name = entry.set.name;
    if plan::is_port(entry.set) {
        for (v4, on) in [(true, false), (true, true), (false, false), (false, true)] {
            if table::publish(v4, on).name == name
                && let Some(p) = port::read_one(entry, v4, on)
            {
                return format!("port {}/{}", p.host, p.protocol);
            }
        }
    }
    let link = link_name(&entry.key);
    let address = || {
        let size = if name.ends_with('4') { 4 } else { 16 };
        let address = entry.key.get(..size).and_then(address_of);
        address.map_or_else(String::new, |a| a.to_string())
    };
    match name {
        "links" => format!("link {link}"),
        "same" => format!("the way within {link}"),
        "internal" | "isolated" | "ingress" => format!("link {link} as {name}"),
        "host_loopback" => format!("the way from {link} to the host's loopback"),
        "local4" | "local6" => format!("subnet {}", subnet(entry)),
        "masq4" | "masq6" => format!("masquerading of {}", subnet(entry)),
        "plain4" | "plain6" | "masqall4" | "masqall6" => {
            format!("the source address kept or rewritten for {}", address())
        }
        "admitted4" | "admitted6" => format!("the admission of {}", address()),
        "guarded" => format!("the guard of port {link}"),
        "macs" => match entry.key.get(16..22).and_then(|m| m.try_into().ok()) {
            Some(mac) => format!("the MAC address {} of port {link}", mac_text(mac)),
            None => format!("a MAC address of port {link}"),
        },
        _ if *entry.set == *ethernet::alone() => format!("the isolation of port {link}"),
        _ => format!("an element of {name}"),
    }
}

/// The name that a key begins with.
pub fn link_name(key: &[u8]) -> String {
    let name = key.get(..16).unwrap_or(key);
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

fn subnet(entry: &Entry) -> String {
    let Some(first) = address_of(&entry.key) else {
        return String::new();
    };
    let bits = entry.key.len() as u8 * 8;
    let end = entry.end.as_deref().and_then(address_of);
    let cidr = (0..=bits)
        .filter_map(|prefix| corten_spec::Cidr::new(first, prefix))
        .find(|c| c.first() == first && cidr::next(c.last()) == end);
    cidr.map_or_else(|| first.to_string(), |c| c.to_string())
}

/// The error for a port that another container has.
pub fn taken(wanted: &Entry, holder: &Entry) -> Error {
    let owner = Owner::parse(&holder.comment);
    let holder = owner.map_or_else(|| "(unknown)".into(), |o| o.container_id);
    let [wanted] = &port::read(std::slice::from_ref(wanted))[..] else {
        return Error::Invalid {
            what: "port",
            value: String::new(),
            reason: format!("is published by container {holder}"),
        };
    };
    Error::PortTaken {
        address: wanted.host,
        protocol: wanted.protocol,
        owner: holder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_say_what_they_are() {
        let name = |n: &str| super::super::expression::ifname(n);
        let key = |set, key: Vec<u8>| entry(&Entry::key(set, key));
        assert_eq!(key(table::links(), name("corten0")), "link corten0");
        assert_eq!(
            key(table::isolated(), name("corten0")),
            "link corten0 as isolated"
        );
        let subnet = Entry {
            end: Some(vec![10, 90, 1, 0]),
            ..Entry::key(table::masq(true), vec![10, 90, 0, 0])
        };
        assert_eq!(entry(&subnet), "masquerading of 10.90.0.0/24");
        let mac = [name("veth1"), vec![2, 0, 0, 0, 0, 1, 0, 0]].concat();
        let mac = Entry {
            comment: "corten c1 eth0 n".into(),
            ..Entry::key(ethernet::macs(), mac)
        };
        assert_eq!(
            entry(&mac),
            "the MAC address 02:00:00:00:00:01 of port veth1 of c1"
        );
        // Whatever it is, it is said.
        for set in super::super::tables::all_sets() {
            assert!(!key(set, vec![]).is_empty());
        }
    }
}
