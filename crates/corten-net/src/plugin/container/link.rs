//! The container's link: made, with its addresses, and deleted.

use std::fs::File;
use std::os::fd::AsRawFd;

use corten_spec::cni::{CniResult, Interface};

use super::super::Request;
use super::check::{Told, need_link};
use super::configure::{configure_with, set_up};
use super::keys::Shared;
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Change, Link, Links, NewLink, mac_text, netns};
use crate::owner::Owner;

/// Where a new link's addresses come from.
pub enum Source<'a> {
    Ipam(&'a Shared),
    /// They were given to another link, and are this one's.
    Given(CniResult),
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
    let (_, link) = netns::inside(&inside, request.netns, || {
        configure_with(ifname, &result, false)
    })?;
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

/// DEL of a link inside. `undo`: only one that an ADD of ours made, not another's of the name. A
/// namespace that has gone took its links with it.
pub fn delete_inside(request: &Request<'_>, kind: &str, undo: bool) -> Result<(), Error> {
    let Some(inside) = netns::open_if_there(request.netns)? else {
        return Ok(());
    };
    let (owner, told) = (request.owner(), Told::of(request));
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        clear_leftovers(&mut links, &owner.veth_name(), &owner.to_string())?;
        match undo {
            true => Ok(()),
            false => delete_named(&told, &mut links, kind),
        }
    })
}

/// Deletes the container's link by its name and kind, in the thread's namespace: for what another
/// implementation made, whose own names for it cannot be known.
pub fn delete_named(told: &Told, links: &mut Links, kind: &str) -> Result<(), Error> {
    match links.by_name(&told.ifname)? {
        Some(link) if link.kind == kind && told.may_be(links, &link)? => links.delete(&link),
        _ => Ok(()),
    }
}
