//! `bridge`: a veth pair from the container to a bridge of the host.
//!
//! ```text
//!   container                          host
//!     eth0 ───────── veth1a2b3c4d ── corten0 (gateway's addresses) ── routing, masquerade
//! ```
//!
//! ADD: addresses from IPAM; the bridge, if it is missing; the pair, the container's end born in
//! its namespace; addresses, routes and "up" inside, in one system call; then the port up. The
//! inner end goes up first, so that the port has its carrier when it comes up and the bridge
//! forwards at once, instead of when the kernel's link watch runs.
//!
//! The bridge stays when its last container goes; [`crate::network::remove`] takes it away.

mod gateway;
mod wall;

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Interface};
use serde::Deserialize;
use std::os::fd::AsRawFd;

use super::{Request, Verb, delegate};
use crate::Error;
use crate::link::{Link, Links, NewRoute, NewVeth, mac_text, netns, parse_mac};
use crate::owner::Owner;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    mtu: Option<u32>,
    #[serde(default)]
    hairpin_mode: bool,
    ipam: Option<Ipam>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    // Known, and refused unless they ask for nothing.
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    vlan: u32,
    #[serde(default)]
    vlan_trunk: Vec<serde_json::Value>,
    #[serde(default)]
    enabledad: bool,
    #[serde(default)]
    disable_container_interface: bool,
    #[serde(default)]
    port_isolation: bool,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
struct RuntimeConfig {
    mac: Option<String>,
}

fn default_bridge() -> String {
    "cni0".into()
}

impl Config {
    fn read(request: &Request<'_>) -> Result<Self, Error> {
        let mut config: Self = request.read("bridge")?;
        corten_spec::cni::check_ifname(&config.bridge)?;
        config.is_gateway |= config.is_default_gateway;
        // A network with nothing but layer 2 has `"ipam": {}`.
        config.ipam = config.ipam.filter(|i| !i.kind.is_empty());
        let refused = [
            ("forceAddress", config.force_address),
            ("promiscMode", config.promisc_mode),
            ("vlan", config.vlan != 0),
            ("vlanTrunk", !config.vlan_trunk.is_empty()),
            ("enabledad", config.enabledad),
            (
                "disableContainerInterface",
                config.disable_container_interface,
            ),
            ("portIsolation", config.port_isolation),
        ];
        match refused.iter().find(|(_, set)| *set) {
            None => Ok(config),
            Some((key, _)) => Err(Error::Invalid {
                what: "the key of plugin bridge",
                value: (*key).into(),
                reason: "is set to what this plugin does not support".into(),
            }),
        }
    }

    fn delegate(&self, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
        match &self.ipam {
            Some(ipam) => delegate(&ipam.kind, request),
            None => Ok(None),
        }
    }
}

pub use wall::wanted;

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config = Config::read(request)?;
    match request.verb {
        Verb::Add => add(request, &config).map(Some),
        Verb::Del => del(request, &config).map(|()| None),
        Verb::Check => check(request, &config).map(|()| None),
        Verb::Gc => gc(request, &config).map(|()| None),
        Verb::Status => config.delegate(request).map(|_| None),
    }
}

fn add(request: &Request<'_>, config: &Config) -> Result<CniResult, Error> {
    let from_ipam = config.delegate(request)?.unwrap_or_default();
    attach(request, config, from_ipam).map_err(|error| {
        // The caller will ask for DEL as well (section 4 of the specification), but a caller that
        // dies before must not cost an address. ADD's own failure is the one worth telling.
        let undo = Request {
            verb: Verb::Del,
            ..*request
        };
        match del(&undo, config) {
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

/// Everything after IPAM.
fn attach(
    request: &Request<'_>,
    config: &Config,
    mut result: CniResult,
) -> Result<CniResult, Error> {
    let inside = netns::open(request.netns)?;
    let ifname = request.ifname;
    let gateways = gateway::complete(&mut result, config.is_gateway, config.is_default_gateway);
    let mac = match &config.runtime_config.mac {
        None => request.owner().mac("container"),
        Some(text) => parse_mac(text).ok_or_else(|| Error::Invalid {
            what: "MAC address",
            value: text.chars().take(64).collect(),
            reason: "is no unicast Ethernet address".into(),
        })?,
    };

    let mut links = Links::open()?;
    let bridge = gateway::ensure_bridge(&mut links, &config.bridge, config.mtu, &gateways)?;
    let owner = request.owner();
    let host_end = owner.veth_name();
    clear_leftover(&mut links, &host_end, &owner)?;
    let host_mac = owner.mac("host");
    links.add_veth(&NewVeth {
        name: &host_end,
        alias: &owner.to_string(),
        mac: host_mac,
        mtu: config.mtu,
        master: bridge.index,
        peer_name: ifname,
        peer_mac: mac,
        peer_netns: inside.as_raw_fd(),
        ipv6: gateways.iter().any(|g| !g.is_ipv4()),
    })?;
    let (mut within, link) = netns::inside(&inside, request.netns, || configure(ifname, &result))?;
    links.set_port_up(&host_end, config.hairpin_mode)?;
    within.settle(link.index)?;
    links.settle(bridge.index)?;
    let interface = |name: &str, mac, mtu, sandbox: String| Interface {
        name: name.into(),
        mac: mac_text(mac),
        mtu: Some(mtu),
        sandbox,
        ..Default::default()
    };
    let bridge_mac = bridge.mac.unwrap_or_default();
    let sandbox = request.netns.display().to_string();
    result.interfaces = vec![
        interface(&bridge.name, bridge_mac, bridge.mtu, String::new()),
        interface(&host_end, host_mac, link.mtu, String::new()),
        interface(ifname, mac, link.mtu, sandbox),
    ];
    for ip in &mut result.ips {
        ip.interface = Some(2);
    }
    wall::admit(request, &result)?;
    Ok(result)
}

/// A pair that an earlier, killed ADD of the same owner left. One of another owner's (two texts
/// with the same hash) stays, and the kernel will refuse the name.
fn clear_leftover(links: &mut Links, name: &str, owner: &Owner) -> Result<(), Error> {
    match links.by_name(name)? {
        Some(link) if link.alias == owner.to_string() => links.delete(&link),
        _ => Ok(()),
    }
}

/// Inside the container's namespace: addresses, up, routes. Returns the link, and the connection
/// to its namespace.
fn configure(ifname: &str, result: &CniResult) -> Result<(Links, Link), Error> {
    let mut links = Links::open()?;
    let link = links.by_name(ifname)?.ok_or_else(|| missing(ifname))?;
    if result.ips.iter().any(|ip| !ip.address.is_ipv4()) {
        gateway::prepare_ipv6(&link.name)?;
    }
    let addresses: Vec<Cidr> = result.ips.iter().map(|ip| ip.address).collect();
    let routes: Vec<NewRoute> = result
        .routes
        .iter()
        .map(|route| {
            let of_family =
                |ip: &&corten_spec::cni::IpConfig| ip.address.is_ipv4() == route.dst.is_ipv4();
            let first = result.ips.iter().find(of_family);
            NewRoute {
                dst: route.dst,
                gateway: route.gw.or(first.and_then(|ip| ip.gateway)),
                link: link.index,
                mtu: route.mtu,
                advmss: route.advmss,
                priority: route.priority,
                table: route.table,
                scope: route.scope,
                onlink: false,
            }
        })
        .collect();
    links.configure(&link, &addresses, &routes)?;
    Ok((links, link))
}

fn missing(name: &str) -> Error {
    Error::Mismatch {
        what: format!("link {name}"),
        found: "missing".into(),
        wanted: "there".into(),
    }
}

fn del(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    // The address first: a failure below must not keep it.
    config.delegate(request)?;
    wall::release(request)?;
    let owner = request.owner();
    let mut links = Links::open()?;
    let inside = netns::open_if_there(request.netns)?;
    if let Some(link) = links.by_name(&owner.veth_name())?
        && link.alias == owner.to_string()
    {
        return match inside {
            Some(_) => links.delete(&link),
            // The kernel deletes the pair with the dying namespace, in a thread of its own; to do
            // it here would wait for several RCU grace periods (15 ms). Should anybody hold the
            // namespace, it is cut off all the same, and recovery finds the rest.
            None => links.set_down(&link),
        };
    }
    // Another implementation's pair has a name that we cannot know: look from the inside.
    let Some(inside) = inside else {
        return Ok(());
    };
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        match links.by_name(request.ifname)? {
            Some(link) if link.kind == "veth" => links.delete(&link),
            _ => Ok(()),
        }
    })
}

fn check(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    config.delegate(request)?;
    let previous = request.need_previous("bridge")?;
    wall::check(request, &previous)?;
    let mut links = Links::open()?;
    let bridge = links
        .by_name(&config.bridge)?
        .ok_or_else(|| missing(&config.bridge))?;
    let host_ends = previous.interfaces.iter().filter(|i| i.sandbox.is_empty());
    for interface in host_ends {
        let link = links
            .by_name(&interface.name)?
            .ok_or_else(|| missing(&interface.name))?;
        if link.index != bridge.index && link.master != Some(bridge.index) {
            return Err(Error::Mismatch {
                what: format!("link {}", link.name),
                found: "no port of the bridge".into(),
                wanted: format!("a port of {}", bridge.name),
            });
        }
    }
    let inside = netns::open(request.netns)?;
    let ifname = request.ifname;
    netns::inside(&inside, request.netns, || check_inside(ifname, &previous))
}

fn check_inside(ifname: &str, previous: &CniResult) -> Result<(), Error> {
    let mut links = Links::open()?;
    let link: Link = links.by_name(ifname)?.ok_or_else(|| missing(ifname))?;
    let there = links.addresses(&link)?;
    let gone = |what: String| Error::Mismatch {
        what,
        found: "missing".into(),
        wanted: format!("on {ifname}"),
    };
    for ip in previous.container_ips() {
        if !there.contains(&ip.address) {
            return Err(gone(format!("address {}", ip.address)));
        }
    }
    for route in &previous.routes {
        let dst = Some(route.dst.network()).filter(|d| d.prefix() != 0);
        let there = links.routes(route.dst.is_ipv4())?;
        if !there.iter().any(|r| r.dst == dst && r.link == link.index) {
            return Err(gone(format!("the route to {}", route.dst)));
        }
    }
    Ok(())
}

fn gc(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    let valid = request.valid_attachments()?;
    config.delegate(request)?;
    wall::collect(request, &valid)?;
    let mut links = Links::open()?;
    let Some(bridge) = links.by_name(&config.bridge)? else {
        return Ok(());
    };
    for link in links.list(Some(bridge.index))? {
        let stale = Owner::parse(&link.alias).is_some_and(|o| !request.is_valid(&valid, &o));
        if stale {
            links.delete(&link)?;
        }
    }
    Ok(())
}
