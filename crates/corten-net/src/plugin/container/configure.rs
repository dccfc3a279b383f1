//! Addresses, routes and settings of a link.

use std::time::{Duration, Instant};

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, IpConfig};
use rustix::io::Errno;

use super::check::need_link;
use crate::Error;
use crate::link::{Link, Links, NewRoute};
use crate::sysctl;

/// How long a namespace may take to die.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sets the link of the thread's namespace up.
pub fn set_up(ifname: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    let link = need_link(&mut links, ifname)?;
    links.set_up(&link)
}

/// Inside the container's namespace: addresses, up, routes. Returns the link, and the connection
/// to its namespace. `detect` has the kernel look for others with the same address (IPv6), which
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
    let routes = routes(&link, result);
    let patience = Instant::now() + PATIENCE;
    loop {
        match links.configure(&link, &addresses, detect, &routes) {
            Ok(()) => return Ok((links, link)),
            // A macvlan of the same Ethernet address is up on its master: that of the same container
            // before, most likely, whose namespace the kernel has not yet come to take down.
            Err(error) if is_busy(&error) && Instant::now() < patience => {
                for address in &addresses {
                    links.delete_address(&link, *address)?;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_busy(error: &Error) -> bool {
    let busy = [Some(Errno::ADDRINUSE), Some(Errno::BUSY)];
    matches!(error, Error::Netlink { source, .. } if busy.contains(&source.errno()))
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
