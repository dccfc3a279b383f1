//! The ports that a container publishes, held on the host by sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use corten_net::cni;
use corten_shim::client::LoopbackForward;
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType, sockopt};

use crate::container::options::{PortMapping, Protocol};
use crate::error::Error;

/// A published port's socket. It answers to nobody, since the kernel rewrites what arrives before
/// it gets here, but for `[::1]`, which the kernel cannot rewrite: that the shim passes on. It
/// also is what makes a second publisher, or any server, fail with EADDRINUSE.
pub(crate) struct HeldPort {
    pub mapping: PortMapping,
    pub socket: OwnedFd,
}

/// The addresses on which a mapping is published: of both families where none was named; IPv6 may be off on this host.
fn addresses(mapping: &PortMapping) -> Vec<IpAddr> {
    match mapping.host_ip {
        Some(ip) => vec![ip],
        None if ipv6_is_on() => {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        }
        None => vec![Ipv4Addr::UNSPECIFIED.into()],
    }
}

/// Takes every published port, choosing where 0 was asked for.
pub(crate) fn hold_ports(wanted: &[PortMapping]) -> Result<Vec<HeldPort>, Error> {
    let mut held = Vec::new();
    for mapping in wanted {
        let addresses = addresses(mapping);
        let mut mapping = mapping.clone();
        for ip in addresses {
            let address = SocketAddr::new(ip, mapping.host_port);
            let socket = bind(mapping.protocol, address).map_err(|source| Error::Port {
                address: address.to_string(),
                protocol: mapping.protocol.as_str(),
                source,
            })?;
            if mapping.host_port == 0 {
                // The second family takes the number that the first one got.
                mapping.host_port = local_port(&socket)?;
            }
            held.push(HeldPort {
                mapping: mapping.clone(),
                socket,
            });
        }
    }
    Ok(held)
}

/// Where what reaches the sockets that [`hold_ports`] took for these mappings is to go: an address of the container of
/// the same family if there is one, or of the other, which costs nothing here.
pub(crate) fn forwards(mappings: &[PortMapping], to: &[IpAddr]) -> Vec<LoopbackForward> {
    let target = |ip: IpAddr| {
        let same = to.iter().find(|a| a.is_ipv6() == ip.is_ipv6());
        same.or(to.first()).copied()
    };
    let sockets = mappings
        .iter()
        .flat_map(|m| addresses(m).into_iter().map(move |ip| (m, ip)));
    let one = |(i, (m, ip)): (usize, (&PortMapping, IpAddr))| {
        Some(LoopbackForward {
            fd: i as u32,
            protocol: m.protocol.as_str().into(),
            target: SocketAddr::new(target(ip)?, m.container_port).to_string(),
        })
    };
    sockets.enumerate().filter_map(one).collect()
}

/// How many sockets [`hold_ports`] took for these mappings.
pub(crate) fn sockets_of(mappings: &[PortMapping]) -> usize {
    mappings.iter().map(|m| addresses(m).len()).sum()
}

fn ipv6_is_on() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if family == AddressFamily::INET6 {
        // The IPv4 socket stands beside it.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // A port in TIME_WAIT from the container before this one may be taken again.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddrAny::from(address))?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, 128)?;
    }
    Ok(socket)
}

fn local_port(socket: &OwnedFd) -> Result<u16, Error> {
    let name = rustix::net::getsockname(socket)
        .map_err(|e| Error::io("read the address of", "a socket")(e.into()))?;
    match SocketAddr::try_from(name) {
        Ok(address) => Ok(address.port()),
        Err(e) => Err(Error::io("read the address of", "a socket")(e.into())),
    }
}

/// The mapping in the words of CNI.
pub(super) fn port_argument(mapping: &PortMapping) -> cni::PortMapping {
    cni::PortMapping {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => cni::Protocol::Tcp,
            Protocol::Udp => cni::Protocol::Udp,
        },
        host_ip: mapping.host_ip,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn tcp(host_ip: Option<IpAddr>, host_port: u16) -> PortMapping {
        PortMapping {
            host_ip,
            host_port,
            container_port: 80,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_chosen_port_is_one_for_both_families() {
        let held = hold_ports(&[tcp(None, 0)]).unwrap();
        assert!(
            held.iter()
                .all(|h| h.mapping.host_port == held.last().unwrap().mapping.host_port)
        );
        assert_ne!(held[0].mapping.host_port, 0);
    }

    #[test]
    fn every_held_socket_is_passed_on_in_its_place() {
        let held = hold_ports(&[tcp(None, 0), tcp(Some(Ipv4Addr::LOCALHOST.into()), 0)]).unwrap();
        let mut mappings: Vec<PortMapping> = held.iter().map(|h| h.mapping.clone()).collect();
        mappings.dedup();
        assert_eq!(sockets_of(&mappings), held.len());
        let forwards = forwards(&mappings, &["10.0.0.2".parse().unwrap()]);
        let places: Vec<u32> = forwards.iter().map(|f| f.fd).collect();
        assert_eq!(places, (0..held.len() as u32).collect::<Vec<_>>());
        assert!(forwards.iter().all(|f| f.target == "10.0.0.2:80"));
        assert!(super::forwards(&mappings, &[]).is_empty());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let err = match hold_ports(&[tcp(Some(Ipv4Addr::LOCALHOST.into()), port)]) {
            Err(e) => e,
            Ok(_) => panic!("taken twice"),
        };
        assert_eq!(
            err.to_string(),
            format!("port 127.0.0.1:{port}/tcp of the host cannot be published")
        );
        assert_eq!(err.kind(), corten_spec::Kind::Busy);
    }

    #[test]
    fn udp_is_held_too() {
        let held = hold_ports(&[PortMapping {
            protocol: Protocol::Udp,
            ..tcp(Some(Ipv4Addr::LOCALHOST.into()), 0)
        }])
        .unwrap();
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), held[0].mapping.host_port);
        assert!(UdpSocket::bind(at).is_err());
    }
}
