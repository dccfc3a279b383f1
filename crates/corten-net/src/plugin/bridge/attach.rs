//! ADD of `bridge`.

use std::fs::File;
use std::os::fd::AsRawFd;

use corten_spec::cni::CniResult;

use super::super::Request;
use super::super::container::{Shared, configure_with, interface, need_link, set_up};
use super::config::Config;
use super::{gateway, wall};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Link, Links, Mac, NewVeth, netns};
use crate::owner::Owner;
use crate::sysctl;

pub fn add(request: &Request<'_>, config: &Config, shared: &Shared) -> Result<CniResult, Error> {
    let (inside, ifname) = (netns::open(request.netns)?, request.ifname);
    let early = shared.ipam_first();
    let mut result = match early {
        true => shared.addresses(request)?,
        false => CniResult::default(),
    };
    failpoint!("bridge.add.addresses");
    let gateways = gateway::complete(&mut result, config);
    let mut links = Links::open()?;
    let bridge = gateway::ensure_bridge(&mut links, config, &gateways)?;
    let mut tagged = gateway::serve(&mut links, config, &bridge, &gateways)?;
    failpoint!("bridge.add.bridge");
    let mac = config
        .mac
        .unwrap_or_else(|| drawn_mac(request, config, &result));
    let port = make_pair(&mut links, request, config, (&bridge, mac), &inside)?;
    failpoint!("bridge.add.pair");
    if !early && shared.has_ipam() {
        netns::inside(&inside, request.netns, || set_up(ifname))?;
        links.set_port_up(&port, config.hairpin_mode, config.port_isolation)?;
        result = shared.addresses(request)?;
        let gateways = gateway::complete(&mut result, config);
        tagged = gateway::serve(&mut links, config, &bridge, &gateways)?;
    }
    let link = connect(&mut links, request, config, &inside, &result, &port)?;
    links.settle(bridge.index)?;
    failpoint!("bridge.add.connected");
    shared.override_dns(&mut result);

    let port = need_link(&mut links, &port)?;
    // One that others made may take its ports' addresses.
    let bridge = need_link(&mut links, &bridge.name)?;
    result.interfaces = vec![
        interface(&bridge, String::new()),
        interface(&port, String::new()),
        interface(&link, request.netns.display().to_string()),
    ];
    result
        .interfaces
        .extend(tagged.map(|t| interface(&t, String::new())));
    for ip in &mut result.ips {
        ip.interface = Some(2);
    }
    wall::admit(request, &result)?;
    Ok(result)
}

/// The same for the same address: neighbours that talked to the container which had it before send
/// to the right place. They would find out by themselves after some seconds only, and a notice of
/// ours (`arp_notify`) would be sent before the port is up. Without an address yet, the owner's.
fn drawn_mac(request: &Request<'_>, config: &Config, result: &CniResult) -> Mac {
    // Another with the same address is to be told from this one.
    match result.ips.first().filter(|_| !config.enabledad) {
        Some(ip) => {
            let address = ip.address.address().to_string();
            Owner::new("", "", request.network()).mac(&address)
        }
        None => request.owner().mac("container"),
    }
}

/// The pair: one end a port of the bridge, in its VLANs and still down, the other inside. Returns
/// the port's name.
fn make_pair(
    links: &mut Links,
    request: &Request<'_>,
    config: &Config,
    (bridge, mac): (&Link, Mac),
    inside: &File,
) -> Result<String, Error> {
    let owner = request.owner();
    let name = owner.veth_name();
    clear_leftover(links, &name, &owner)?;
    links.add_veth(&NewVeth {
        name: &name,
        alias: &owner.to_string(),
        mac: owner.mac("host"),
        mtu: config.mtu,
        master: Some(bridge.index),
        peer_name: request.ifname,
        peer_mac: mac,
        peer_netns: inside.as_raw_fd(),
        quiet: sysctl::has_ipv6(),
    })?;
    if config.vlans.is_some() {
        let port = need_link(links, &name)?;
        gateway::set_vlans(links, config, &port)?;
    }
    Ok(name)
}

/// A pair that an earlier, killed ADD of the same owner left. One of another owner's (two texts
/// with the same hash) stays, and the kernel will refuse the name.
pub fn clear_leftover(links: &mut Links, name: &str, owner: &Owner) -> Result<(), Error> {
    match links.by_name(name)? {
        Some(link) if link.alias == owner.to_string() => links.delete(&link),
        _ => Ok(()),
    }
}

/// Addresses, routes and "up" inside, then the port up.
fn connect(
    links: &mut Links,
    request: &Request<'_>,
    config: &Config,
    inside: &File,
    result: &CniResult,
    port: &str,
) -> Result<Link, Error> {
    let ifname = request.ifname;
    if config.disable_container_interface {
        links.set_port_up(port, config.hairpin_mode, config.port_isolation)?;
        return netns::inside(inside, request.netns, || {
            need_link(&mut Links::open()?, ifname)
        });
    }
    let (mut within, link) = netns::inside(inside, request.netns, || {
        configure_with(ifname, result, config.enabledad)
    })?;
    links.set_port_up(port, config.hairpin_mode, config.port_isolation)?;
    within.settle(link.index)?;
    if config.enabledad {
        within.await_detection(&link)?;
    }
    Ok(link)
}
