//! A published port as an element of its map, and back. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use corten_spec::cni::Protocol;

use super::message::Element;
use super::{Published, table};
use crate::link::{address_of, octets};
use crate::owner::Owner;

/// Keys and values are fields of whole words of four bytes.
fn push_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

/// The map that a port belongs in.
pub fn map_of(port: &Published) -> &'static str {
    let address = port.host.ip();
    table::publish(address.is_ipv4(), !address.is_unspecified())
}

pub fn to_element(port: &Published) -> Element {
    let address = port.host.ip();
    let mut key = match address.is_unspecified() {
        true => Vec::new(),
        false => octets(address),
    };
    key.extend_from_slice(&[port.protocol.number(), 0, 0, 0]);
    push_port(&mut key, port.host.port());
    let mut data = octets(port.target.ip());
    push_port(&mut data, port.target.port());
    Element {
        key,
        data,
        comment: port.owner.to_string(),
    }
}

/// `None` for an element that we cannot have made.
pub fn read(element: &Element, v4: bool, on_address: bool) -> Option<Published> {
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
    fn a_port_reads_back_from_its_element() {
        for (host, target) in [
            ("0.0.0.0:80", "10.0.0.2:8080"),
            ("192.0.2.1:80", "10.0.0.2:8080"),
            ("[::]:53", "[fd00::2]:5353"),
            ("[2001:db8::1]:53", "[fd00::2]:5353"),
        ] {
            let port = Published {
                host: host.parse().unwrap(),
                protocol: Protocol::Udp,
                target: target.parse().unwrap(),
                owner: Owner::new("c1", "eth0", "n"),
            };
            let v4 = port.host.is_ipv4();
            let on_address = !port.host.ip().is_unspecified();
            assert_eq!(read(&to_element(&port), v4, on_address), Some(port));
        }
    }

    #[test]
    fn odd_elements_are_none() {
        let element = Element {
            key: vec![6, 0, 0],
            data: vec![],
            comment: String::new(),
        };
        for (v4, on) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(read(&element, v4, on), None);
        }
    }
}
