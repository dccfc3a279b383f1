//! `vrf`: puts the container's link into a VRF (Documentation/networking/vrf.rst), a link whose ports
//! are routed by a table of its own. Made with its first link, gone with its last.

use std::net::IpAddr;

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, check_ifname};
use serde::Deserialize;

use super::container::{need_link, same, same_detail, wrong_key};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Change, Kind, Link, Links, NewLink, RT_TABLE_MAIN, RouteCopy, netns};

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    vrfname: String,
    /// The first that no VRF has, if not given.
    #[serde(default)]
    table: u32,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config: Config = request.read("vrf")?;
    if config.vrfname.is_empty() {
        return Err(wrong_key("vrfname", "", "is needed: the name of the VRF"));
    }
    check_ifname(&config.vrfname)?;
    let ifname = request.ifname;
    match request.verb {
        Verb::Add => {
            let previous = request.need_previous("vrf")?;
            let inside = netns::open(request.netns)?;
            netns::inside(&inside, request.netns, || join(&config, ifname))?;
            Ok(Some(previous))
        }
        Verb::Del => {
            if let Some(inside) = netns::open_if_there(request.netns)? {
                netns::inside(&inside, request.netns, || leave(&config, ifname))?;
            }
            Ok(None)
        }
        Verb::Check => {
            request.need_previous("vrf")?;
            let inside = netns::open(request.netns)?;
            netns::inside(&inside, request.netns, || check(&config, ifname)).map(|()| None)
        }
        Verb::Gc => request.valid_attachments().map(|_| None),
        Verb::Status => Ok(None),
    }
}

/// A table that none of these links is for.
fn free_table(links: &[Link]) -> u32 {
    let taken = |table: &u32| links.iter().any(|l| l.details.vrf_table == Some(*table));
    // There are fewer links than numbers.
    (1..).find(|t| !taken(t)).unwrap_or(u32::MAX)
}

fn ensure(links: &mut Links, config: &Config) -> Result<Link, Error> {
    let name = &config.vrfname;
    if links.by_name(name)?.is_none() {
        let table = match config.table {
            0 => free_table(&links.list(None)?),
            table => table,
        };
        let link = NewLink {
            up: true,
            ..NewLink::new(name, Kind::Vrf { table })
        };
        links.add(&link)?;
    }
    let vrf = need_link(links, name)?;
    same(&vrf, "kind", &vrf.kind, &"vrf".to_owned())?;
    if config.table != 0 {
        same_detail(&vrf, "table", |d| d.vrf_table, config.table)?;
    }
    Ok(vrf)
}

/// What enslaving takes from a link, and must be given back: its routes by gateways, its IPv6
/// addresses (without `keep_addr_on_down`).
struct Belongings {
    routes: Vec<RouteCopy>,
    addresses: Vec<Cidr>,
}

impl Belongings {
    fn of(links: &mut Links, link: &Link) -> Result<Self, Error> {
        let mut routes = links.route_copies(true)?;
        routes.extend(links.route_copies(false)?);
        routes.retain(|r| {
            // Scope 0: neither the host's own nor connected ones, which the kernel moves.
            r.entry.link == link.index && r.entry.table == RT_TABLE_MAIN && r.scope == 0
        });
        let mut addresses = links.addresses(link)?;
        addresses.retain(|a| match a.address() {
            IpAddr::V6(a) => !a.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        });
        Ok(Self { routes, addresses })
    }
}

fn join(config: &Config, ifname: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    let link = need_link(&mut links, ifname)?;
    let vrf = ensure(&mut links, config)?;
    failpoint!("vrf.add.made");
    if link.master == Some(vrf.index) {
        return Ok(());
    }
    if let Some(master) = link.master {
        let name = links.by_index(master)?.map(|l| l.name).unwrap_or_default();
        return Err(Error::Mismatch {
            what: format!("the master of link {ifname}"),
            found: name,
            wanted: "none, or the VRF".into(),
        });
    }
    let had = Belongings::of(&mut links, &link)?;
    let change = Change {
        master: Some(vrf.index),
        ..Default::default()
    };
    links.change(&link, &change)?;
    failpoint!("vrf.add.joined");
    // One that is there is left.
    for address in had.addresses {
        links.add_address(&link, address)?;
    }
    let table = vrf.details.vrf_table.unwrap_or(config.table);
    for route in &had.routes {
        links.put_route(route, table)?;
    }
    Ok(())
}

fn leave(config: &Config, ifname: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    let Some(vrf) = links.by_name(&config.vrfname)?.filter(|l| l.kind == "vrf") else {
        return Ok(());
    };
    if let Some(link) = links.by_name(ifname)?
        && link.master == Some(vrf.index)
    {
        let change = Change {
            master: Some(0),
            ..Default::default()
        };
        links.change(&link, &change)?;
    }
    match links.list(Some(vrf.index))?.is_empty() {
        true => links.delete(&vrf),
        false => Ok(()),
    }
}

fn check(config: &Config, ifname: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    let vrf = need_link(&mut links, &config.vrfname)?;
    same(&vrf, "kind", &vrf.kind, &"vrf".to_owned())?;
    let link = need_link(&mut links, ifname)?;
    same(&link, "master", &link.master.unwrap_or(0), &vrf.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_vrf_gets_the_first_table_that_no_other_has() {
        let vrf = |table| {
            let mut link = Link::default();
            link.details.vrf_table = table;
            link
        };
        assert_eq!(free_table(&[]), 1);
        assert_eq!(free_table(&[vrf(Some(1)), vrf(None), vrf(Some(3))]), 2);
        assert_eq!(free_table(&[vrf(Some(2)), vrf(Some(1))]), 3);
    }
}
