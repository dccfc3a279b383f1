//! What a network still holds for containers, whoever left it there, and freeing it.
//!
//! Each thing names its owner by itself (alias, file, map element), so nothing here needs the
//! engine's database: the engine compares the owners with the containers that it knows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use corten_spec::cni::{NetworkConfigList, Protocol};

use crate::Error;

/// Everything that a network holds for containers, each with the container's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub links: Vec<HeldLink>,
    pub addresses: Vec<HeldAddress>,
    pub ports: Vec<HeldPort>,
}

/// A host-side veth on the network's bridge.
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

impl Holdings {
    /// The ids of all containers that something is held for.
    pub fn containers(&self) -> BTreeSet<&str> {
        let links = self.links.iter().map(|l| l.container_id.as_str());
        let addresses = self.addresses.iter().map(|a| a.container_id.as_str());
        let ports = self.ports.iter().map(|p| p.container_id.as_str());
        links.chain(addresses).chain(ports).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.addresses.is_empty() && self.ports.is_empty()
    }
}

/// Lists what the network holds.
pub fn holdings(list: &NetworkConfigList) -> Result<Holdings, Error> {
    let _ = list;
    unimplemented!()
}

/// Frees all that the network holds for one container; nothing held is a success. For a
/// container that is dead or unknown; a live one is taken off by [`crate::cni::Caller::del`].
pub fn free(list: &NetworkConfigList, container_id: &str) -> Result<(), Error> {
    let _ = (list, container_id);
    unimplemented!()
}
