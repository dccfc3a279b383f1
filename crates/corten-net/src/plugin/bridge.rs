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
//! forwards at once, instead of when the kernel's link watch runs. An IPAM that speaks through the
//! link (`dhcp`) is asked once the port is up.
//!
//! The bridge stays when its last container goes; [`crate::network::remove`] takes it away.

mod attach;
mod config;
mod gateway;
mod wall;

use corten_spec::cni::CniResult;

use super::container::{
    Shared, Told, check_inside, delete_named, need_link, or_undo, same, same_detail,
};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Link, Links, mac_text, netns};
use crate::owner::Owner;
pub use attach::clear_leftover;
use config::Config;
pub use config::refuse_iptables;
pub use wall::wanted;

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let shared = Shared::read(request, "bridge")?;
    let config = Config::read(request, &shared)?;
    match request.verb {
        Verb::Add => or_undo(
            request,
            || attach::add(request, &config, &shared),
            |request| del(request, &shared, true),
        )
        .map(Some),
        Verb::Del => del(request, &shared, false).map(|()| None),
        Verb::Check => check(request, &config, &shared).map(|()| None),
        Verb::Gc => gc(request, &config, &shared).map(|()| None),
        Verb::Status => shared.forward(request).map(|()| None),
    }
}

/// `undo`: what an ADD of ours made, not another implementation's link of the same name.
fn del(request: &Request<'_>, shared: &Shared, undo: bool) -> Result<(), Error> {
    shared.release(request, || delete_pair(request, undo))
}

fn delete_pair(request: &Request<'_>, undo: bool) -> Result<(), Error> {
    failpoint!("bridge.del.address");
    wall::release(request)?;
    failpoint!("bridge.del.unguarded");
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
    let Some(inside) = inside.filter(|_| !undo) else {
        return Ok(());
    };
    let told = Told::of(request);
    netns::inside(&inside, request.netns, || {
        delete_named(&told, &mut Links::open()?, "veth")
    })
}

fn check(request: &Request<'_>, config: &Config, shared: &Shared) -> Result<(), Error> {
    shared.forward(request)?;
    let previous = request.need_previous("bridge")?;
    wall::check(request, &previous)?;
    let mut links = Links::open()?;
    let bridge = need_link(&mut links, &config.bridge)?;
    same(&bridge, "kind", &bridge.kind, &"bridge".to_owned())?;
    // Somebody else may have turned it on as well.
    if config.promisc_mode {
        same(&bridge, "promiscuity", &bridge.promisc, &true)?;
    }
    let host_ends = previous.interfaces.iter().filter(|i| i.sandbox.is_empty());
    for told in host_ends {
        let link = need_link(&mut links, &told.name)?;
        if !told.mac.is_empty() {
            let mac = link.mac.map(mac_text).unwrap_or_default();
            same(&link, "address", &mac, &told.mac.to_ascii_lowercase())?;
        }
        if link.index != bridge.index && told.name != config.gateway_link() {
            check_port(&link, &bridge, config)?;
        }
    }
    check_inside(request, &previous, Some("veth"), |_| Ok(()))
}

fn check_port(port: &Link, bridge: &Link, config: &Config) -> Result<(), Error> {
    // Links of other plugins of the list may be among the interfaces.
    if port.kind != "veth" {
        return Ok(());
    }
    if port.master != Some(bridge.index) {
        return Err(Error::Mismatch {
            what: format!("link {}", port.name),
            found: "no port of the bridge".into(),
            wanted: format!("a port of {}", bridge.name),
        });
    }
    same_detail(port, "hairpin mode", |d| d.hairpin, config.hairpin_mode)?;
    match config.port_isolation {
        true => same_detail(port, "isolation", |d| d.isolated, true),
        false => Ok(()),
    }
}

fn gc(request: &Request<'_>, config: &Config, shared: &Shared) -> Result<(), Error> {
    let valid = request.valid_attachments()?;
    shared.forward(request)?;
    wall::collect(request, &valid)?;
    let mut links = Links::open()?;
    let Some(bridge) = links.by_name(&config.bridge)? else {
        return wall::gather(request);
    };
    for link in links.list(Some(bridge.index))? {
        let stale = Owner::parse(&link.alias).is_some_and(|o| !request.is_valid(&valid, &o));
        if stale {
            links.delete(&link)?;
        }
    }
    Ok(())
}
