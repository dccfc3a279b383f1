//! The bridge itself, as the containers' gateway: made on first use, with their subnets' gateway
//! addresses.

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Route};

use crate::Error;
use crate::link::{Link, Links};
use crate::owner::Owner;
use crate::plugin::host_local::first_host;
use crate::sysctl;

/// Fills in what IPAM left out, and returns the addresses that the bridge is to have: none if it
/// is no gateway.
pub fn complete(result: &mut CniResult, is_gateway: bool, is_default: bool) -> Vec<Cidr> {
    let mut gateways: Vec<Cidr> = Vec::new();
    for ip in &mut result.ips {
        if !is_gateway {
            continue;
        }
        let gateway = *ip.gateway.get_or_insert(first_host(&ip.address));
        let own = Cidr::new(gateway, ip.address.prefix());
        gateways.extend(own.filter(|g| !gateways.contains(g)));
        let default = Cidr::new(
            if gateway.is_ipv4() {
                [0; 4].into()
            } else {
                [0u8; 16].into()
            },
            0,
        );
        if let Some(default) = default
            && is_default
            && !result.routes.iter().any(|r| r.dst == default)
        {
            result.routes.push(Route::to(default, Some(gateway)));
        }
    }
    gateways
}

/// The bridge, up and with these addresses, forwarding.
pub fn ensure_bridge(
    links: &mut Links,
    name: &str,
    mtu: Option<u32>,
    gateways: &[Cidr],
) -> Result<Link, Error> {
    let bridge = match links.by_name(name)? {
        Some(bridge) => bridge,
        None => make(links, name, mtu, gateways)?,
    };
    if bridge.kind != "bridge" {
        return Err(Error::Invalid {
            what: "link",
            value: name.into(),
            reason: format!("is there and no bridge but {:?}", bridge.kind),
        });
    }
    if !bridge.up {
        links.set_up(&bridge)?;
    }
    for gateway in gateways {
        if !gateway.is_ipv4() {
            let key = |setting| format!("ipv6/conf/{name}/{setting}");
            sysctl::set(&key("disable_ipv6"), "0")?;
            // A container must not become the host's router (CVE-2020-10749).
            sysctl::set(&key("accept_ra"), "0")?;
        }
        links.add_address(&bridge, *gateway)?;
        sysctl::forward(gateway.is_ipv4())?;
    }
    Ok(bridge)
}

fn make(links: &mut Links, name: &str, mtu: Option<u32>, gateways: &[Cidr]) -> Result<Link, Error> {
    for gateway in gateways {
        refuse_overlap(links, name, gateway)?;
    }
    let mac = Owner::new("", name, "").mac("bridge");
    links.add_bridge(name, mac, mtu)?;
    links.by_name(name)?.ok_or_else(|| Error::Mismatch {
        what: format!("link {name}"),
        found: "missing".into(),
        wanted: "just made".into(),
    })
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
