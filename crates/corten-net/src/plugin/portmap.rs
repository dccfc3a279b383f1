//! `portmap`: publishes ports of the container on the host, by elements of the nftables maps.
//!
//! Each port goes out by the destination rewriting of the kernel, source address kept, except
//! where the container could not answer to it: from the host's loopback and from containers of
//! the host, where the source becomes the bridge's.

use std::net::{IpAddr, SocketAddr};

use corten_spec::cni::{CniResult, PortMapping};
use corten_spec::{Cidr, cni};
use serde::Deserialize;

use super::{Request, Verb};
use crate::Error;
use crate::firewall::{Firewall, Network, Published};
use crate::link::Links;
use crate::network::TABLE;
use crate::sysctl;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default = "default_table")]
    corten_table: String,
    #[serde(default = "yes")]
    snat: bool,
    #[serde(default)]
    masq_all: bool,
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Vec<String>,
    external_set_mark_chain: Option<String>,
    backend: Option<String>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default)]
    port_mappings: Vec<PortMapping>,
}

pub(super) fn default_table() -> String {
    TABLE.into()
}

fn yes() -> bool {
    true
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config: Config = request.read("portmap")?;
    match request.verb {
        Verb::Add => add(request, &config).map(Some),
        Verb::Del => {
            let owner = request.owner();
            Firewall::open(&config.corten_table)?.withdraw(|p| p.owner == owner)?;
            Ok(None)
        }
        Verb::Check => check(request, &config).map(|()| None),
        Verb::Gc => {
            let valid = request.valid_attachments()?;
            Firewall::open(&config.corten_table)?
                .withdraw(|p| !request.is_valid(&valid, &p.owner))?;
            Ok(None)
        }
        Verb::Status => refuse_unsupported(&config).map(|()| None),
    }
}

fn refuse_unsupported(config: &Config) -> Result<(), Error> {
    let refused = [
        ("snat", !config.snat),
        ("masqAll", config.masq_all),
        ("conditionsV4", !config.conditions_v4.is_empty()),
        ("conditionsV6", !config.conditions_v6.is_empty()),
        (
            "externalSetMarkChain",
            config.external_set_mark_chain.is_some(),
        ),
        (
            "backend",
            config.backend.as_deref().is_some_and(|b| b != "nftables"),
        ),
    ];
    match refused.iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((key, _)) => Err(Error::Invalid {
            what: "the key of plugin portmap",
            value: (*key).into(),
            reason: "is set to what this plugin does not support".into(),
        }),
    }
}

/// What the mappings come to, given the container's addresses. Pure.
fn plan(request: &Request<'_>, config: &Config, of: &CniResult) -> Result<Vec<Published>, Error> {
    let address = |v4: bool| {
        let ip = of.container_ips().find(|ip| ip.address.is_ipv4() == v4);
        ip.map(|ip| ip.address.address())
    };
    let (v4, v6) = (address(true), address(false));
    let mut ports = Vec::new();
    for mapping in &config.runtime_config.port_mappings {
        let targets = match mapping.host_ip {
            None => vec![(IpAddr::from([0; 4]), v4), (IpAddr::from([0u8; 16]), v6)],
            Some(host) => vec![(host, if host.is_ipv4() { v4 } else { v6 })],
        };
        let before = ports.len();
        for (host, target) in targets {
            ports.extend(target.map(|target| Published {
                host: SocketAddr::new(host, mapping.host_port),
                protocol: mapping.protocol,
                target: SocketAddr::new(target, mapping.container_port),
                owner: request.owner(),
            }));
        }
        let reason = match (mapping.host_port, mapping.container_port) {
            (0, _) | (_, 0) => "has a port 0",
            _ if ports.len() == before => "has no address of that family to go to",
            _ => continue,
        };
        return Err(Error::Invalid {
            what: "port mapping",
            value: mapping_text(mapping),
            reason: reason.into(),
        });
    }
    Ok(ports)
}

fn mapping_text(m: &cni::PortMapping) -> String {
    let host = m.host_ip.map_or_else(String::new, |ip| format!("{ip}:"));
    format!("{host}{}:{}/{}", m.host_port, m.container_port, m.protocol)
}

fn add(request: &Request<'_>, config: &Config) -> Result<CniResult, Error> {
    refuse_unsupported(config)?;
    let previous = request.need_previous("portmap")?;
    let ports = plan(request, config, &previous)?;
    if ports.is_empty() {
        return Ok(previous);
    }
    let mut firewall = Firewall::open(&config.corten_table)?;
    open_the_way(&mut firewall, &previous)?;
    firewall.publish(&ports)?;
    Ok(previous)
}

/// Lets the host route to the container's addresses, from its own loopback too.
fn open_the_way(firewall: &mut Firewall, previous: &CniResult) -> Result<(), Error> {
    let mut links = Links::open()?;
    for ip in previous.container_ips() {
        let address = ip.address.address();
        let way = links.way_to(address)?;
        let link = match way {
            Some(index) => links.by_index(index)?,
            None => None,
        };
        let Some(link) = link else {
            return Err(Error::Mismatch {
                what: format!("the route to {address}"),
                found: "missing".into(),
                wanted: "through a link of this host".into(),
            });
        };
        let subnets: [Cidr; 1] = [ip.address.network()];
        // The guard comes before what it guards against.
        firewall.admit(&Network {
            link: Some(&link.name),
            subnets: &subnets,
            masquerade: false,
        })?;
        sysctl::forward(address.is_ipv4())?;
        if address.is_ipv4() {
            sysctl::set(&format!("ipv4/conf/{}/route_localnet", link.name), "1")?;
        }
    }
    Ok(())
}

fn check(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    let previous = request.need_previous("portmap")?;
    let ports = plan(request, config, &previous)?;
    if ports.is_empty() {
        return Ok(());
    }
    let there = Firewall::open(&config.corten_table)?.published()?;
    match ports.iter().find(|p| !there.contains(p)) {
        None => Ok(()),
        Some(port) => Err(Error::Mismatch {
            what: format!("port {}/{}", port.host, port.protocol),
            found: "not published".into(),
            wanted: format!("published to {}", port.target),
        }),
    }
}
