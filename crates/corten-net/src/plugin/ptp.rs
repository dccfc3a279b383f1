//! `ptp`: a veth pair, its outer end the container's gateway; what the container sends to its own
//! subnet goes by way of the host as well.
//!
//! ```text
//!   container                                 host
//!     eth0 10.1.1.5/24 ─────── veth1a2b3c4d 10.1.1.1/32        10.1.1.5 dev veth1a2b3c4d
//!       10.1.1.1 dev eth0
//!       10.1.1.0/24 via 10.1.1.1
//! ```

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use corten_spec::cni::{CniResult, IpConfig};
use corten_spec::{Cidr, Kind};
use serde::Deserialize;

use super::bridge::{clear_leftover, refuse_iptables};
use super::container::{
    Asked, Shared, Told, check_inside, delete_named, given, interface, need_link, or_undo,
    prepare_families, prepare_ipv6, routes, same, set_up, wrong_key,
};
use super::{Request, Verb, portmap};
use crate::Error;
use crate::failpoint::failpoint;
use crate::firewall::{Network, Wanted};
use crate::link::{Link, Links, NewRoute, NewVeth, RT_SCOPE_LINK, netns};
use crate::network;
use crate::owner::Owner;
use crate::sysctl;

/// `RT_SCOPE_HOST`: what the reference plugin gives the host's routes.
const SCOPE_HOST: u8 = 254;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    #[serde(default, deserialize_with = "given")]
    mtu: Option<u32>,
    #[serde(default = "portmap::default_table")]
    corten_table: String,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let shared = Shared::read(request, "ptp")?;
    let config: Config = request.read("ptp")?;
    shared.need_ipam("ptp")?;
    refuse_iptables(config.ip_masq_backend.as_deref())?;
    match request.verb {
        Verb::Add => or_undo(
            request,
            || add(request, &config, &shared),
            |request| del(request, &shared, true),
        )
        .map(Some),
        Verb::Del => del(request, &shared, false).map(|()| None),
        Verb::Check => check(request, &shared).map(|()| None),
        Verb::Gc => gc(request, &shared).map(|()| None),
        Verb::Status => shared.forward(request).map(|()| None),
    }
}

fn add(request: &Request<'_>, config: &Config, shared: &Shared) -> Result<CniResult, Error> {
    let (inside, ifname) = (netns::open(request.netns)?, request.ifname);
    let early = shared.ipam_first();
    let mut result = match early {
        true => shared.addresses(request)?,
        false => CniResult::default(),
    };
    failpoint!("ptp.add.addresses");
    let mut links = Links::open()?;
    let outer = make_pair(&mut links, request, config, &inside)?;
    failpoint!("ptp.add.pair");
    if !early {
        netns::inside(&inside, request.netns, || set_up(ifname))?;
        links.set_up(&outer)?;
        result = shared.addresses(request)?;
    }
    let gateways = gateways(&result)?;
    let (mut within, link) = netns::inside(&inside, request.netns, || {
        configure_inner(ifname, &result, &gateways)
    })?;
    failpoint!("ptp.add.inner");
    configure_outer(&mut links, &outer, &result, &gateways)?;
    within.settle(link.index)?;
    links.settle(outer.index)?;
    failpoint!("ptp.add.outer");
    if config.ip_masq {
        let subnets = subnets(&result);
        let others = links.addresses_but(outer.index)?;
        let first = subnets
            .iter()
            .any(|s| !others.iter().any(|a| s.contains(*a)));
        let mut firewall = request.session.firewall(&config.corten_table)?;
        firewall.admit_shared(&masqueraded(&subnets), first)?;
        failpoint!("ptp.add.admitted");
    }
    shared.override_dns(&mut result);
    result.interfaces = vec![
        interface(&outer, String::new()),
        interface(&link, request.netns.display().to_string()),
    ];
    for ip in &mut result.ips {
        ip.interface = Some(1);
    }
    Ok(result)
}

fn subnets(result: &CniResult) -> Vec<Cidr> {
    result.ips.iter().map(|ip| ip.address.network()).collect()
}

fn masqueraded(subnets: &[Cidr]) -> Network<'_> {
    Network {
        subnets,
        masquerade: true,
        ..Network::default()
    }
}

/// For a reload: what ADD with this result had put into nf_tables.
pub fn wanted(request: &Request<'_>, result: &CniResult) -> Result<Wanted, Error> {
    let config: Config = request.read("ptp")?;
    let mut wanted = Wanted::default();
    if config.ip_masq {
        wanted.network(&masqueraded(&subnets(result)));
    }
    Ok(wanted)
}

fn make_pair(
    links: &mut Links,
    request: &Request<'_>,
    config: &Config,
    inside: &File,
) -> Result<Link, Error> {
    let owner = request.owner();
    let name = owner.veth_name();
    clear_leftover(links, &name, &owner)?;
    let mac = Asked::mac(request, "ptp", None)?;
    links.add_veth(&NewVeth {
        name: &name,
        alias: &owner.to_string(),
        mac: owner.mac("host"),
        mtu: config.mtu,
        master: None,
        peer_name: request.ifname,
        peer_mac: mac.unwrap_or_else(|| owner.mac("container")),
        peer_netns: inside.as_raw_fd(),
        quiet: false,
    })?;
    need_link(links, &name)
}

/// Each address with its gateway.
fn gateways(result: &CniResult) -> Result<Vec<(Cidr, IpAddr)>, Error> {
    let with_gateway = |ip: &IpConfig| match ip.gateway {
        Some(gateway) if gateway.is_ipv4() == ip.address.is_ipv4() => Ok((ip.address, gateway)),
        _ => Err(wrong_key(
            "address",
            ip.address,
            "has no gateway of its family, which a ptp link is",
        )),
    };
    result.ips.iter().map(with_gateway).collect()
}

/// The addresses without the route to their subnet that the kernel would make, then the way over
/// the gateway.
fn configure_inner(
    ifname: &str,
    result: &CniResult,
    gateways: &[(Cidr, IpAddr)],
) -> Result<(Links, Link), Error> {
    let mut links = Links::open()?;
    let link = need_link(&mut links, ifname)?;
    prepare_families(ifname, result)?;
    let mut all: Vec<NewRoute> = Vec::new();
    for (address, gateway) in gateways {
        let source = Some(address.address());
        all.push(NewRoute {
            scope: address.is_ipv4().then_some(RT_SCOPE_LINK),
            source,
            ..NewRoute::to(Cidr::host(*gateway), link.index)
        });
        all.push(NewRoute {
            gateway: Some(*gateway),
            source,
            ..NewRoute::to(address.network(), link.index)
        });
    }
    // Two addresses of a subnet share its routes.
    let mut seen = Vec::new();
    all.retain(|r| {
        !seen.contains(&r.dst) && {
            seen.push(r.dst);
            true
        }
    });
    let others = routes(&link, result);
    all.extend(
        others
            .into_iter()
            .filter(|r| r.table.is_some() || !seen.contains(&r.dst)),
    );
    let addresses: Vec<Cidr> = gateways.iter().map(|(address, _)| *address).collect();
    links.configure_alone(&link, &addresses, &all)?;
    Ok((links, link))
}

fn configure_outer(
    links: &mut Links,
    outer: &Link,
    result: &CniResult,
    gateways: &[(Cidr, IpAddr)],
) -> Result<(), Error> {
    if result.ips.iter().any(|ip| !ip.address.is_ipv4()) {
        prepare_ipv6(&outer.name)?;
    }
    let mut addresses: Vec<Cidr> = gateways.iter().map(|(_, g)| Cidr::host(*g)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let routes: Vec<NewRoute> = gateways
        .iter()
        .map(|(address, _)| NewRoute {
            scope: address.is_ipv4().then_some(SCOPE_HOST),
            ..NewRoute::to(Cidr::host(address.address()), outer.index)
        })
        .collect();
    links.configure(outer, &addresses, false, &routes)?;
    for (address, _) in gateways {
        sysctl::forward(address.is_ipv4())?;
    }
    Ok(())
}

/// `undo`: what an ADD of ours made, not another implementation's link of the same name.
fn del(request: &Request<'_>, shared: &Shared, undo: bool) -> Result<(), Error> {
    shared.release(request, || {
        delete_pair(request, undo)?;
        failpoint!("ptp.del.pair");
        gather(request)
    })
}

/// The subnets go with the last container in them: those of the result of ADD, and those of the configuration.
fn gather(request: &Request<'_>) -> Result<(), Error> {
    let ipam = request.config.get("ipam");
    let mut all = ipam.map(network::subnets).unwrap_or_default();
    let previous = request.previous().ok().flatten();
    all.extend(previous.iter().flat_map(subnets));
    match request.session.firewall(&request.table()?) {
        Ok(mut firewall) => firewall.gather(&all),
        // A host without nf_tables, where nothing was to be masqueraded.
        Err(error) if error.kind() == Kind::Unsupported => Ok(()),
        Err(error) => Err(error),
    }
}

fn delete_pair(request: &Request<'_>, undo: bool) -> Result<(), Error> {
    let owner = request.owner();
    let mut links = Links::open()?;
    clear_leftover(&mut links, &owner.veth_name(), &owner)?;
    let Some(inside) = netns::open_if_there(request.netns)?.filter(|_| !undo) else {
        return Ok(());
    };
    let told = Told::of(request);
    netns::inside(&inside, request.netns, || {
        delete_named(&told, &mut Links::open()?, "veth")
    })
}

fn check(request: &Request<'_>, shared: &Shared) -> Result<(), Error> {
    shared.forward(request)?;
    let previous = request.need_previous("ptp")?;
    let mut links = Links::open()?;
    let outer = previous.interfaces.iter().find(|i| i.sandbox.is_empty());
    if let Some(outer) = outer {
        let link = need_link(&mut links, &outer.name)?;
        same(&link, "kind", &link.kind, &"veth".to_owned())?;
        for ip in previous.container_ips() {
            let way = links.way_to(ip.address.address())?;
            same(&link, "index", &way.unwrap_or(0), &link.index)?;
        }
    }
    check_inside(request, &previous, Some("veth"), |_| Ok(()))
}

fn gc(request: &Request<'_>, shared: &Shared) -> Result<(), Error> {
    let valid = request.valid_attachments()?;
    shared.forward(request)?;
    let mut links = Links::open()?;
    for link in links.list(None)? {
        let stale = |o: Owner| !request.is_valid(&valid, &o);
        if link.kind == "veth" && Owner::parse(&link.alias).is_some_and(stale) {
            links.delete(&link)?;
        }
    }
    gather(request)
}
