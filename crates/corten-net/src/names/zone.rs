//! Which names there are on which network, and what a container that is on some of them gets to
//! hear. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use corten_spec::ContainerId;

use super::packet::{Data, Name, Query, kind, reverse};
use super::registration::{Membership, Registration};

/// The names of all networks.
#[derive(Debug, Default)]
pub struct Zone {
    networks: HashMap<String, Network>,
}

#[derive(Debug, Default)]
struct Network {
    /// In the order in which containers came.
    names: HashMap<Name, Vec<Entry<IpAddr>>>,
    pointers: HashMap<IpAddr, Vec<Entry<Name>>>,
}

#[derive(Debug)]
struct Entry<T> {
    owner: ContainerId,
    value: T,
}

/// What a network has for a query.
enum Found<'z> {
    Addresses(&'z [Entry<IpAddr>]),
    Pointer(&'z Name),
}

impl Zone {
    /// Adds a container's names. Those that DNS cannot express are left out: [`super::Resolver`]
    /// has refused them before.
    pub fn insert(&mut self, registration: &Registration) {
        for membership in &registration.networks {
            let network = self.networks.entry(membership.network.clone()).or_default();
            network.insert(&registration.container, membership);
        }
    }

    /// Removes a container's names.
    pub fn remove(&mut self, registration: &Registration) {
        for membership in &registration.networks {
            if let Some(network) = self.networks.get_mut(&membership.network) {
                network.remove(&registration.container, membership);
                if network.names.is_empty() && network.pointers.is_empty() {
                    self.networks.remove(&membership.network);
                }
            }
        }
    }

    /// Hands the records for a query of a container on `own` networks to `respond`; returns
    /// `false`, without a call, if none of these networks knows the name. `turn` says which of
    /// several addresses comes first.
    ///
    /// The first network with an address of the family answers. A name without any gives no
    /// records: it exists, and asking somebody else for it would be wrong.
    pub fn answer(
        &self,
        own: &[Membership],
        query: &Query<'_>,
        turn: usize,
        respond: impl FnOnce(&mut dyn Iterator<Item = Data<'_>>),
    ) -> bool {
        let address = reverse(query.name());
        let mut known = false;
        for membership in own {
            let Some(network) = self.networks.get(&membership.network) else {
                continue;
            };
            match network.find(query.name(), address) {
                None => {}
                Some(Found::Pointer(name)) => {
                    let wanted = query.wants(kind::PTR).then_some(Data::Ptr(name));
                    respond(&mut wanted.into_iter());
                    return true;
                }
                Some(Found::Addresses(entries)) => {
                    known = true;
                    if entries.iter().any(|e| record(query, e.value).is_some()) {
                        let start = turn % entries.len();
                        let rotated = entries[start..].iter().chain(&entries[..start]);
                        respond(&mut rotated.filter_map(|e| record(query, e.value)));
                        return true;
                    }
                }
            }
        }
        if known {
            respond(&mut std::iter::empty());
        }
        known
    }
}

fn record(query: &Query<'_>, address: IpAddr) -> Option<Data<'static>> {
    match address {
        IpAddr::V4(a) => query.wants(kind::A).then_some(Data::A(a)),
        IpAddr::V6(a) => query.wants(kind::AAAA).then_some(Data::Aaaa(a)),
    }
}

impl Network {
    fn find(&self, name: &[u8], address: Option<IpAddr>) -> Option<Found<'_>> {
        if let Some(address) = address {
            let first = self.pointers.get(&address)?.first()?;
            return Some(Found::Pointer(&first.value));
        }
        self.names.get(name).map(|e| Found::Addresses(e))
    }

    fn insert(&mut self, owner: &ContainerId, membership: &Membership) {
        for name in &membership.names {
            for name in both(name, &membership.network).into_iter().flatten() {
                let entries = self.names.entry(name).or_default();
                for value in &membership.addresses {
                    let there = |e: &Entry<IpAddr>| e.owner == *owner && e.value == *value;
                    if !entries.iter().any(there) {
                        entries.push(Entry {
                            owner: owner.clone(),
                            value: *value,
                        });
                    }
                }
            }
        }
        let first = membership.names.first();
        let Some([_, Some(name)]) = first.map(|n| both(n, &membership.network)) else {
            return;
        };
        for address in &membership.addresses {
            self.pointers.entry(*address).or_default().push(Entry {
                owner: owner.clone(),
                value: name.clone(),
            });
        }
    }

    fn remove(&mut self, owner: &ContainerId, membership: &Membership) {
        for name in &membership.names {
            for name in both(name, &membership.network).into_iter().flatten() {
                drop_owner(&mut self.names, &name, owner);
            }
        }
        for address in &membership.addresses {
            drop_owner(&mut self.pointers, address, owner);
        }
    }
}

/// The name, alone and with the network's after it.
fn both(name: &str, network: &str) -> [Option<Name>; 2] {
    [Name::parse(name), Name::parse(&format!("{name}.{network}"))]
}

fn drop_owner<K: Eq + std::hash::Hash, T>(
    map: &mut HashMap<K, Vec<Entry<T>>>,
    key: &K,
    owner: &ContainerId,
) {
    if let Some(entries) = map.get_mut(key) {
        entries.retain(|e| e.owner != *owner);
        if entries.is_empty() {
            map.remove(key);
        }
    }
}
