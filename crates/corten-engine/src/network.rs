//! A container's place on the network: its ports held, its address given, its hosts and
//! resolver files written.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_net::cni::{self, Attachment, Caller, Capabilities, NetworkConfigList};
use corten_net::names::{self, ResolverOverrides};
use corten_net::network::Bridge;
use corten_spec::ContainerId;
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType, sockopt};

use crate::Engine;
use crate::container::options::{NetworkMode, NetworkOptions, PortMapping, Protocol};
use crate::container::record::Run;
use crate::error::Error;

/// The host's resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A published port's socket. It answers to nobody, since the kernel rewrites what arrives before
/// it gets here, but for `[::1]`, which the kernel cannot rewrite: that the shim passes on. It
/// also is what makes a second publisher, or any server, fail with EADDRINUSE.
pub(crate) struct HeldPort {
    pub mapping: PortMapping,
    pub ipv6: bool,
    pub socket: OwnedFd,
}

impl Engine {
    pub(crate) fn network_list(&self) -> Result<NetworkConfigList, Error> {
        let n = &self.config.network;
        let mut bridge = Bridge::new(&self.paths.ipam());
        bridge.bridge.clone_from(&n.bridge);
        bridge.subnets.clone_from(&n.subnets);
        bridge.table.clone_from(&n.table);
        Ok(bridge.list()?)
    }

    fn caller(&self) -> Caller {
        Caller::new(vec![], self.paths.cni_cache())
    }

    /// Puts the container on its network. Its init must exist, and not have started.
    pub(crate) fn attach_network(
        &self,
        id: &ContainerId,
        options: &NetworkOptions,
        run: &mut Run,
    ) -> Result<(), Error> {
        match options.mode {
            NetworkMode::Host => return Ok(()),
            NetworkMode::None => return Ok(()),
            NetworkMode::Bridge => {}
        }
        let mut to = Attachment::new(id.clone(), format!("/proc/{}/ns/net", run.pid));
        to.capabilities = Capabilities {
            port_mappings: run.ports.iter().map(port_argument).collect(),
            ..Capabilities::default()
        };
        let result = self.caller().add(&self.network_list()?, &to)?;
        run.addresses = result
            .container_ips()
            .map(|ip| ip.address.address())
            .collect();
        run.mac = result.container_interface().map(|i| i.mac.clone());
        Ok(())
    }

    /// Takes the container off; what is gone already is fine.
    pub(crate) fn detach_network(&self, id: &ContainerId, mode: NetworkMode) -> Result<(), Error> {
        if mode != NetworkMode::Bridge {
            return Ok(());
        }
        // The namespace went with its last process, and the veth with it: no path.
        Ok(self
            .caller()
            .del(&self.network_list()?, &Attachment::new(id.clone(), ""))?)
    }
}

fn port_argument(mapping: &PortMapping) -> cni::PortMapping {
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

/// Takes every published port, choosing where 0 was asked for.
pub(crate) fn hold_ports(wanted: &[PortMapping]) -> Result<Vec<HeldPort>, Error> {
    let mut held = Vec::new();
    for mapping in wanted {
        // Both families where no address was named; IPv6 may be off on this host.
        let addresses: Vec<IpAddr> = match mapping.host_ip {
            Some(ip) => vec![ip],
            None if ipv6_is_on() => {
                vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
            }
            None => vec![Ipv4Addr::UNSPECIFIED.into()],
        };
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
                ipv6: ip.is_ipv6(),
                socket,
            });
        }
    }
    Ok(held)
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

/// The files of /etc that the engine makes for a container, and their texts.
pub(crate) struct Files {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

impl Files {
    pub fn of(folder: &Path) -> Self {
        Self {
            hosts: folder.join("hosts"),
            hostname: folder.join("hostname"),
            resolv_conf: folder.join("resolv.conf"),
        }
    }

    /// Writes all three in place (the inode stays, since it is what gets mounted). Addresses are
    /// known only once the container's namespace exists; until then the list is empty.
    pub fn write(
        &self,
        hostname: &str,
        options: &NetworkOptions,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let write =
            |path: &Path, text: String| fs::write(path, text).map_err(Error::io("write", path));
        let host = options.mode == NetworkMode::Host;
        let hosts = match (host, fs::read_to_string("/etc/hosts")) {
            (true, Ok(mut text)) => {
                for (name, ip) in &options.add_host {
                    text.push_str(&format!("{ip}\t{name}\n"));
                }
                text
            }
            _ => names::hosts(hostname, &[], addresses, &options.add_host),
        };
        write(&self.hosts, hosts)?;
        write(&self.hostname, format!("{hostname}\n"))?;
        let of_host = match fs::read_to_string(RESOLV_CONF) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", RESOLV_CONF)(e)),
        };
        let text = match host && options.dns.is_empty() {
            // In the host's network its loopback resolver answers.
            true => of_host,
            false => names::resolv_conf(
                &of_host,
                &ResolverOverrides {
                    nameservers: options.dns.iter().map(IpAddr::to_string).collect(),
                    ..ResolverOverrides::default()
                },
            ),
        };
        write(&self.resolv_conf, text)
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
