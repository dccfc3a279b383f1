//! The bridge itself, and the containers' gateway: the bridge, or on a network with a VLAN a link
//! into that VLAN, made on first use, with their subnets' gateway addresses.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Route};

use super::super::container::{need_link, prepare_ipv6};
use super::super::host_local::first_host;
use super::config::Config;
use crate::Error;
use crate::link::{Change, Link, Links, NewVeth, PortVlans, netns};
use crate::owner::Owner;
use crate::sysctl;

/// Fills in what IPAM left out, and returns the addresses that the gateway is to have: none if
/// the network has none on this host.
pub fn complete(result: &mut CniResult, config: &Config) -> Vec<Cidr> {
    let mut gateways: Vec<Cidr> = Vec::new();
    for ip in &mut result.ips {
        if !config.is_gateway {
            continue;
        }
        let gateway = *ip.gateway.get_or_insert(first_host(&ip.address));
        let own = Cidr::new(gateway, ip.address.prefix());
        gateways.extend(own.filter(|g| !gateways.contains(g)));
        let default = default_of(gateway);
        let routes = &mut result.routes;
        if config.is_default_gateway && !routes.iter().any(|r| Some(r.dst) == default) {
            routes.extend(default.map(|d| Route::to(d, Some(gateway))));
        }
    }
    gateways
}

/// Every destination of the address's family.
fn default_of(address: IpAddr) -> Option<Cidr> {
    let zero = match address.is_ipv4() {
        true => IpAddr::from([0; 4]),
        false => IpAddr::from([0u8; 16]),
    };
    Cidr::new(zero, 0)
}

/// The bridge, up. `gateways` is what it would have to be free for.
pub fn ensure_bridge(links: &mut Links, config: &Config, gateways: &[Cidr]) -> Result<Link, Error> {
    let name = &config.bridge;
    let filtering = config.vlans.is_some();
    let bridge = match links.by_name(name)? {
        Some(bridge) => bridge,
        None => {
            for gateway in gateways {
                refuse_overlap(links, &config.gateway_link(), gateway)?;
            }
            let mac = Owner::new("", name, "").mac("bridge");
            links.add_bridge(name, mac, config.mtu, filtering)?;
            need_link(links, name)?
        }
    };
    if bridge.kind != "bridge" {
        return Err(Error::Invalid {
            what: "link",
            value: name.into(),
            reason: format!("is there and no bridge but {:?}", bridge.kind),
        });
    }
    // To turn it on would change what the other ports' frames may do.
    if filtering && bridge.details.vlan_filtering != Some(true) {
        return Err(Error::Mismatch {
            what: format!("VLAN filtering of bridge {name}"),
            found: "off".into(),
            wanted: "on".into(),
        });
    }
    if !bridge.up {
        links.set_up(&bridge)?;
    }
    if config.promisc_mode && !bridge.promisc {
        let promisc = Change {
            promisc: Some(true),
            ..Default::default()
        };
        links.change(&bridge, &promisc)?;
    }
    Ok(bridge)
}

/// Puts a port into the network's VLANs.
pub fn set_vlans(links: &mut Links, config: &Config, port: &Link) -> Result<(), Error> {
    match &config.vlans {
        Some(vlans) if config.preserve_default_vlan => links.add_port_vlans(port, vlans),
        Some(vlans) => links.set_port_vlans(port, vlans),
        None => Ok(()),
    }
}

/// Gives the gateway its addresses, and lets the host forward for it. Returns the link of the VLAN
/// if that is what it is.
pub fn serve(
    links: &mut Links,
    config: &Config,
    bridge: &Link,
    gateways: &[Cidr],
) -> Result<Option<Link>, Error> {
    if gateways.is_empty() {
        return Ok(None);
    }
    let tagged = match config.vlan {
        0 => None,
        _ => Some(ensure_tagged(links, config, bridge)?),
    };
    let link = tagged.as_ref().unwrap_or(bridge);
    let there = links.addresses(link)?;
    for gateway in gateways {
        assign(links, config, link, &there, gateways, *gateway)?;
        sysctl::forward(gateway.is_ipv4())?;
    }
    Ok(tagged)
}

fn assign(
    links: &mut Links,
    config: &Config,
    link: &Link,
    there: &[Cidr],
    gateways: &[Cidr],
    gateway: Cidr,
) -> Result<(), Error> {
    if there.contains(&gateway) {
        return Ok(());
    }
    if !gateway.is_ipv4() {
        prepare_ipv6(&link.name)?;
    }
    // Another address of the family means another network; IPv6 has several by its nature, as
    // long as they do not overlap.
    let in_the_way = |other: &&Cidr| {
        let foreign = !gateways.contains(other) && other.is_ipv4() == gateway.is_ipv4();
        foreign && (gateway.is_ipv4() || other.overlaps(&gateway))
    };
    for other in there.iter().filter(in_the_way) {
        if !config.force_address {
            return Err(Error::Mismatch {
                what: format!("the address of gateway {}", link.name),
                found: other.to_string(),
                wanted: gateway.to_string(),
            });
        }
        links.delete_address(link, *other)?;
    }
    links.add_address(link, gateway)?;
    // Set, if only to what it is, an address stays; else a bridge that others made takes the lowest
    // of its ports', and the containers lose their gateway for a while.
    let own = Change {
        mac: link.mac,
        ..Default::default()
    };
    links.change(link, &own)
}

/// The gateway of a VLAN: one end of a pair whose other end is a port of the bridge in that VLAN.
fn ensure_tagged(links: &mut Links, config: &Config, bridge: &Link) -> Result<Link, Error> {
    let name = config.gateway_link();
    let owner = Owner::new("", &name, "");
    let port = owner.veth_name();
    let here = netns::open(Path::new("/proc/thread-self/ns/net"))?;
    if links.by_name(&name)?.is_none() {
        links.add_veth(&NewVeth {
            name: &port,
            alias: &owner.to_string(),
            mac: owner.mac("host"),
            mtu: Some(bridge.mtu),
            master: Some(bridge.index),
            peer_name: &name,
            peer_mac: owner.mac("gateway"),
            peer_netns: here.as_raw_fd(),
            quiet: sysctl::has_ipv6(),
        })?;
    }
    let link = need_link(links, &name)?;
    if !link.up {
        // Again after a kill in between: each step may be repeated.
        if let Some(port) = links.by_name(&port)? {
            let vlans = PortVlans {
                native: Some(config.vlan),
                tagged: Vec::new(),
            };
            match config.preserve_default_vlan {
                true => links.add_port_vlans(&port, &vlans)?,
                false => links.set_port_vlans(&port, &vlans)?,
            }
            links.set_port_up(&port.name, false, false)?;
        }
        links.set_up(&link)?;
    }
    Ok(link)
}

/// A subnet that the host reaches otherwise would be cut off by the bridge's route.
fn refuse_overlap(links: &mut Links, name: &str, gateway: &Cidr) -> Result<(), Error> {
    for route in links.routes(gateway.is_ipv4())? {
        let Some(dst) = route.dst.filter(|d| d.overlaps(gateway)) else {
            continue;
        };
        // fe80::/64 is on every link; a default route has no dst.
        let other = links
            .by_index(route.link)?
            .map(|l| l.name)
            .unwrap_or_default();
        if other != name {
            return Err(Error::SubnetTaken {
                subnet: gateway.network(),
                other: dst,
                link: other,
            });
        }
    }
    Ok(())
}
