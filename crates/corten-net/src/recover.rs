//! What a network still holds for containers, whoever left it there, and freeing it.
//!
//! Each thing names its owner by itself (alias, file, map element), so nothing here needs the
//! engine's database: the engine compares the owners with the containers that it knows.

mod reload;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use corten_spec::cni::{NetworkConfigList, Protocol};

use crate::Error;
use crate::address::Store;
use crate::firewall::Firewall;
use crate::link::{Link, Links};
use crate::network::Parts;
use crate::owner::Owner;

pub(crate) use reload::reload_others;
pub use reload::{Reloaded, intact, obstacles, reload};

/// Everything that a network holds for containers, each with the container's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub links: Vec<HeldLink>,
    pub addresses: Vec<HeldAddress>,
    pub ports: Vec<HeldPort>,
    pub admissions: Vec<HeldAdmission>,
}

/// A link on the host: a port of the network's bridge, the outer end of a `ptp`, an ifb of
/// `bandwidth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLink {
    pub name: String,
    pub index: u32,
    /// Empty if the link does not say.
    pub container_id: String,
    pub ifname: String,
}

/// A reservation of host-local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAddress {
    pub address: IpAddr,
    pub container_id: String,
    pub ifname: String,
}

/// A published port: an element of the nftables maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPort {
    /// The host address is unspecified (`0.0.0.0`, `::`) for all.
    pub host: SocketAddr,
    pub protocol: Protocol,
    pub target: SocketAddr,
    pub container_id: String,
    pub ifname: String,
}

/// What the plugin `firewall` let pass, or the guard of a bridge's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAdmission {
    /// In words: `the admission of 10.79.0.2`.
    pub what: String,
    pub container_id: String,
    pub ifname: String,
}

impl Holdings {
    /// The ids of all containers that something is held for.
    pub fn containers(&self) -> BTreeSet<&str> {
        let links = self.links.iter().map(|l| l.container_id.as_str());
        let addresses = self.addresses.iter().map(|a| a.container_id.as_str());
        let ports = self.ports.iter().map(|p| p.container_id.as_str());
        let admissions = self.admissions.iter().map(|a| a.container_id.as_str());
        links
            .chain(addresses)
            .chain(ports)
            .chain(admissions)
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.containers().is_empty()
    }
}

/// Lists what the network holds. A link whose namespace has just died may still be among it for some
/// milliseconds after its DEL: the kernel deletes it with the namespace.
pub fn holdings(list: &NetworkConfigList) -> Result<Holdings, Error> {
    let mut all = Holdings::default();
    let mut links = Links::open()?;
    for plugin in &list.plugins {
        let parts = Parts::of(list, plugin);
        for link in candidates(&mut links, &parts)? {
            let owner = Owner::parse(&link.alias);
            // A bridge's ports are the network's, whoever made them; of other links, those that
            // say so. The gateway of a VLAN is nobody's.
            let ours = match (&parts.bridge, &owner) {
                (Some(_), None) => true,
                (Some(_), Some(owner)) => !owner.container_id.is_empty(),
                (None, Some(owner)) => owner.network == list.name,
                (None, None) => false,
            };
            if !ours {
                continue;
            }
            let (container_id, ifname) =
                owner.map_or_else(Default::default, |o| (o.container_id, o.ifname));
            all.links.push(HeldLink {
                name: link.name,
                index: link.index,
                container_id,
                ifname,
            });
        }
        if let Some((data_dir, network)) = &parts.store
            && let Some(store) = Store::open_existing(data_dir, network)?
        {
            all.addresses
                .extend(store.list()?.into_iter().map(|r| HeldAddress {
                    address: r.address,
                    container_id: r.container_id,
                    ifname: r.ifname,
                }));
        }
        if matches!(&*plugin.kind, "bridge" | "firewall") {
            let admissions = Firewall::open(&parts.table)?.admissions()?;
            for (what, owner) in admissions {
                let admission = HeldAdmission {
                    what,
                    container_id: owner.container_id,
                    ifname: owner.ifname,
                };
                // Two plugins of a list share a table.
                if owner.network == list.name && !all.admissions.contains(&admission) {
                    all.admissions.push(admission);
                }
            }
        }
        if plugin.kind == "portmap" {
            let published = Firewall::open(&parts.table)?.published()?;
            let ours = published
                .into_iter()
                .filter(|p| p.owner.network == list.name);
            all.ports.extend(ours.map(|p| HeldPort {
                host: p.host,
                protocol: p.protocol,
                target: p.target,
                container_id: p.owner.container_id,
                ifname: p.owner.ifname,
            }));
        }
    }
    Ok(all)
}

/// Frees all that the network holds for one container; nothing held is a success. For a
/// container that is dead or unknown; a live one is taken off by [`crate::cni::Caller::del`].
pub fn free(list: &NetworkConfigList, container_id: &str) -> Result<(), Error> {
    for plugin in list.plugins.iter().rev() {
        let parts = Parts::of(list, plugin);
        let held = |o: &Owner| o.network == list.name && o.is_container(container_id);
        match &*plugin.kind {
            "portmap" => {
                Firewall::open(&parts.table)?.withdraw(|p| held(&p.owner))?;
            }
            "firewall" => Firewall::open(&parts.table)?.expel(held)?,
            "bridge" => Firewall::open(&parts.table)?.unguard(held)?,
            _ => {}
        }
        free_links(&parts, &list.name, container_id)?;
        if let Some((data_dir, network)) = &parts.store
            && let Some(store) = Store::open_existing(data_dir, network)?
        {
            store.release_if(|r| r.container_id == container_id)?;
        }
    }
    Ok(())
}

/// Takes out of nf_tables what serves no link of this host any more: of a bridge that somebody has deleted, and of links that were one
/// container's each. What a running container uses is not touched, whoever attached it.
pub fn gather(list: &NetworkConfigList) -> Result<(), Error> {
    for plugin in &list.plugins {
        let parts = Parts::of(list, plugin);
        match (&parts.bridge, parts.link_kind) {
            (Some(bridge), _) if Links::open()?.by_name(bridge)?.is_none() => {
                let mut firewall = Firewall::open(&parts.table)?;
                firewall.dismiss_link(bridge)?;
                firewall.gather(&parts.subnets)?;
            }
            (None, Some("veth")) => Firewall::open(&parts.table)?.gather(&parts.subnets)?,
            _ => {}
        }
    }
    Ok(())
}

fn free_links(parts: &Parts, network: &str, container_id: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    for link in candidates(&mut links, parts)? {
        let held = Owner::parse(&link.alias)
            .is_some_and(|o| o.network == network && o.is_container(container_id));
        if held {
            links.delete(&link)?;
            // What `portmap` let it do; a port of a bridge has nothing there.
            if parts.link_kind == Some("veth") {
                Firewall::open(&parts.table)?.dismiss_link(&link.name)?;
            }
        }
    }
    if parts.link_kind == Some("veth") {
        Firewall::open(&parts.table)?.gather(&parts.subnets)?;
    }
    Ok(())
}

/// The links of the host that may be a container's by this plugin.
fn candidates(links: &mut Links, parts: &Parts) -> Result<Vec<Link>, Error> {
    match (&parts.bridge, parts.link_kind) {
        (Some(bridge), _) => match links.by_name(bridge)? {
            Some(bridge) => links.list(Some(bridge.index)),
            None => Ok(Vec::new()),
        },
        (None, Some(kind)) => {
            let mut all = links.list(None)?;
            all.retain(|l| l.kind == kind);
            Ok(all)
        }
        (None, None) => Ok(Vec::new()),
    }
}
