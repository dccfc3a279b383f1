//! A network as one JSON document, in the shape that `docker network inspect` gives.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Driver, Ipam, Network, Origin, Plan, Subnet};
use crate::Engine;
use crate::container::inspect::rfc3339;
use crate::container::options::Endpoint;
use crate::container::record::Attached;
use crate::error::Error;

impl Engine {
    pub fn inspect_network(&self, network: &Network) -> Result<Value, Error> {
        let mut document = json!({
            "Name": network.name,
            "Id": network.id,
            "Created": rfc3339(network.created_at),
            "Scope": "local",
            "Driver": network.driver(),
            "Internal": network.is_internal(),
            "DNSEnabled": network.dns,
            "Containers": self.inspect_members(network)?,
            "Options": network.options,
            "Labels": network.labels,
        });
        match &network.plan {
            Plan::Definition(d) => {
                let of_family = |v4| d.subnets.iter().any(|s| s.subnet.is_ipv4() == v4);
                let subnets: Vec<Value> = d.subnets.iter().map(subnet).collect();
                document["EnableIPv4"] = of_family(true).into();
                document["EnableIPv6"] = of_family(false).into();
                document["Isolated"] = d.isolated.into();
                document["IPAM"] = json!({ "Driver": ipam(d.ipam), "Config": subnets });
                document["Interface"] = match &d.driver {
                    Driver::Bridge { link, .. } => link.clone().into(),
                    Driver::Macvlan { parent, .. } | Driver::Ipvlan { parent, .. } => {
                        parent.clone().into()
                    }
                };
                document["MTU"] = json!(d.mtu);
                document["Routes"] = json!(d.routes);
            }
            Plan::List(list) => document["Configuration"] = list.document().clone(),
        }
        if let Origin::File(path) = &network.origin {
            document["File"] = path.display().to_string().into();
        }
        Ok(document)
    }

    /// Those that run, by id.
    fn inspect_members(&self, network: &Network) -> Result<Value, Error> {
        let mut all = Map::new();
        for container in self.members(network)? {
            if !self.status(&container)?.is_running() {
                continue;
            }
            let run = container.record.run.as_ref();
            let attached = run.and_then(|r| r.networks.iter().find(|n| n.network == network.name));
            let Some(attached) = attached else { continue };
            let of_family = |v4| attached.addresses.iter().find(|a| a.is_ipv4() == v4);
            let text = |v4| of_family(v4).map_or(String::new(), ToString::to_string);
            all.insert(
                container.id.to_string(),
                json!({
                    "Name": container.name,
                    "Interface": attached.interface,
                    "MacAddress": attached.mac,
                    "IPv4Address": text(true),
                    "IPv6Address": text(false),
                }),
            );
        }
        Ok(Value::Object(all))
    }
}

fn ipam(ipam: Ipam) -> &'static str {
    match ipam {
        Ipam::Ranges => "host-local",
        Ipam::Dhcp => "dhcp",
        Ipam::None => "none",
    }
}

fn subnet(s: &Subnet) -> Value {
    let mut config = json!({ "Subnet": s.subnet, "Gateway": s.gateway() });
    if let Some(range) = s.range {
        config["IPRange"] = json!(range);
    }
    if !s.reserved.is_empty() {
        config["AuxiliaryAddresses"] = json!(s.reserved);
    }
    config
}

/// One network in a container's document. What it does not have is an empty text, as docker has it.
pub(crate) fn endpoint(attached: Option<&Attached>, id: &str) -> Value {
    let default = Attached::default();
    let a = attached.unwrap_or(&default);
    let address = |v4| a.addresses.iter().find(|a| a.is_ipv4() == v4);
    let alone = |v4| address(v4).map_or(String::new(), |c| c.address().to_string());
    let gateway = |v4| {
        let found = a.gateways.iter().find(|g| g.is_ipv4() == v4);
        found.map_or(String::new(), ToString::to_string)
    };
    json!({
        "NetworkID": id,
        "Interface": a.interface,
        "MacAddress": a.mac.as_deref().unwrap_or_default(),
        "IPAddress": alone(true),
        "IPPrefixLen": address(true).map_or(0, |c| c.prefix()),
        "Gateway": gateway(true),
        "GlobalIPv6Address": alone(false),
        "GlobalIPv6PrefixLen": address(false).map_or(0, |c| c.prefix()),
        "IPv6Gateway": gateway(false),
    })
}

/// What was asked for there.
pub(crate) fn asked(endpoint: &Endpoint) -> Value {
    let mut config = Map::new();
    let addresses = [
        ("IPv4Address", endpoint.ip.map(IpAddr::V4)),
        ("IPv6Address", endpoint.ip6.map(IpAddr::V6)),
    ];
    for (key, address) in addresses {
        if let Some(address) = address {
            config.insert(key.into(), address.to_string().into());
        }
    }
    match config.is_empty() {
        true => Value::Null,
        false => Value::Object(config),
    }
}
