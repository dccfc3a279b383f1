//! What the main plugins do alike: addresses from IPAM, the container's link given them, compared
//! with them, and taken away.

use std::fs::File;
use std::os::fd::AsRawFd;

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Dns, Interface, IpConfig};
use serde::Deserialize;

use super::{Request, Verb, delegate};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Change, Details, Link, Links, Mac, NewLink, NewRoute, mac_text, netns};
use crate::owner::Owner;
use crate::sysctl;

/// The keys that the specification gives every main plugin.
#[derive(Default, Deserialize)]
pub struct Shared {
    #[serde(default)]
    ipam: Option<Ipam>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type", default)]
    kind: String,
}

impl Shared {
    pub fn read(request: &Request<'_>, plugin: &'static str) -> Result<Self, Error> {
        let mut shared: Self = request.read(plugin)?;
        // A network with nothing but layer 2 has `"ipam": {}`.
        shared.ipam = shared.ipam.filter(|i| !i.kind.is_empty());
        Ok(shared)
    }

    pub fn has_ipam(&self) -> bool {
        self.ipam.is_some()
    }

    /// For plugins that are nothing without addresses.
    pub fn need_ipam(&self, plugin: &'static str) -> Result<(), Error> {
        match self.has_ipam() {
            true => Ok(()),
            false => Err(Error::Invalid {
                what: "the configuration of plugin",
                value: plugin.into(),
                reason: "has no ipam".into(),
            }),
        }
    }

    /// Whether IPAM is asked before there is a link, so that a full range changes nothing. An IPAM
    /// that we do not know may want to speak through the link, as `dhcp` does.
    pub fn ipam_first(&self) -> bool {
        self.ipam
            .as_ref()
            .is_some_and(|i| ["host-local", "static"].contains(&i.kind.as_str()))
    }

    /// ADD of the IPAM plugin, with its addresses; an empty result if there is no IPAM.
    pub fn addresses(&self, request: &Request<'_>) -> Result<CniResult, Error> {
        let Some(ipam) = &self.ipam else {
            return Ok(CniResult::default());
        };
        let result = delegate(&ipam.kind, request)?.unwrap_or_default();
        if result.ips.is_empty() {
            return Err(Error::Mismatch {
                what: format!("the result of IPAM plugin {}", ipam.kind),
                found: "without an address".into(),
                wanted: "one with addresses".into(),
            });
        }
        Ok(result)
    }

    /// Any other verb of the IPAM plugin.
    pub fn forward(&self, request: &Request<'_>) -> Result<(), Error> {
        match &self.ipam {
            Some(ipam) => delegate(&ipam.kind, request).map(drop),
            None => Ok(()),
        }
    }

    /// The configuration's resolver, if it has one, in the place of IPAM's.
    pub fn override_dns(&self, result: &mut CniResult) {
        if let Some(dns) = self.dns.as_ref().filter(|d| !d.is_empty()) {
            result.dns = dns.clone();
        }
    }
}

/// Where a new link's addresses come from.
pub enum Source<'a> {
    Ipam(&'a Shared),
    /// They were given to another link, and are this one's.
    Given(CniResult),
}

/// Runs ADD, and what undoes it when it fails. The caller will ask for DEL as well (section 4 of
/// the specification), but a caller that dies before must not cost an address. ADD's own failure
/// is the one worth telling.
pub fn or_undo(
    request: &Request<'_>,
    add: impl FnOnce() -> Result<CniResult, Error>,
    undo: impl FnOnce(&Request<'_>) -> Result<(), Error>,
) -> Result<CniResult, Error> {
    add().map_err(|error| {
        let request = Request {
            verb: Verb::Del,
            ..*request
        };
        match undo(&request) {
            Ok(()) => error,
            Err(also) => Error::Attach {
                container: request.container_id.into(),
                network: request.network().into(),
                source: Box::new(error),
                undo: vec![also],
            },
        }
    })
}

/// ADD of a plugin that has a single link, inside. `make` makes it, under the name of the request.
pub fn add_inside(
    request: &Request<'_>,
    source: Source<'_>,
    make: impl FnOnce(&File) -> Result<(), Error>,
) -> Result<CniResult, Error> {
    let inside = netns::open(request.netns)?;
    let ifname = request.ifname;
    let (shared, given) = match source {
        Source::Ipam(shared) if shared.ipam_first() => (None, Some(shared.addresses(request)?)),
        Source::Ipam(shared) => (Some(shared), None),
        Source::Given(result) => (None, Some(result)),
    };
    failpoint!("inside.add.addresses");
    make(&inside)?;
    failpoint!("inside.add.made");
    let mut result = match (given, shared) {
        (Some(result), _) => result,
        (None, Some(shared)) => {
            if shared.has_ipam() {
                netns::inside(&inside, request.netns, || set_up(ifname))?;
            }
            shared.addresses(request)?
        }
        (None, None) => CniResult::default(),
    };
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    let (_, link) = netns::inside(&inside, request.netns, || configure(ifname, &result))?;
    failpoint!("inside.add.configured");
    result.interfaces = vec![interface(&link, request.netns.display().to_string())];
    Ok(result)
}

/// A link as results tell of it.
pub fn interface(link: &Link, sandbox: String) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(mac_text).unwrap_or_default(),
        mtu: Some(link.mtu),
        sandbox,
        ..Default::default()
    }
}

/// Makes a link that lives inside and hangs on one outside (`within`: on one inside), under a name
/// of its owner's own, then gives it the name of the request. Until Linux 6.15 the kernel takes a
/// link of the wanted name on the host for the one that is to be made.
pub fn make_inside(
    request: &Request<'_>,
    inside: &File,
    link: &NewLink<'_>,
    within: bool,
) -> Result<(), Error> {
    let owner = request.owner();
    let ifname = request.ifname;
    let temporary = owner.veth_name();
    let link = NewLink {
        name: &temporary,
        netns: (!within).then(|| inside.as_raw_fd()),
        ..link.clone()
    };
    netns::inside(inside, request.netns, || {
        let mut links = Links::open()?;
        prepare_inside(&mut links, &owner)?;
        if within { links.add(&link) } else { Ok(()) }
    })?;
    if !within {
        Links::open()?.add(&link)?;
    }
    failpoint!("inside.make.unnamed");
    netns::inside(inside, request.netns, || {
        let mut links = Links::open()?;
        let made = need_link(&mut links, &temporary)?;
        let alias = owner.to_string();
        let named = Change {
            name: Some(ifname),
            alias: Some(&alias),
            ..Default::default()
        };
        links.change(&made, &named)
    })
}

/// What an earlier, killed ADD of the same owner left.
fn clear_leftovers(links: &mut Links, temporary: &str, owner: &str) -> Result<(), Error> {
    for link in links.list(None)? {
        if link.name == temporary || link.alias == owner {
            links.delete(&link)?;
        }
    }
    Ok(())
}

/// Readies the container's namespace, which is the thread's, for a new link of the request: takes
/// away leftovers of a killed ADD, and refuses a name that is somebody else's.
pub fn prepare_inside(links: &mut Links, owner: &Owner) -> Result<(), Error> {
    clear_leftovers(links, &owner.veth_name(), &owner.to_string())?;
    match links.by_name(&owner.ifname)? {
        None => Ok(()),
        Some(link) => Err(Error::LinkTaken {
            name: owner.ifname.clone(),
            kind: link.kind,
        }),
    }
}

fn set_up(ifname: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    let link = need_link(&mut links, ifname)?;
    links.set_up(&link)
}

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

/// Inside the container's namespace: addresses, up, routes. Returns the link, and the connection
/// to its namespace.
pub fn configure(ifname: &str, result: &CniResult) -> Result<(Links, Link), Error> {
    configure_with(ifname, result, false)
}

/// As [`configure`]; `detect` has the kernel look for others with the same address (IPv6), which
/// takes it a second or two in which the address cannot be used.
pub fn configure_with(
    ifname: &str,
    result: &CniResult,
    detect: bool,
) -> Result<(Links, Link), Error> {
    let mut links = Links::open()?;
    let link = need_link(&mut links, ifname)?;
    prepare_families(&link.name, result)?;
    if detect && sysctl::has_ipv6() {
        sysctl::set(&format!("ipv6/conf/{ifname}/enhanced_dad"), "1")?;
        sysctl::set(&format!("ipv6/conf/{ifname}/accept_dad"), "1")?;
    }
    let addresses: Vec<Cidr> = result.ips.iter().map(|ip| ip.address).collect();
    links.configure(&link, &addresses, detect, &routes(&link, result))?;
    Ok((links, link))
}

/// Settings of a link that is to get the result's addresses.
pub fn prepare_families(link: &str, result: &CniResult) -> Result<(), Error> {
    // Neighbours learn at once that an address has moved to another Ethernet address.
    if result.ips.iter().any(|ip| ip.address.is_ipv4()) {
        sysctl::set(&format!("ipv4/conf/{link}/arp_notify"), "1")?;
    }
    if result.ips.iter().any(|ip| !ip.address.is_ipv4()) {
        prepare_ipv6(link)?;
        sysctl::set(&format!("ipv6/conf/{link}/ndisc_notify"), "1")?;
    }
    Ok(())
}

/// Readies a link of this thread's namespace, not yet up or still without carrier, for addresses
/// that are given to it.
pub fn prepare_ipv6(link: &str) -> Result<(), Error> {
    let key = |setting| format!("ipv6/conf/{link}/{setting}");
    sysctl::set(&key("disable_ipv6"), "0")?;
    // No neighbour may add addresses or routes, neither to the host (CVE-2020-10749) nor to a
    // container (CVE-2020-13401).
    sysctl::set(&key("accept_ra"), "0")?;
    // The link-local address works at once as well. While it is tentative the kernel asks for no
    // neighbour on behalf of forwarded packets: the first two seconds of a bridge.
    sysctl::set(&key("accept_dad"), "0")
}

/// The result's routes, each by its own gateway or that of the first address of its family.
pub fn routes(link: &Link, result: &CniResult) -> Vec<NewRoute> {
    let default_gateway = |v4| {
        let mut of_family = result.ips.iter().filter(|ip| ip.address.is_ipv4() == v4);
        of_family.find_map(|ip: &IpConfig| ip.gateway)
    };
    let routes = result.routes.iter().map(|route| NewRoute {
        gateway: route.gw.or_else(|| default_gateway(route.dst.is_ipv4())),
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
        scope: route.scope,
        ..NewRoute::to(route.dst, link.index)
    });
    routes.collect()
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
    let told = previous
        .interfaces
        .iter()
        .find(|i| i.name == ifname && !i.sandbox.is_empty());
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

/// DEL of a link inside. `undo`: only one that an ADD of ours made, not another's of the name. A
/// namespace that has gone took its links with it.
pub fn delete_inside(request: &Request<'_>, kind: &str, undo: bool) -> Result<(), Error> {
    let Some(inside) = netns::open_if_there(request.netns)? else {
        return Ok(());
    };
    let owner = request.owner();
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        clear_leftovers(&mut links, &owner.veth_name(), &owner.to_string())?;
        match links.by_name(&owner.ifname)? {
            Some(link) if !undo && link.kind == kind => links.delete(&link),
            _ => Ok(()),
        }
    })
}

/// The first of these that names an Ethernet address: the order in which the reference plugins
/// let one way of asking overrule another.
pub fn asked_mac(ways: &[Option<&str>]) -> Result<Option<Mac>, Error> {
    let Some(text) = ways.iter().copied().flatten().find(|t| !t.is_empty()) else {
        return Ok(None);
    };
    match crate::link::parse_mac(text) {
        Some(mac) => Ok(Some(mac)),
        None => Err(Error::Invalid {
            what: "MAC address",
            value: text.chars().take(64).collect(),
            reason: "is no unicast Ethernet address".into(),
        }),
    }
}

/// What a runtime asks of every plugin that makes a link.
#[derive(Default, Deserialize)]
pub struct Asked {
    #[serde(default, rename = "runtimeConfig")]
    runtime: AskedMac,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: AskedMac,
}

#[derive(Default, Deserialize)]
struct AskedMac {
    mac: Option<String>,
}

impl Asked {
    /// By capability, else by `args.cni.mac`, else by `MAC` of CNI_ARGS, else by `own`, a key of
    /// the plugin's.
    pub fn mac(
        request: &Request<'_>,
        plugin: &'static str,
        own: Option<&str>,
    ) -> Result<Option<Mac>, Error> {
        let asked: Self = request.read(plugin)?;
        asked_mac(&[
            asked.runtime.mac.as_deref(),
            asked.args.cni.mac.as_deref(),
            request.arg("MAC"),
            own,
        ])
    }
}

/// `0` is how Go says "not given".
pub fn given<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(d)?.filter(|n| *n != 0))
}

/// An error in a key of a plugin's configuration.
pub fn wrong_key(key: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    let value: String = value.to_string().chars().take(128).collect();
    Error::Invalid {
        what: key,
        value,
        reason: reason.into(),
    }
}
