//! CHECK: what is there, and what there should be.

use corten_spec::cni::{CniResult, Interface};

use super::super::Request;
use crate::Error;
use crate::link::{Details, Link, Links, mac_text, netns};

/// The link of this name in the thread's namespace, or what CHECK says when it is missing.
pub fn need_link(links: &mut Links, name: &str) -> Result<Link, Error> {
    links.by_name(name)?.ok_or_else(|| missing(name))
}

pub fn missing(name: &str) -> Error {
    Error::Mismatch {
        what: format!("link {name}"),
        found: "missing".into(),
        wanted: "there".into(),
    }
}

/// What a result says of the container's link.
fn told<'r>(previous: &'r CniResult, ifname: &str) -> Option<&'r Interface> {
    let mut all = previous.interfaces.iter();
    all.find(|i| i.name == ifname && !i.sandbox.is_empty())
}

/// What prevResult tells DEL of the link to be taken away. The path of a container that has gone may
/// by now lead to another's namespace, which has a link of that name too.
pub struct Told {
    pub ifname: String,
    previous: CniResult,
    mac: Option<String>,
}

impl Told {
    /// An unreadable prevResult tells as little as none.
    pub fn of(request: &Request<'_>) -> Self {
        let previous = request.previous().ok().flatten().unwrap_or_default();
        let mac = told(&previous, request.ifname).map(|i| i.mac.to_ascii_lowercase());
        Self {
            ifname: request.ifname.into(),
            mac: mac.filter(|m| !m.is_empty()),
            previous,
        }
    }

    /// Whether it tells of this very link.
    pub fn is(&self, link: &Link) -> bool {
        self.mac.is_some() && self.mac == link.mac.map(mac_text)
    }

    /// Whether nothing that it tells speaks against this link. `tuning` may just have given it back
    /// the Ethernet address that it had before: then its addresses still say so.
    pub fn may_be(&self, links: &mut Links, link: &Link) -> Result<bool, Error> {
        if self.mac.is_none() || self.is(link) {
            return Ok(true);
        }
        let there = links.addresses(link)?;
        let mut ips = self.previous.container_ips();
        Ok(ips.any(|ip| there.contains(&ip.address)))
    }
}

/// CHECK of the link inside: its kind, its address, the result's addresses and routes, and what
/// `also` looks at.
pub fn check_inside(
    request: &Request<'_>,
    previous: &CniResult,
    kind: Option<&str>,
    also: impl Fn(&Link) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let inside = netns::open(request.netns)?;
    let ifname = request.ifname;
    let told = told(previous, ifname);
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        let link = need_link(&mut links, ifname)?;
        if let Some(kind) = kind {
            same(&link, "kind", &link.kind, &kind.to_owned())?;
        }
        if let Some(told) = told.filter(|t| !t.mac.is_empty()) {
            let mac = link.mac.map(mac_text).unwrap_or_default();
            same(&link, "address", &mac, &told.mac.to_ascii_lowercase())?;
        }
        also(&link)?;
        check_addresses(&mut links, &link, previous)?;
        check_routes(&mut links, &link, previous)
    })
}

/// A property of a link is what it should be, or CHECK fails.
pub fn same<T: PartialEq + std::fmt::Display>(
    link: &Link,
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: format!("the {what} of link {}", link.name),
        found: found.to_string(),
        wanted: wanted.to_string(),
    })
}

/// As [`same`], for a number that a link of another kind does not have.
pub fn same_detail<T: PartialEq + std::fmt::Display>(
    link: &Link,
    what: &str,
    found: impl Fn(&Details) -> Option<T>,
    wanted: T,
) -> Result<(), Error> {
    let text = |value: Option<T>| value.map_or_else(|| "nothing".into(), |v| v.to_string());
    same(link, what, &text(found(&link.details)), &text(Some(wanted)))
}

fn gone(link: &Link, what: String) -> Error {
    Error::Mismatch {
        what,
        found: "missing".into(),
        wanted: format!("on {}", link.name),
    }
}

fn check_addresses(links: &mut Links, link: &Link, previous: &CniResult) -> Result<(), Error> {
    let there = links.addresses(link)?;
    let ours = previous.ips.iter().filter(|ip| {
        let on = ip.interface.and_then(|i| previous.interfaces.get(i));
        on.is_none_or(|i| i.name == link.name && !i.sandbox.is_empty())
    });
    for ip in ours {
        if !there.contains(&ip.address) {
            return Err(gone(link, format!("address {}", ip.address)));
        }
    }
    Ok(())
}

fn check_routes(links: &mut Links, link: &Link, previous: &CniResult) -> Result<(), Error> {
    for route in &previous.routes {
        let dst = Some(route.dst.network()).filter(|d| d.prefix() != 0);
        let there = links.route_copies(route.dst.is_ipv4())?;
        let found = there
            .iter()
            .map(|r| &r.entry)
            .filter(|r| r.dst == dst && r.link == link.index)
            // A later plugin (`sbr`, `vrf`) may have moved it to a table of the link's own.
            .any(|r| route.table.is_none_or(|t| t == r.table));
        if !found {
            return Err(gone(link, format!("the route to {}", route.dst)));
        }
    }
    Ok(())
}
