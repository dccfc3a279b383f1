//! `sbr`: what the container sends from an address of this link is routed by a table of its own, so
//! that answers leave by the link that the question came through.
//!
//! ```text
//!   rule: from 10.1.0.5 lookup 100        table 100: default via 10.1.0.1, 10.1.0.0/24 dev net1
//! ```

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, IpConfig};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;

use super::container::{need_link, wrong_key};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Link, Links, NewRoute, RT_SCOPE_LINK, RT_TABLE_MAIN, RouteCopy, Rule, netns};

const PATIENCE: Duration = Duration::from_secs(2);
/// The first table that is given out, as in the reference plugin.
const FIRST_TABLE: u32 = 100;
/// `local`, `main`, `default`.
const KERNELS_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    /// Only the rules are made, to this table.
    table: Option<u32>,
    /// In the place of those of prevResult: at most one of each family.
    #[serde(default)]
    gateways: Vec<IpAddr>,
    #[serde(default)]
    add_source_hints: bool,
}

impl Config {
    fn read(request: &Request<'_>) -> Result<Self, Error> {
        let config: Self = request.read("sbr")?;
        for v4 in [true, false] {
            let of_family: Vec<&IpAddr> = config
                .gateways
                .iter()
                .filter(|g| g.is_ipv4() == v4)
                .collect();
            if let [_, second, ..] = of_family.as_slice() {
                let reason = "is the second of its family";
                return Err(wrong_key("gateways", second, reason));
            }
        }
        match config.table {
            Some(0) => Err(wrong_key("table", 0, "is no table")),
            _ => Ok(config),
        }
    }

    /// The configuration's gateway for an address, which comes before that of a route.
    fn given(&self, ip: &IpConfig) -> Option<IpAddr> {
        let same = |g: &&IpAddr| g.is_ipv4() == ip.address.is_ipv4();
        self.gateways.iter().find(same).copied()
    }
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config = Config::read(request)?;
    match request.verb {
        Verb::Add => add(request, &config).map(Some),
        Verb::Del => del(request, &config).map(|()| None),
        Verb::Check => check(request, &config).map(|()| None),
        Verb::Gc => request.valid_attachments().map(|_| None),
        Verb::Status => Ok(None),
    }
}

/// The addresses of this link.
fn addresses(request: &Request<'_>, previous: &CniResult) -> Vec<IpConfig> {
    let ours = |ip: &&IpConfig| {
        let on = ip.interface.and_then(|i| previous.interfaces.get(i));
        on.is_none_or(|i| i.name == request.ifname)
    };
    previous.ips.iter().filter(ours).cloned().collect()
}

fn add(request: &Request<'_>, config: &Config) -> Result<CniResult, Error> {
    let previous = request.need_previous("sbr")?;
    if previous.ips.is_empty() {
        let reason = "has no address in prevResult";
        return Err(wrong_key("the link", request.ifname, reason));
    }
    let ips = addresses(request, &previous);
    let (ifname, path) = (request.ifname, request.netns);
    let inside = netns::open(path)?;
    lock(&inside, path)?;
    netns::inside(&inside, path, || {
        let mut links = Links::open()?;
        let link = need_link(&mut links, ifname)?;
        // Of a killed ADD.
        drop_rules(&mut links, &ips, None)?;
        match config.table {
            Some(table) => ips
                .iter()
                .try_for_each(|ip| links.add_rule(ip.address.address(), table)),
            None => divide(&mut links, &link, &ips, config),
        }
    })?;
    Ok(previous)
}

/// Two at once in a namespace would choose the same table. Whoever is in the namespace can take this
/// lock too and keep it: that is not waited for longer than another ADD would take.
fn lock(inside: &File, path: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(inside, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(source) => {
                return Err(Error::Netns {
                    path: path.into(),
                    source,
                });
            }
        }
    }
}

/// What is there before anything changes.
struct Facts {
    rules: Vec<Rule>,
    routes: Vec<RouteCopy>,
}

impl Facts {
    fn ask(links: &mut Links) -> Result<Self, Error> {
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        for v4 in [true, false] {
            rules.extend(links.rules(v4)?);
            routes.extend(links.route_copies(v4)?);
        }
        Ok(Self { rules, routes })
    }

    /// A table that nobody uses, for each of `count` addresses.
    fn free_tables(&self, count: usize) -> Vec<u32> {
        let free = |table: &u32| {
            !KERNELS_TABLES.contains(table)
                && !self.rules.iter().any(|r| r.table == *table)
                && !self.routes.iter().any(|r| r.entry.table == *table)
        };
        (FIRST_TABLE..).filter(free).take(count).collect()
    }

    /// The link's own routes of the main table, but for those that are the kernel's business.
    fn of_link(&self, link: &Link) -> Vec<RouteCopy> {
        let moved = |r: &&RouteCopy| {
            let local = r.entry.dst.is_some_and(|d| !is_unicast(d));
            r.entry.link == link.index && r.entry.table == RT_TABLE_MAIN && !local
        };
        self.routes.iter().filter(moved).cloned().collect()
    }
}

/// Neither link-local nor multicast.
fn is_unicast(dst: Cidr) -> bool {
    match dst.address() {
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unicast_link_local(),
        IpAddr::V4(a) => !a.is_multicast(),
    }
}

/// A table for each address, with the link's routes and a default route in it; then the main table
/// without them.
fn divide(links: &mut Links, link: &Link, ips: &[IpConfig], config: &Config) -> Result<(), Error> {
    let facts = Facts::ask(links)?;
    let routes = facts.of_link(link);
    for (ip, table) in ips.iter().zip(facts.free_tables(ips.len())) {
        links.add_rule(ip.address.address(), table)?;
        failpoint!("sbr.add.rule");
        let given = config.given(ip).is_some();
        let own = |r: &&RouteCopy| belongs(r, ip) && !(given && r.entry.dst.is_none());
        for route in routes.iter().filter(own) {
            links.put_route(route, table)?;
        }
        let has_default = routes.iter().filter(own).any(|r| r.entry.dst.is_none());
        if let Some(gateway) = config.given(ip).or(ip.gateway).filter(|_| !has_default) {
            let default = default_route(link, gateway, table);
            links.add_routes(link, default.as_slice())?;
        }
    }
    failpoint!("sbr.add.tables");
    leave_main(links, link, ips, &routes, config)
}

fn default_route(link: &Link, gateway: IpAddr, table: u32) -> Option<NewRoute> {
    let zero = match gateway.is_ipv4() {
        true => IpAddr::from([0; 4]),
        false => IpAddr::from([0u8; 16]),
    };
    Cidr::new(zero, 0).map(|dst| NewRoute {
        gateway: Some(gateway),
        table: Some(table),
        ..NewRoute::to(dst, link.index)
    })
}

/// Whether a route goes into the table of an address: one by a gateway or from a source of its
/// subnet, or one that names neither.
fn belongs(route: &RouteCopy, ip: &IpConfig) -> bool {
    let v4 = |a: &IpAddr| a.is_ipv4() == ip.address.is_ipv4();
    let family = match route.entry.dst {
        Some(dst) => v4(&dst.address()),
        None => route.entry.gateway.as_ref().is_none_or(v4),
    };
    let (source, gateway) = (route.source, route.entry.gateway);
    let inside = |a: Option<IpAddr>| a.is_some_and(|a| ip.address.contains(a));
    family && (inside(source) || inside(gateway) || (source.is_none() && gateway.is_none()))
}

fn leave_main(
    links: &mut Links,
    link: &Link,
    ips: &[IpConfig],
    routes: &[RouteCopy],
    config: &Config,
) -> Result<(), Error> {
    for route in routes {
        let subnet = config.add_source_hints && route.entry.gateway.is_none();
        if !subnet {
            links.delete_route(route)?;
        }
    }
    if !config.add_source_hints {
        return Ok(());
    }
    for ip in ips {
        let hint = NewRoute {
            scope: ip.address.is_ipv4().then_some(RT_SCOPE_LINK),
            source: Some(ip.address.address()),
            ..NewRoute::to(ip.address.network(), link.index)
        };
        links.add_routes(link, &[hint])?;
    }
    Ok(())
}

/// The rules from these addresses: all, or those to one table.
fn drop_rules(links: &mut Links, ips: &[IpConfig], table: Option<u32>) -> Result<(), Error> {
    for rule in of_sources(links, ips, table)? {
        links.delete_rule(&rule)?;
    }
    Ok(())
}

fn of_sources(links: &mut Links, ips: &[IpConfig], table: Option<u32>) -> Result<Vec<Rule>, Error> {
    let mut all = links.rules(true)?;
    all.extend(links.rules(false)?);
    all.retain(|rule| {
        let ours = |source: Cidr| {
            let mut sources = ips.iter().map(|ip| Cidr::host(ip.address.address()));
            sources.any(|ip| ip == source)
        };
        rule.source.is_some_and(ours) && table.is_none_or(|t| t == rule.table)
    });
    Ok(all)
}

fn del(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    let Some(inside) = netns::open_if_there(request.netns)? else {
        return Ok(());
    };
    let mut ips = match request.previous()? {
        Some(previous) => addresses(request, &previous),
        None => Vec::new(),
    };
    let ifname = request.ifname;
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        if let Some(link) = links.by_name(ifname)? {
            ips.extend(links.addresses(&link)?.into_iter().map(|address| IpConfig {
                interface: None,
                address,
                gateway: None,
            }));
        }
        drop_rules(&mut links, &ips, config.table)
    })
}

/// Each address has its rule.
fn check(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    let previous = request.need_previous("sbr")?;
    let ips = addresses(request, &previous);
    let inside = netns::open(request.netns)?;
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        for ip in &ips {
            let one = std::slice::from_ref(ip);
            if of_sources(&mut links, one, config.table)?.is_empty() {
                return Err(Error::Mismatch {
                    what: format!("the policy rule from {}", ip.address.address()),
                    found: "missing".into(),
                    wanted: "there".into(),
                });
            }
        }
        Ok(())
    })
}
