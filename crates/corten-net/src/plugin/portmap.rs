//! `portmap`: publishes ports of the container on the host, by elements of the nftables maps.
//!
//! Each port goes out by the destination rewriting of the kernel, source address kept, except
//! where the container could not answer to it: from the host's loopback and from containers of
//! the host, where the source becomes the bridge's. `snat: false` keeps it there too (and so gives
//! up the host's loopback), `masqAll` gives the host's to every client.
//!
//! `markMasqBit` names the mark that the reference plugin needs between its two chains. No packet is
//! marked here, so every bit is as good. What speaks of iptables is refused by name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use corten_spec::cni::{CniResult, PortMapping};
use corten_spec::{Cidr, cni};
use serde::Deserialize;

use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::firewall::{Firewall, Network, Published, Source, Wanted};
use crate::link::Links;
use crate::network::TABLE;
use crate::sysctl;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    snat: Option<bool>,
    masq_all: Option<bool>,
    mark_masq_bit: Option<u8>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
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

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let mut firewall = request.session.firewall(&request.table()?)?;
    match request.verb {
        Verb::Add => {
            let config = Config::read(request)?;
            return add(request, &config, &mut firewall).map(Some);
        }
        // DEL and GC need no more than the table: what else the configuration says may be wrong.
        Verb::Del => {
            let owner = request.owner();
            firewall.withdraw(|p| p.owner == owner)?;
            failpoint!("portmap.del.withdrawn");
            close_own_way(request, &mut firewall)?;
        }
        Verb::Gc => {
            let valid = request.valid_attachments()?;
            firewall.withdraw(|p| !request.is_valid(&valid, &p.owner))?;
            close_dead_ways(&mut firewall)?;
        }
        Verb::Check => check(request, &Config::read(request)?, &mut firewall)?,
        Verb::Status => {
            Config::read(request)?;
            firewall.probe()?;
        }
    }
    Ok(None)
}

/// For a reload: what ADD with this result had done.
pub fn wanted(request: &Request<'_>, result: &CniResult) -> Result<Wanted, Error> {
    let config = Config::read(request)?;
    let ports = plan(request, &config, result)?;
    let mut wanted = Wanted::default();
    wanted.ports(&ports);
    if ports.is_empty() {
        return Ok(wanted);
    }
    for (link, subnets) in ways(result)? {
        wanted.network(&way(&link, &subnets));
    }
    Ok(wanted)
}

impl Config {
    fn read(request: &Request<'_>) -> Result<Self, Error> {
        let config: Self = request.read("portmap")?;
        let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
        let text = |text: &Option<String>, but: &str| {
            text.as_deref().is_some_and(|t| !t.is_empty() && t != but)
        };
        let refused = [
            ("conditionsV4", some(&config.conditions_v4), CONDITIONS),
            ("conditionsV6", some(&config.conditions_v6), CONDITIONS),
            (
                "externalSetMarkChain",
                text(&config.external_set_mark_chain, ""),
                "names a chain of iptables, and this plugin speaks nftables; masqAll does as much",
            ),
            (
                "backend",
                text(&config.backend, "nftables"),
                "is not nftables, which is all that this plugin speaks",
            ),
            (
                "markMasqBit",
                config.mark_masq_bit.is_some_and(|b| b > 31),
                "is no bit of a mark: 0 to 31",
            ),
        ];
        match refused.iter().find(|(_, set, _)| *set) {
            None => Ok(config),
            Some((key, _, why)) => Err(Error::Invalid {
                what: "the key of plugin portmap",
                value: (*key).into(),
                reason: (*why).into(),
            }),
        }
    }

    fn source(&self) -> Source {
        match (self.snat, self.masq_all) {
            (Some(false), _) => Source::Kept,
            (_, Some(true)) => Source::Host,
            _ => Source::Answerable,
        }
    }
}

const CONDITIONS: &str = "holds conditions in the words of iptables or nft, which this plugin does not read: \
    a port is looked up in a map, not compared in a rule of its own; narrow it by hostIP";

/// What the mappings come to, given the container's addresses. Pure.
fn plan(request: &Request<'_>, config: &Config, of: &CniResult) -> Result<Vec<Published>, Error> {
    let address = |v4: bool| {
        let ip = of.container_ips().find(|ip| ip.address.is_ipv4() == v4);
        ip.map(|ip| ip.address.address())
    };
    let (v4, v6) = (address(true), address(false));
    let mut ports: Vec<Published> = Vec::new();
    for mapping in &config.runtime_config.port_mappings {
        let wrong = |reason: &str| Error::Invalid {
            what: "port mapping",
            value: mapping_text(mapping),
            reason: reason.into(),
        };
        if mapping.host_port == 0 || mapping.container_port == 0 {
            return Err(wrong("has a port 0"));
        }
        // `::ffff:192.0.2.1` is the IPv4 address that it holds.
        let targets = match mapping.host_ip.map(|ip| ip.to_canonical()) {
            None => vec![(IpAddr::from([0; 4]), v4), (IpAddr::from([0u8; 16]), v6)],
            Some(host) => vec![(host, if host.is_ipv4() { v4 } else { v6 })],
        };
        if targets.iter().all(|(_, target)| target.is_none()) {
            return Err(wrong("has no address of that family to go to"));
        }
        for (host, target) in targets {
            let Some(target) = target else {
                continue;
            };
            let port = Published {
                host: SocketAddr::new(host, mapping.host_port),
                protocol: mapping.protocol,
                target: SocketAddr::new(target, mapping.container_port),
                source: config.source(),
                owner: request.owner(),
            };
            let same = |p: &&Published| p.host == port.host && p.protocol == port.protocol;
            match ports.iter().find(same) {
                Some(other) if *other != port => {
                    return Err(wrong("has a host port that goes elsewhere already"));
                }
                Some(_) => {}
                None => ports.push(port),
            }
        }
    }
    Ok(ports)
}

fn mapping_text(m: &cni::PortMapping) -> String {
    let host = m.host_ip.map_or_else(String::new, |ip| format!("{ip}:"));
    format!("{host}{}:{}/{}", m.host_port, m.container_port, m.protocol)
}

fn add(
    request: &Request<'_>,
    config: &Config,
    firewall: &mut Firewall,
) -> Result<CniResult, Error> {
    let previous = request.need_previous("portmap")?;
    let ports = plan(request, config, &previous)?;
    if ports.is_empty() {
        return Ok(previous);
    }
    open_the_way(firewall, config, &previous)?;
    failpoint!("portmap.add.way");
    firewall.publish(&ports)?;
    failpoint!("portmap.add.published");
    Ok(previous)
}

/// The links that the host reaches the container by, each with the subnets behind it: two families
/// usually share one.
pub(super) fn ways(previous: &CniResult) -> Result<Vec<(String, Vec<Cidr>)>, Error> {
    let mut links = Links::open()?;
    let mut ways: BTreeMap<u32, Vec<Cidr>> = BTreeMap::new();
    for ip in previous.container_ips() {
        let address = ip.address.address();
        let way = links.way_to(address)?.ok_or_else(|| Error::Mismatch {
            what: format!("the route to {address}"),
            found: "missing".into(),
            wanted: "through a link of this host".into(),
        })?;
        ways.entry(way).or_default().push(ip.address.network());
    }
    let mut named = Vec::new();
    for (index, subnets) in ways {
        named.extend(links.by_index(index)?.map(|link| (link.name, subnets)));
    }
    Ok(named)
}

fn way<'a>(link: &'a str, subnets: &'a [Cidr]) -> Network<'a> {
    Network {
        link: Some(link),
        subnets,
        ..Network::default()
    }
}

/// Lets the host route to the container's addresses, from its own loopback too.
fn open_the_way(
    firewall: &mut Firewall,
    config: &Config,
    previous: &CniResult,
) -> Result<(), Error> {
    for (link, subnets) in ways(previous)? {
        // The guard comes before what it guards against.
        firewall.admit(&way(&link, &subnets))?;
        failpoint!("portmap.add.admitted");
        for subnet in subnets {
            sysctl::forward(subnet.is_ipv4())?;
            if subnet.is_ipv4() && config.source() != Source::Kept {
                sysctl::set(&format!("ipv4/conf/{link}/route_localnet"), "1")?;
            }
        }
    }
    Ok(())
}

/// A link that is the container's alone, as `ptp` makes one, is forgotten with it; a bridge stays. By the result of
/// ADD, if DEL is told, and by the name that a link of ours has.
fn close_own_way(request: &Request<'_>, firewall: &mut Firewall) -> Result<(), Error> {
    let previous = request.previous().ok().flatten().unwrap_or_default();
    let on_host = previous.interfaces.into_iter();
    let mut names: Vec<String> = on_host
        .filter(|i| i.sandbox.is_empty())
        .map(|i| i.name)
        .collect();
    names.push(request.owner().veth_name());
    let mut links = Links::open()?;
    for name in names.iter().filter(|n| cni::check_ifname(n).is_ok()) {
        if links
            .by_name(name)?
            .is_none_or(|l| l.kind == "veth" && l.master.is_none())
        {
            firewall.dismiss_link(name)?;
        }
    }
    Ok(())
}

/// Links of containers that are gone, which nobody has told us of. What a bridge that is gone had is made again with it.
fn close_dead_ways(firewall: &mut Firewall) -> Result<(), Error> {
    let mut links = Links::open()?;
    for name in firewall.links()? {
        if links.by_name(&name)?.is_none() {
            firewall.dismiss_link(&name)?;
        }
    }
    Ok(())
}

fn check(request: &Request<'_>, config: &Config, firewall: &mut Firewall) -> Result<(), Error> {
    let previous = request.need_previous("portmap")?;
    let ports = plan(request, config, &previous)?;
    if ports.is_empty() {
        return Ok(());
    }
    let there = firewall.published()?;
    match ports.iter().find(|p| !there.contains(p)) {
        None => Ok(()),
        Some(port) => Err(Error::Mismatch {
            what: format!("port {}/{}", port.host, port.protocol),
            found: "not published".into(),
            wanted: format!("published to {}", port.target),
        }),
    }
}
