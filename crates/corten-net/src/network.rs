//! The network that a container gets when nobody says otherwise, as a CNI configuration,
//! and the way to remove a network that nothing uses any more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use corten_spec::Cidr;
use corten_spec::cidr;
use corten_spec::cni::{NetworkConfigList, PluginConfig};
use serde_json::{Value, json};

use crate::Error;
use crate::address::Store;
use crate::firewall::Firewall;
use crate::link::Links;
use crate::owner::Owner;

/// The name of the nftables table of an engine that is given no other.
pub const TABLE: &str = "corten";

/// A bridge network with IPAM, masquerading and published ports. Two engines on one host
/// differ in `bridge`, `subnets`, `state_dir` and `table`.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// The network's name; also the folder of its reservations below `state_dir`.
    pub name: String,
    /// The link, at most 15 characters; made on first use.
    pub bridge: String,
    /// One per family; the first address of each is the gateway's.
    pub subnets: Vec<Cidr>,
    /// Where host-local keeps what it has given out (below the engine's run folder).
    pub state_dir: PathBuf,
    /// The nftables table, family inet.
    pub table: String,
    /// Bytes; the kernel's 1500 if absent.
    pub mtu: Option<u32>,
    /// Rewrite the source of what leaves for another network.
    pub masquerade: bool,
}

impl Bridge {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            name: "bridge".into(),
            bridge: "corten0".into(),
            // Neither podman's 10.88/16 nor docker's 172.17/16, so that all can live on one
            // host; the IPv6 prefix is a locally assigned one (RFC 4193) drawn once.
            subnets: ["10.79.0.0/16", "fdc0:47e4:5e2f::/64"]
                .iter()
                .filter_map(|s| s.parse().ok())
                .collect(),
            state_dir: state_dir.into(),
            table: TABLE.into(),
            mtu: None,
            masquerade: true,
        }
    }

    /// The CNI configuration list: bridge with host-local, then portmap.
    pub fn list(&self) -> Result<NetworkConfigList, Error> {
        let ranges: Vec<Value> = self
            .subnets
            .iter()
            .map(|s| {
                let network = s.network();
                let gateway = cidr::next(network.first());
                json!([{ "subnet": network, "gateway": gateway }])
            })
            .collect();
        let routes: Vec<Value> = self
            .subnets
            .iter()
            .map(|s| json!({ "dst": if s.is_ipv4() { "0.0.0.0/0" } else { "::/0" } }))
            .collect();
        let mut bridge = json!({
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": true,
            "ipMasq": self.masquerade,
            "hairpinMode": true,
            "cortenTable": self.table,
            "capabilities": { "ips": true, "mac": true },
            "ipam": {
                "type": "host-local",
                "dataDir": self.state_dir,
                "ranges": ranges,
                "routes": routes,
            },
        });
        if let Some(mtu) = self.mtu {
            bridge["mtu"] = mtu.into();
        }
        let document = json!({
            "cniVersion": "1.1.0",
            "name": self.name,
            "plugins": [
                bridge,
                { "type": "portmap", "cortenTable": self.table, "snat": true,
                  "capabilities": { "portMappings": true } },
            ],
        });
        Ok(NetworkConfigList::from_document(document)?)
    }
}

/// The network `bridge`, on `corten0`, its reservations below `state_dir`.
pub fn default_list(state_dir: &Path) -> Result<NetworkConfigList, Error> {
    Bridge::new(state_dir).list()
}

/// Removes what a network has on the host beyond its containers: the bridge, its entries in
/// the nftables table (and the table with the last of them), its reservation folder. A network
/// with containers still attached is refused (`Busy`); one that is not there is a success.
pub fn remove(list: &NetworkConfigList) -> Result<(), Error> {
    let mut held = crate::recover::holdings(list)?;
    // A link whose owner has no address any more is one that DEL left to a dying namespace.
    if list.plugins.iter().any(|p| p.ipam.is_some()) {
        let attached = held
            .addresses
            .iter()
            .map(|a| Owner::new(&a.container_id, &a.ifname, &list.name));
        let attached: BTreeSet<Owner> = attached.collect();
        held.links
            .retain(|l| attached.contains(&Owner::new(&l.container_id, &l.ifname, &list.name)));
    }
    if !held.is_empty() {
        return Err(Error::InUse {
            network: list.name.clone(),
            containers: held.containers().into_iter().collect::<Vec<_>>().join(", "),
        });
    }
    for plugin in &list.plugins {
        let parts = Parts::of(list, plugin);
        if let Some((data_dir, network)) = &parts.store
            && let Some(store) = Store::open_existing(data_dir, network)?
        {
            store.remove_if_empty()?;
        }
        let Some(bridge) = &parts.bridge else {
            if parts.link_kind.is_some() && parts.masquerades {
                // Under no link's name: there is one for each container.
                Firewall::open(&parts.table)?.dismiss("", &parts.subnets)?;
            }
            continue;
        };
        Firewall::open(&parts.table)?.dismiss(bridge, &parts.subnets)?;
        remove_bridge(bridge)?;
    }
    Ok(())
}

/// The bridge, and what DEL left at it.
fn remove_bridge(name: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    let Some(bridge) = links.by_name(name)?.filter(|l| l.kind == "bridge") else {
        return Ok(());
    };
    for port in links.list(Some(bridge.index))? {
        if Owner::parse(&port.alias).is_some() {
            links.delete(&port)?;
        }
    }
    links.delete(&bridge)
}

/// What of the host a bundled plugin's configuration names.
#[derive(Debug)]
pub(crate) struct Parts {
    pub bridge: Option<String>,
    /// The kind of link that the plugin makes on the host for each container, if not ports of a
    /// bridge. (What others make is inside: a container's namespace takes it along.)
    pub link_kind: Option<&'static str>,
    /// Whether the plugin has subnets masqueraded.
    pub masquerades: bool,
    pub table: String,
    pub subnets: Vec<Cidr>,
    /// host-local's folder and the network's name.
    pub store: Option<(PathBuf, String)>,
}

impl Parts {
    pub(crate) fn of(list: &NetworkConfigList, plugin: &PluginConfig) -> Self {
        let text = |key: &str| {
            plugin
                .document
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let ipam = plugin.document.get("ipam");
        let data_dir = ipam
            .and_then(|i| i.get("dataDir"))
            .and_then(Value::as_str)
            .unwrap_or("/var/lib/cni/networks");
        let local = plugin.ipam.as_deref() == Some("host-local");
        Self {
            bridge: (plugin.kind == "bridge").then(|| text("bridge").unwrap_or("cni0".into())),
            link_kind: match plugin.kind.as_str() {
                "ptp" => Some("veth"),
                "bandwidth" => Some("ifb"),
                _ => None,
            },
            masquerades: plugin.document.get("ipMasq") == Some(&Value::Bool(true)),
            table: text("cortenTable").unwrap_or(TABLE.into()),
            subnets: ipam.map(subnets).unwrap_or_default(),
            store: local.then(|| (data_dir.into(), list.name.clone())),
        }
    }
}

/// Every subnet that an `ipam` object names.
pub(crate) fn subnets(ipam: &Value) -> Vec<Cidr> {
    let sets = ipam.get("ranges").and_then(Value::as_array);
    let ranges = sets
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten();
    std::iter::once(ipam)
        .chain(ranges)
        .filter_map(|r| r.get("subnet")?.as_str()?.parse().ok())
        .collect()
}
