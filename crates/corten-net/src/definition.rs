//! A network as a person defines it (driver, subnets, policies), and the CNI configuration that it comes to. Pure.
//!
//! A definition is what an engine keeps; the configuration is made anew for each attachment, since a container's
//! second network must not take the default route from its first.

use std::net::IpAddr;
use std::path::PathBuf;

use corten_spec::cni::{NetworkConfigList, Route, check_ifname, check_network_name};
use corten_spec::{Cidr, cidr};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;

/// The kernel's least for IPv4 (RFC 791) and the most that an IP packet has.
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;
/// What a link has to carry where IPv6 is spoken (RFC 8200).
const MTU_IPV6: u32 = 1280;

/// See above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Also the folder of its reservations.
    pub name: String,
    pub driver: Driver,
    #[serde(default)]
    pub ipam: Ipam,
    /// None where `ipam` is not [`Ipam::Ranges`].
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    /// No way in or out through the host, only to the host.
    #[serde(default)]
    pub internal: bool,
    /// No way to and from other networks of this engine.
    #[serde(default)]
    pub isolated: bool,
    /// Containers reach what the host serves on 127.0.0.1, by the gateway's address.
    #[serde(default)]
    pub host_loopback: bool,
    /// Rewrite the source of what leaves for other networks.
    #[serde(default = "yes")]
    pub masquerade: bool,
    /// Containers of this network cannot reach each other.
    #[serde(default)]
    pub apart: bool,
    #[serde(default = "yes")]
    pub default_route: bool,
    /// Routes beside the default one.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// What connects the containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// A bridge of the host, made on first use.
    Bridge { link: String, vlan: Option<u16> },
    /// A link below one of the host's. Without `parent`: below the link of the host's default route.
    Macvlan {
        parent: Option<String>,
        mode: Option<String>,
    },
    Ipvlan {
        parent: Option<String>,
        mode: Option<String>,
    },
}

impl Driver {
    pub fn as_str(&self) -> &'static str {
        match self {
            Driver::Bridge { .. } => "bridge",
            Driver::Macvlan { .. } => "macvlan",
            Driver::Ipvlan { .. } => "ipvlan",
        }
    }

    /// Whether the host routes for its containers, so that ports can be published.
    pub fn is_routed(&self) -> bool {
        matches!(self, Driver::Bridge { .. })
    }
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipam {
    /// We do, from the subnets.
    #[default]
    Ranges,
    /// A server on the wire.
    Dhcp,
    /// Nobody.
    None,
}

/// A subnet, and the part of it that is given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub subnet: Cidr,
    /// The first address if absent.
    pub gateway: Option<IpAddr>,
    /// The whole subnet if absent.
    pub range: Option<Cidr>,
    /// Addresses that are somebody else's.
    #[serde(default)]
    pub reserved: Vec<IpAddr>,
}

/// Where an engine keeps what its networks hold.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder of host-local's reservations.
    pub state_dir: PathBuf,
    /// The nftables table, family inet.
    pub table: String,
    /// The socket of the DHCP daemon.
    pub dhcp_socket: PathBuf,
}

/// This host, loopback, multicast and what is above it, link-local (RFC 6890, RFC 4291).
const SPECIAL: [&str; 6] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "224.0.0.0/3",
    "::/127",
    "fe80::/10",
    "ff00::/8",
];

fn yes() -> bool {
    true
}

fn invalid(what: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    Error::Invalid {
        what,
        value: value.to_string().chars().take(64).collect(),
        reason: reason.into(),
    }
}

impl Subnet {
    pub fn new(subnet: Cidr) -> Self {
        Self {
            subnet,
            gateway: None,
            range: None,
            reserved: Vec::new(),
        }
    }

    pub fn gateway(&self) -> IpAddr {
        self.gateway
            .or(cidr::next(self.subnet.first()))
            .unwrap_or(self.subnet.first())
    }

    fn check(&self) -> Result<(), Error> {
        let subnet = self.subnet;
        if subnet.network() != subnet {
            let network = subnet.network();
            return Err(invalid(
                "subnet",
                subnet,
                format!("has host bits set; the network is {network}"),
            ));
        }
        let host_bits = if subnet.is_ipv4() { 32 } else { 128 } - subnet.prefix();
        if host_bits < 2 {
            return Err(invalid("subnet", subnet, "has no address to give out"));
        }
        let special = SPECIAL.iter().filter_map(|s| s.parse::<Cidr>().ok());
        if let Some(other) = special.into_iter().find(|s| s.overlaps(&subnet)) {
            let reason = format!("lies in {other}, whose addresses are no single link's");
            return Err(invalid("subnet", subnet, reason));
        }
        let inside = |what, address: IpAddr| match subnet.contains(address) {
            true => Ok(()),
            false => Err(invalid(what, address, format!("is not in {subnet}"))),
        };
        if let Some(gateway) = self.gateway {
            inside("gateway", gateway)?;
            let reason = match gateway {
                g if g == subnet.first() => "is the subnet's own address",
                g if g == subnet.last() && subnet.is_ipv4() => "is the broadcast address",
                _ => "",
            };
            if !reason.is_empty() {
                return Err(invalid("gateway", gateway, reason));
            }
        }
        for address in &self.reserved {
            inside("reserved address", *address)?;
        }
        match self.range {
            Some(range) if range.network() != range => {
                Err(invalid("address range", range, "has host bits set"))
            }
            Some(range) if !subnet.contains(range.first()) || !subnet.contains(range.last()) => {
                Err(invalid(
                    "address range",
                    range,
                    format!("is not in {subnet}"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// The range set of host-local: the range, cut where an address is reserved.
    fn ranges(&self) -> Vec<Value> {
        let part = self.range.unwrap_or(self.subnet);
        // The subnet's own address, and IPv4's broadcast address, are no host's.
        let own = self.subnet.first();
        let broadcast = self.subnet.is_ipv4().then(|| self.subnet.last());
        let mut taken: Vec<IpAddr> = self.reserved.clone();
        taken.push(own);
        taken.extend(broadcast);
        taken.sort();
        let mut ranges = Vec::new();
        let mut start = Some(part.first());
        let range = |from: IpAddr, to: IpAddr| json!({ "subnet": self.subnet, "rangeStart": from, "rangeEnd": to, "gateway": self.gateway() });
        for address in taken.into_iter().filter(|a| part.contains(*a)) {
            if let (Some(from), Some(to)) = (start, cidr::previous(address))
                && from <= to
                && part.contains(to)
            {
                ranges.push(range(from, to));
            }
            start = cidr::next(address).filter(|a| part.contains(*a));
        }
        ranges.extend(start.map(|from| range(from, part.last())));
        ranges
    }
}

impl Definition {
    /// A bridge network with nothing special about it.
    pub fn bridge(name: &str, link: &str, subnets: &[Cidr]) -> Self {
        Self {
            name: name.into(),
            driver: Driver::Bridge {
                link: link.into(),
                vlan: None,
            },
            ipam: Ipam::Ranges,
            subnets: subnets.iter().map(|s| Subnet::new(*s)).collect(),
            internal: false,
            isolated: false,
            host_loopback: false,
            masquerade: true,
            apart: false,
            default_route: true,
            routes: Vec::new(),
            mtu: None,
        }
    }

    /// Says what is wrong with it, if something is.
    pub fn check(&self) -> Result<(), Error> {
        check_network_name(&self.name)?;
        self.check_driver()?;
        if let Some(mtu) = self.mtu {
            let least = match self.subnets.iter().any(|s| !s.subnet.is_ipv4()) {
                true => MTU_IPV6,
                false => *MTU.start(),
            };
            if !MTU.contains(&mtu) || mtu < least {
                let most = MTU.end();
                return Err(invalid(
                    "MTU",
                    mtu,
                    format!("is not from {least} to {most}"),
                ));
            }
        }
        if (self.ipam == Ipam::Ranges) == self.subnets.is_empty() {
            return Err(invalid(
                "network",
                &self.name,
                match self.subnets.is_empty() {
                    true => "has no subnet to give addresses from",
                    false => "has subnets, and an address driver that takes none",
                },
            ));
        }
        for (i, subnet) in self.subnets.iter().enumerate() {
            subnet.check()?;
            let earlier = self.subnets[..i].iter();
            if let Some(other) = earlier
                .into_iter()
                .find(|o| o.subnet.overlaps(&subnet.subnet))
            {
                let reason = format!("overlaps {}", other.subnet);
                return Err(invalid("subnet", subnet.subnet, reason));
            }
            if subnet.ranges().is_empty() {
                return Err(invalid(
                    "subnet",
                    subnet.subnet,
                    "has no address to give out",
                ));
            }
        }
        Ok(())
    }

    fn check_driver(&self) -> Result<(), Error> {
        match &self.driver {
            Driver::Bridge { link, vlan } => {
                check_ifname(link)?;
                match vlan {
                    Some(id) if !(1..=4094).contains(id) => {
                        Err(invalid("VLAN", id, "is not from 1 to 4094"))
                    }
                    _ => Ok(()),
                }
            }
            Driver::Macvlan { parent, .. } | Driver::Ipvlan { parent, .. } => {
                if let Some(parent) = parent {
                    check_ifname(parent)?;
                }
                for (policy, set) in [
                    ("isolated", self.isolated),
                    ("host loopback", self.host_loopback),
                    ("no traffic between containers", self.apart),
                ] {
                    // Its packets do not pass the host's firewall: nothing there could hold them.
                    if set {
                        let driver = self.driver.as_str();
                        let reason = format!("is nothing that a {driver} network can have");
                        return Err(invalid("policy", policy, reason));
                    }
                }
                Ok(())
            }
        }
    }

    /// Whether ports can be published through it.
    pub fn can_publish(&self) -> bool {
        self.driver.is_routed() && !self.internal && self.ipam != Ipam::None
    }

    pub fn has_ipv6(&self) -> bool {
        self.subnets.iter().any(|s| !s.subnet.is_ipv4())
    }

    /// The configuration list, for an attachment whose default routes have this metric: of several networks, the
    /// container goes out by the one with the least.
    pub fn list(&self, place: &Place, metric: u32) -> Result<NetworkConfigList, Error> {
        let mut first = match &self.driver {
            Driver::Bridge { link, vlan } => self.bridge_plugin(place, link, *vlan),
            Driver::Macvlan { parent, mode } | Driver::Ipvlan { parent, mode } => {
                let mut plugin = json!({ "type": self.driver.as_str() });
                set(&mut plugin, "master", parent.as_ref());
                set(&mut plugin, "mode", mode.as_ref());
                plugin
            }
        };
        set(&mut first, "mtu", self.mtu);
        first["ipam"] = self.ipam_plugin(place, metric);
        first["capabilities"] = json!({ "ips": true, "mac": true });
        let mut plugins = vec![first];
        if self.can_publish() {
            plugins.push(json!({
                "type": "portmap", "cortenTable": place.table, "snat": true,
                "capabilities": { "portMappings": true },
            }));
        }
        let document = json!({ "cniVersion": "1.1.0", "name": self.name, "plugins": plugins });
        Ok(NetworkConfigList::from_document(document)?)
    }

    fn bridge_plugin(&self, place: &Place, link: &str, vlan: Option<u16>) -> Value {
        let gateway = self.ipam == Ipam::Ranges;
        let mut plugin = json!({
            "type": "bridge", "bridge": link, "isGateway": gateway,
            "ipMasq": self.masquerade && gateway && !self.internal,
            // A container reaches itself by its own published port.
            "hairpinMode": true,
            "cortenTable": place.table,
        });
        set(&mut plugin, "vlan", vlan);
        for (key, yes) in [
            ("cortenInternal", self.internal),
            ("cortenIsolate", self.isolated),
            ("cortenHostLoopback", self.host_loopback),
            ("portIsolation", self.apart),
        ] {
            set(&mut plugin, key, yes.then_some(true));
        }
        plugin
    }

    fn ipam_plugin(&self, place: &Place, metric: u32) -> Value {
        match self.ipam {
            Ipam::None => json!({}),
            Ipam::Dhcp => {
                json!({ "type": "dhcp", "daemonSocketPath": place.dhcp_socket, "priority": metric })
            }
            Ipam::Ranges => {
                let sets: Vec<Vec<Value>> = self.subnets.iter().map(Subnet::ranges).collect();
                json!({ "type": "host-local", "dataDir": place.state_dir, "ranges": sets, "routes": self.route_list(metric) })
            }
        }
    }

    fn route_list(&self, metric: u32) -> Vec<Value> {
        // An internal network leads nowhere, so no route leads there.
        let has_default = self.default_route && !self.internal;
        let mut families: Vec<bool> = self.subnets.iter().map(|s| s.subnet.is_ipv4()).collect();
        families.dedup();
        let defaults = families
            .into_iter()
            .filter(|_| has_default)
            .map(|v4| json!({ "dst": if v4 { "0.0.0.0/0" } else { "::/0" }, "priority": metric }));
        defaults
            .chain(self.routes.iter().map(|r| json!(r)))
            .collect()
    }
}

fn set(object: &mut Value, key: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        object[key] = json!(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            state_dir: "/run/x/ipam".into(),
            table: "corten".into(),
            dhcp_socket: "/run/x/dhcp.sock".into(),
        }
    }

    fn net() -> Definition {
        let subnets = ["10.1.0.0/24", "fd00:1::/64"].map(|s| s.parse().unwrap());
        Definition::bridge("n", "br0", &subnets)
    }

    #[test]
    fn a_bridge_network_is_bridge_host_local_and_portmap() {
        let list = net().list(&place(), 100).unwrap();
        assert_eq!(
            *list.document(),
            json!({"cniVersion": "1.1.0", "name": "n", "plugins": [
                {"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                 "cortenTable": "corten", "capabilities": {"ips": true, "mac": true},
                 "ipam": {"type": "host-local", "dataDir": "/run/x/ipam",
                    "ranges": [
                        [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.1", "rangeEnd": "10.1.0.254", "gateway": "10.1.0.1"}],
                        [{"subnet": "fd00:1::/64", "rangeStart": "fd00:1::1", "rangeEnd": "fd00:1::ffff:ffff:ffff:ffff", "gateway": "fd00:1::1"}]],
                    "routes": [{"dst": "0.0.0.0/0", "priority": 100}, {"dst": "::/0", "priority": 100}]}},
                {"type": "portmap", "cortenTable": "corten", "snat": true, "capabilities": {"portMappings": true}}]})
        );
    }

    #[test]
    fn policies_reach_the_plugin() {
        let mut d = net();
        (d.internal, d.isolated, d.host_loopback, d.apart) = (true, true, true, true);
        d.mtu = Some(1400);
        d.driver = Driver::Bridge {
            link: "br0".into(),
            vlan: Some(7),
        };
        let list = d.list(&place(), 100).unwrap();
        let bridge = &list.plugins[0].document;
        for key in [
            "cortenInternal",
            "cortenIsolate",
            "cortenHostLoopback",
            "portIsolation",
        ] {
            assert_eq!(bridge[key], true, "{key}");
        }
        assert_eq!((&bridge["vlan"], &bridge["mtu"]), (&json!(7), &json!(1400)));
        assert_eq!(bridge["ipMasq"], false);
        assert_eq!(bridge["ipam"]["routes"], json!([]));
        // Nothing from outside gets in, published or not.
        assert_eq!(list.plugins.len(), 1);
    }

    #[test]
    fn links_below_one_of_the_hosts_have_no_ports() {
        let mut d = net();
        d.driver = Driver::Macvlan {
            parent: Some("eth0".into()),
            mode: Some("private".into()),
        };
        d.ipam = Ipam::Dhcp;
        d.subnets = Vec::new();
        d.check().unwrap();
        let list = d.list(&place(), 110).unwrap();
        assert_eq!(
            list.document()["plugins"],
            json!([{"type": "macvlan", "master": "eth0", "mode": "private", "capabilities": {"ips": true, "mac": true},
                "ipam": {"type": "dhcp", "daemonSocketPath": "/run/x/dhcp.sock", "priority": 110}}])
        );
        d.isolated = true;
        assert!(d.check().is_err());
    }

    #[test]
    fn reserved_addresses_part_the_range() {
        let spans = |subnet: &str, range: Option<&str>, reserved: &[&str]| -> Vec<String> {
            let s = Subnet {
                range: range.map(|r| r.parse().unwrap()),
                reserved: reserved.iter().map(|r| r.parse().unwrap()).collect(),
                ..Subnet::new(subnet.parse().unwrap())
            };
            s.ranges()
                .iter()
                .map(|r| format!("{}-{}", r["rangeStart"], r["rangeEnd"]).replace('"', ""))
                .collect()
        };
        assert_eq!(
            spans("10.1.0.0/24", None, &["10.1.0.5", "10.1.0.6", "10.1.0.254"]),
            ["10.1.0.1-10.1.0.4", "10.1.0.7-10.1.0.253"]
        );
        assert_eq!(
            spans("10.1.0.0/24", Some("10.1.0.128/25"), &["10.1.0.2"]),
            ["10.1.0.128-10.1.0.254"]
        );
        assert_eq!(
            spans("10.1.0.0/24", Some("10.1.0.64/31"), &["10.1.0.64"]),
            ["10.1.0.65-10.1.0.65"]
        );
        assert!(spans("10.1.0.0/24", Some("10.1.0.64/32"), &["10.1.0.64"]).is_empty());
        assert_eq!(
            spans("fd00::/126", None, &["fd00::2"]),
            ["fd00::1-fd00::1", "fd00::3-fd00::3"]
        );
    }

    #[test]
    fn what_cannot_be_is_said() {
        let with = |change: &dyn Fn(&mut Definition)| {
            let mut d = net();
            change(&mut d);
            corten_spec::chain(&d.check().unwrap_err())
        };
        type Change<'a> = &'a dyn Fn(&mut Definition);
        let cases: [(Change<'_>, &str); 13] = [
            (
                &|d| d.subnets[0].subnet = "127.9.0.0/16".parse().unwrap(),
                "no single link's",
            ),
            (
                &|d| d.subnets[0].subnet = "0.0.0.0/0".parse().unwrap(),
                "no single link's",
            ),
            (&|d| d.name = "a/b".into(), "may hold only"),
            (&|d| d.mtu = Some(1000), "1280"),
            (&|d| d.subnets.clear(), "no subnet"),
            (&|d| d.ipam = Ipam::None, "takes none"),
            (
                &|d| d.subnets[0].gateway = Some([10, 2, 0, 1].into()),
                "not in",
            ),
            (
                &|d| d.subnets[0].range = "10.2.0.0/25".parse().ok(),
                "not in",
            ),
            (
                &|d| d.subnets[0].range = "10.1.0.5/25".parse().ok(),
                "host bits",
            ),
            (
                &|d| d.subnets[0].subnet = "10.1.0.5/24".parse().unwrap(),
                "host bits",
            ),
            (
                &|d| d.subnets[0].subnet = "10.1.0.0/31".parse().unwrap(),
                "no address",
            ),
            (
                &|d| d.subnets.push(Subnet::new("10.0.0.0/8".parse().unwrap())),
                "overlaps",
            ),
            (
                &|d| {
                    d.driver = Driver::Bridge {
                        link: "a-name-of-sixteen".into(),
                        vlan: None,
                    }
                },
                "interface name",
            ),
        ];
        for (change, wanted) in cases {
            let text = with(change);
            assert!(text.contains(wanted), "{text}");
        }
        net().check().unwrap();
    }
}
