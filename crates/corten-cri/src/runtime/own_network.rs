//! The pods' network of a node that has none: ours, written once kubelet says which addresses pods have.
//!
//! ```text
//!   pod_cidr ─▶ 10-corten.conflist: corten-pods, bridge corten-pods0      other addresses ─▶ corten-pods-1, bridge corten-pods1, …
//! ```
//! Other addresses are another network with a bridge of its own: pods that are there keep theirs, with the gateway that they know. A bridge
//! that is not the present one's goes when nobody is on it, at the next call, which every start of kubelet makes.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use corten_engine::Error;
use corten_engine::pod::Cni;
use corten_net::link::Links;
use corten_spec::cni::NetworkConfigList;
use corten_spec::{Cidr, Kind, chain};
use serde_json::{Value, json};

const FILE: &str = "10-corten.conflist";
const NAME: &str = "corten-pods";
/// How many may be there at once: the addresses of a node hardly ever change.
const MOST: u32 = 10;

/// Nothing is done where somebody else has configured a network, and where ours is as it should be.
pub(super) fn update(cni: &Cni, data: &Path, subnets: &[Cidr]) -> Result<(), Error> {
    let present = match cni.list() {
        Ok(list) => match index(&list.name) {
            None => return Ok(()),
            Some(index) => Some((index, list)),
        },
        Err(_) => None,
    };
    // The rest of it may be of an earlier version, whose pods are there.
    let wanted = &document(0, data, subnets)["plugins"][0]["ipam"]["ranges"];
    let has = |list: &NetworkConfigList| list.document()["plugins"][0]["ipam"]["ranges"] == *wanted;
    let stays = present.filter(|(_, list)| has(list));
    let mut free = None;
    for index in 0..MOST {
        let is_present = stays.as_ref().is_some_and(|(present, _)| *present == index);
        if !is_present && clear(index, data)? {
            free = free.or(Some(index));
        }
    }
    match (stays, free) {
        (Some(_), _) => Ok(()),
        // Each of them has pods. The first takes addresses that the kernel knows how to refuse.
        (None, free) => write(
            &cni.configurations,
            &document(free.unwrap_or(0), data, subnets),
        ),
    }
}

/// Takes a network's bridge away, if there is one that nobody is on. Whether its name is free.
fn clear(index: u32, data: &Path) -> Result<bool, Error> {
    let mut links = Links::open()?;
    let Some(link) = links.by_name(&bridge(index))? else {
        return Ok(true);
    };
    // A pod's, whoever made it: those of pods that are gone are down until the kernel has deleted them.
    if links.list(Some(link.index))?.iter().any(|port| port.up) {
        return Ok(false);
    }
    // What it was made for can be read off it.
    let addresses = links.addresses(&link)?;
    let global = addresses.iter().filter(|a| !is_link_local(a.address()));
    let subnets: Vec<Cidr> = global.map(Cidr::network).collect();
    let list = NetworkConfigList::from_document(document(index, data, &subnets));
    let list = list.map_err(corten_net::Error::from)?;
    match corten_net::network::remove(&list) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == Kind::Busy => Ok(false),
        Err(e) => {
            let (bridge, error) = (bridge(index), chain(&e));
            tracing::warn!(bridge, error, "the bridge of earlier pods stays");
            Ok(false)
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn bridge(index: u32) -> String {
    format!("corten-pods{index}")
}

fn name(index: u32) -> String {
    match index {
        0 => NAME.into(),
        index => format!("{NAME}-{index}"),
    }
}

/// `None`: the name is somebody else's.
fn index(of: &str) -> Option<u32> {
    (0..MOST).find(|index| name(*index) == of)
}

fn document(index: u32, data: &Path, subnets: &[Cidr]) -> Value {
    let ranges = subnets.iter().map(|s| json!([{"subnet": s}]));
    let any = |v4: bool| match v4 {
        true => IpAddr::from([0, 0, 0, 0]),
        false => IpAddr::from([0u16; 8]),
    };
    let routes = subnets
        .iter()
        .map(|s| json!({"dst": format!("{}/0", any(s.is_ipv4()))}));
    json!({
        "cniVersion": "1.1.0",
        "name": name(index),
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge(index),
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    // Of this engine alone, and gone with its pods when the host starts anew.
                    "dataDir": data,
                    "ranges": ranges.collect::<Vec<_>>(),
                    "routes": routes.collect::<Vec<_>>(),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    })
}

fn write(folder: &Path, document: &Value) -> Result<(), Error> {
    let path = folder.join(FILE);
    fs::create_dir_all(folder).map_err(Error::io("write", folder))?;
    let new = path.with_extension("new");
    fs::write(&new, format!("{document:#}\n")).map_err(Error::io("write", &new))?;
    fs::rename(&new, &path).map_err(Error::io("rename", &new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_known_by_its_name() {
        for n in [0, 1, MOST - 1] {
            assert_eq!(index(&name(n)), Some(n));
            let list = NetworkConfigList::from_document(document(n, Path::new("/d"), &[])).unwrap();
            assert_eq!(index(&list.name), Some(n));
        }
        assert_eq!(index("corten-pods-0"), None);
        assert_eq!(index("cbr0"), None);
    }
}
