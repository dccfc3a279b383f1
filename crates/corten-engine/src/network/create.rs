//! Making a network: from what was asked for, and the subnets that others have, to a definition. Nothing of the
//! host is touched: a network's link and rules are made with its first container.

use std::collections::BTreeMap;
use std::net::IpAddr;

use corten_net::definition::{Definition, Driver, Ipam, Subnet};
use corten_net::link::Links;
use corten_spec::cni::Route;
use corten_spec::{Cidr, ContainerId, Name, cidr};
use corten_store::NetworkRow;

use super::options::{Settings, read_options};
use super::{Network, NetworkError, Origin, Plan, Record, VERSION, parse};
use crate::config::Pool;
use crate::container::random_id;
use crate::error::Error;
use crate::{Engine, clock};

/// What a network is to be like. Empty lists are choices left to us.
#[derive(Clone, Debug, Default)]
pub struct CreateNetwork {
    pub name: String,
    /// `bridge`, `macvlan` or `ipvlan`.
    pub driver: String,
    pub subnets: Vec<Cidr>,
    /// Each belongs to the subnet that it is in; so do ranges and reserved addresses.
    pub gateways: Vec<IpAddr>,
    pub ranges: Vec<Cidr>,
    pub reserved: Vec<IpAddr>,
    /// An IPv6 subnet too, where none is named.
    pub ipv6: bool,
    pub internal: bool,
    pub isolated: bool,
    /// `None`: what fits the driver.
    pub ipam: Option<Ipam>,
    pub dns: bool,
    /// Of the bridge; chosen by us if absent.
    pub interface: Option<String>,
    pub routes: Vec<Route>,
    /// The driver's own, by key.
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// Words of `--network` that are no network's name.
const RESERVED: [&str; 8] = [
    "bridge",
    "default",
    "host",
    "none",
    "container",
    "ns",
    "pasta",
    "slirp4netns",
];

/// A subnet that is not to be given out, and whose it is.
struct Taken {
    subnet: Cidr,
    by: String,
    /// The host routes to it. Below a link of the host any number of networks may share what is given out there; but
    /// where the choice is ours, none is chosen twice.
    routed: bool,
}

impl Engine {
    /// Makes a network.
    pub fn create_network(&self, request: &CreateNetwork) -> Result<Network, Error> {
        let name: Name = (request.name.parse()).map_err(|source| NetworkError::Name {
            name: request.name.clone(),
            source,
        })?;
        if RESERVED.contains(&name.as_str()) {
            let name = request.name.clone();
            return Err(NetworkError::Reserved { name }.into());
        }
        for file in self.file_networks()? {
            if file.name == request.name {
                return Err(file.exists());
            }
        }
        let id = random_id()?;
        let routed = self.routed()?;
        let row = self.store.networks().add(|rows| {
            if rows.iter().any(|r| r.name == name) {
                return Err(NetworkError::Exists {
                    name: request.name.clone(),
                    file: None,
                }
                .into());
            }
            let mut taken = routed;
            taken.extend(self.defined(rows)?);
            let record = define(request, &id, &self.config.network.pools, &taken)?;
            self.check_link(&record.definition, rows)?;
            Ok::<_, Error>(NetworkRow {
                id: id.clone(),
                name,
                created_at: clock::nanoseconds(),
                record: super::to_json(&record, id.as_str())?,
            })
        })?;
        parse(row)
    }

    /// The default network, and those of the rows.
    fn entered(&self, rows: &[NetworkRow]) -> Result<Vec<Network>, Error> {
        let rows = rows.iter().map(|row| parse(row.clone()));
        std::iter::once(Ok(self.default_network()))
            .chain(rows)
            .collect()
    }

    /// The subnets of the networks that there are.
    fn defined(&self, rows: &[NetworkRow]) -> Result<Vec<Taken>, Error> {
        let mut taken = Vec::new();
        for network in self.entered(rows)? {
            let Plan::Definition(d) = &network.plan else {
                continue;
            };
            taken.extend(d.subnets.iter().map(|s| Taken {
                subnet: s.subnet,
                by: format!("network {}", network.name),
                routed: network.is_routed(),
            }));
        }
        Ok(taken)
    }

    /// Refuses a bridge that another network has, unless both are in VLANs of their own on it.
    fn check_link(&self, wanted: &Definition, rows: &[NetworkRow]) -> Result<(), Error> {
        let Driver::Bridge { link, vlan } = &wanted.driver else {
            return Ok(());
        };
        let networks = self.entered(rows)?;
        let same = |n: &&Network| match n.definition().map(|d| &d.driver) {
            Some(Driver::Bridge { link: l, vlan: v }) => {
                l == link && (vlan == v || vlan.is_none() || v.is_none())
            }
            _ => false,
        };
        match networks.iter().find(same) {
            Some(other) => Err(NetworkError::LinkTaken {
                link: link.clone(),
                network: other.name.clone(),
            }
            .into()),
            None => Ok(()),
        }
    }

    /// What the host reaches by its routes.
    fn routed(&self) -> Result<Vec<Taken>, Error> {
        let mut links = Links::open()?;
        let mut taken = Vec::new();
        for v4 in [true, false] {
            for route in links.routes(v4)? {
                // fe80::/64 is on every link.
                let Some(subnet) = route.dst.filter(|d| v4 || !is_link_local(d)) else {
                    continue;
                };
                let name = links.by_index(route.link)?.map(|l| l.name);
                taken.push(Taken {
                    subnet,
                    by: format!("the host's link {}", name.unwrap_or_default()),
                    routed: true,
                });
            }
        }
        Ok(taken)
    }
}

fn is_link_local(subnet: &Cidr) -> bool {
    matches!(subnet.first(), IpAddr::V6(a) if a.is_unicast_link_local())
}

/// The decision. Pure.
fn define(
    request: &CreateNetwork,
    id: &ContainerId,
    pools: &[Pool],
    taken: &[Taken],
) -> Result<Record, Error> {
    let settings = read_options(&request.driver, &request.options)?;
    let link = request
        .interface
        .clone()
        .or_else(|| settings.link.clone())
        // 15 characters are all that an interface may have.
        .unwrap_or_else(|| format!("cn-{}", id.short()));
    let driver = settings.driver(link);
    if request.interface.is_some() && !driver.is_routed() {
        let what = NetworkError::OptionValue {
            key: "interface".into(),
            value: request.interface.clone().unwrap_or_default(),
            reason: "the driver makes no link of its own on the host; its parent is option parent",
        };
        return Err(what.into());
    }
    let ipam = request.ipam.unwrap_or_default();
    let subnets = match ipam {
        Ipam::Ranges => subnets(request, &driver, pools, taken)?,
        Ipam::Dhcp | Ipam::None => request.subnets.iter().map(|s| Subnet::new(*s)).collect(),
    };
    let Settings {
        mtu,
        masquerade,
        apart,
        default_route,
        host_loopback,
        isolated,
        ..
    } = settings;
    let definition = Definition {
        name: request.name.clone(),
        driver,
        ipam,
        subnets,
        internal: request.internal,
        isolated: request.isolated || isolated,
        host_loopback,
        masquerade,
        apart,
        default_route,
        routes: request.routes.clone(),
        mtu,
    };
    definition
        .check()
        .map_err(|source| NetworkError::Definition {
            name: request.name.clone(),
            source: Box::new(source),
        })?;
    Ok(Record {
        version: VERSION,
        definition,
        dns: request.dns,
        labels: request.labels.clone(),
        options: request.options.clone(),
    })
}

fn subnets(
    request: &CreateNetwork,
    driver: &Driver,
    pools: &[Pool],
    taken: &[Taken],
) -> Result<Vec<Subnet>, Error> {
    let mut all: Vec<Subnet> = request.subnets.iter().map(|s| Subnet::new(*s)).collect();
    for subnet in &all {
        // Only where the host routes does it matter what it routes to.
        let clash =
            |t: &&Taken| driver.is_routed() && t.routed && t.subnet.overlaps(&subnet.subnet);
        if let Some(other) = taken.iter().find(clash) {
            return Err(NetworkError::SubnetTaken {
                subnet: subnet.subnet,
                by: other.by.clone(),
            }
            .into());
        }
    }
    let has = |v4: bool, all: &[Subnet]| all.iter().any(|s| s.subnet.is_ipv4() == v4);
    let mut wanted = Vec::new();
    if !has(true, &all) && (all.is_empty() || request.ipv6) {
        wanted.push(true);
    }
    if !has(false, &all) && request.ipv6 {
        wanted.push(false);
    }
    for v4 in wanted {
        all.push(Subnet::new(free(pools, v4, taken)?));
    }
    all.sort_by_key(|s| !s.subnet.is_ipv4());
    for gateway in &request.gateways {
        of(&mut all, *gateway, "gateway", gateway)?.gateway = Some(*gateway);
    }
    for range in &request.ranges {
        of(&mut all, range.first(), "address range", range)?.range = Some(*range);
    }
    for address in &request.reserved {
        let subnet = of(&mut all, *address, "reserved address", address)?;
        subnet.reserved.push(*address);
    }
    Ok(all)
}

/// The subnet that the address is in.
fn of<'s>(
    all: &'s mut [Subnet],
    address: IpAddr,
    what: &'static str,
    value: &dyn ToString,
) -> Result<&'s mut Subnet, NetworkError> {
    let mut all = all.iter_mut();
    all.find(|s| s.subnet.contains(address))
        .ok_or_else(|| NetworkError::NoSubnetFor {
            what,
            value: value.to_string(),
        })
}

/// The first subnet of the pools that nobody has.
fn free(pools: &[Pool], v4: bool, taken: &[Taken]) -> Result<Cidr, NetworkError> {
    let of_family: Vec<&Pool> = pools.iter().filter(|p| p.base.is_ipv4() == v4).collect();
    for pool in &of_family {
        let mut at = Some(pool.base.first());
        while let Some(address) = at.filter(|a| pool.base.contains(*a)) {
            let Some(subnet) = Cidr::new(address, pool.size).map(|s| s.network()) else {
                break;
            };
            match taken.iter().find(|t| t.subnet.overlaps(&subnet)) {
                None if subnet.last() <= pool.base.last() => return Ok(subnet),
                None => break,
                // Past the larger of the two.
                Some(t) => at = cidr::next(t.subnet.last().max(subnet.last())),
            }
        }
    }
    Err(NetworkError::PoolsFull {
        pools: of_family.iter().map(|p| p.base).collect(),
    })
}

impl Network {
    fn exists(&self) -> Error {
        NetworkError::Exists {
            name: self.name.clone(),
            file: match &self.origin {
                Origin::File(path) => Some(path.clone()),
                _ => None,
            },
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Vec<Pool> {
        let pool = |base: &str, size| Pool {
            base: base.parse().unwrap(),
            size,
        };
        vec![pool("10.64.0.0/22", 24), pool("fd00::/62", 64)]
    }

    fn taken(all: &[&str]) -> Vec<Taken> {
        let one = |s: &&str| Taken {
            subnet: s.parse().unwrap(),
            by: format!("owner of {s}"),
            routed: true,
        };
        all.iter().map(one).collect()
    }

    fn made(
        change: impl FnOnce(&mut CreateNetwork),
        others: &[&str],
    ) -> Result<Definition, String> {
        let mut request = CreateNetwork {
            name: "n".into(),
            driver: "bridge".into(),
            ..CreateNetwork::default()
        };
        change(&mut request);
        let id = "0123456789abcdef".parse().unwrap();
        let record = define(&request, &id, &pools(), &taken(others));
        record.map(|r| r.definition).map_err(|e| {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            format!("{e}: {}", source.unwrap_or_default())
        })
    }

    fn subnets_of(d: &Definition) -> Vec<String> {
        d.subnets.iter().map(|s| s.subnet.to_string()).collect()
    }

    #[test]
    fn the_first_free_subnet_is_taken() {
        let free = |others: &[&str]| made(|_| {}, others).map(|d| subnets_of(&d).join(" "));
        assert_eq!(free(&[]).unwrap(), "10.64.0.0/24");
        assert_eq!(free(&["10.64.0.0/24"]).unwrap(), "10.64.1.0/24");
        // A neighbour larger, one smaller than what we give.
        assert_eq!(
            free(&["10.64.0.0/23", "10.64.2.128/25"]).unwrap(),
            "10.64.3.0/24"
        );
        assert!(
            free(&["10.0.0.0/8"])
                .unwrap_err()
                .starts_with("no subnet is free in 10.64.0.0/22")
        );
        let dual = made(|r| r.ipv6 = true, &["fd00::/64"]).unwrap();
        assert_eq!(subnets_of(&dual), ["10.64.0.0/24", "fd00:0:0:1::/64"]);
    }

    #[test]
    fn what_is_named_is_what_is_there() {
        let d = made(
            |r| {
                r.subnets = vec!["fd01::/64".parse().unwrap(), "10.9.0.0/16".parse().unwrap()];
                r.gateways = vec!["10.9.0.254".parse().unwrap()];
                r.ranges = vec!["10.9.8.0/24".parse().unwrap()];
                r.reserved = vec!["fd01::5".parse().unwrap()];
            },
            &[],
        )
        .unwrap();
        assert_eq!(subnets_of(&d), ["10.9.0.0/16", "fd01::/64"]);
        assert_eq!(d.subnets[0].gateway().to_string(), "10.9.0.254");
        assert_eq!(d.subnets[0].range.unwrap().to_string(), "10.9.8.0/24");
        assert_eq!(
            d.subnets[1].reserved,
            ["fd01::5".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            d.driver,
            Driver::Bridge {
                link: "cn-0123456789ab".into(),
                vlan: None
            }
        );
        // An IPv6 subnet alone is a network of IPv6 alone.
        let v6 = made(|r| r.subnets = vec!["fd01::/64".parse().unwrap()], &[]).unwrap();
        assert_eq!(subnets_of(&v6), ["fd01::/64"]);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let subnet = |s: &str| vec![s.parse::<Cidr>().unwrap()];
        let says = |wanted: &str, got: Result<Definition, String>| {
            let text = got.unwrap_err();
            assert!(text.contains(wanted), "{text}");
        };
        says(
            "taken by owner of",
            made(|r| r.subnets = subnet("10.9.0.0/16"), &["10.9.9.0/24"]),
        );
        says(
            "none of the subnets",
            made(|r| r.gateways = vec!["10.1.0.1".parse().unwrap()], &[]),
        );
        says(
            "no network driver overlay",
            made(|r| r.driver = "overlay".into(), &[]),
        );
        let option = |key: &str, value: &str| {
            made(|r| drop(r.options.insert(key.into(), value.into())), &[])
        };
        says("has no option colour", option("colour", "red"));
        says("option mtu cannot be", option("mtu", "big"));
        says("option isolate cannot be", option("isolate", "perhaps"));
        assert_eq!(option("mtu", "1400").unwrap().mtu, Some(1400));
        // Of macvlan networks any number may have one subnet: it is the wire's.
        let macvlan = made(
            |r| {
                r.driver = "macvlan".into();
                r.subnets = subnet("10.9.0.0/16");
            },
            &["10.9.0.0/16"],
        );
        assert_eq!(subnets_of(&macvlan.unwrap()), ["10.9.0.0/16"]);
    }
}
