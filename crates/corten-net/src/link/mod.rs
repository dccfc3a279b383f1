//! Links, addresses and routes of one network namespace, over rtnetlink.

mod message;
pub mod netns;
mod policy;
mod traffic;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use corten_spec::Cidr;
use corten_sys::netlink::{BatchError, Error as NetlinkError, Family, Message, Socket};
use rustix::io::Errno;

pub use message::{
    Change, Counters, Details, IpvlanMode, Kind, Link, Mac, MacvlanMode, NewLink, NewRoute,
    NewVeth, PortVlans, RT_SCOPE_LINK, RT_TABLE_MAIN, Rate, RouteCopy, RouteEntry, Rule, Side,
    Traffic, VLANS, is_main, mac_text, parse_mac, ranges,
};
pub use traffic::{Portion, Shaper};

pub(crate) use message::{address_of, octets};

use crate::Error;
use message::{Detection, Manner};

/// How long duplicate address detection may take: one probe, a second apart, and a delay before.
const DETECTION: Duration = Duration::from_secs(5);

/// A connection to rtnetlink in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

fn failed(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Error {
    move |source| Error::Netlink {
        action: action.into(),
        source,
    }
}

/// A kind that the kernel was built without, or whose module is missing, is named.
fn not_made(link: &NewLink<'_>, source: NetlinkError) -> Error {
    let kind = match link.kind {
        Kind::Bridge {
            vlan_filtering: true,
        } => "bridge with VLAN filtering",
        other => other.name(),
    };
    match source.errno() {
        Some(Errno::OPNOTSUPP) => Error::NoLinkKind { kind, source },
        _ => failed(format!("make the {kind} link {}", link.name))(source),
    }
}

impl Links {
    pub fn open() -> Result<Self, Error> {
        Socket::open(Family::Route)
            .map(|socket| Self { socket })
            .map_err(failed("open rtnetlink"))
    }

    /// The link of this name, if there is one.
    pub fn by_name(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut found = None;
        let asked = self.socket.query(message::get_link(name), |r| {
            found = found.take().or(message::read_link(&r));
        });
        match asked {
            Ok(()) => Ok(found),
            Err(e) if e.errno() == Some(Errno::NODEV) => Ok(None),
            Err(e) => Err(failed(format!("look for link {name}"))(e)),
        }
    }

    /// The link of this index, if there is one.
    pub fn by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        let mut found = None;
        let asked = self.socket.query(message::get_link_at(index), |r| {
            found = found.take().or(message::read_link(&r));
        });
        match asked {
            Ok(()) => Ok(found),
            Err(e) if e.errno() == Some(Errno::NODEV) => Ok(None),
            Err(e) => Err(failed(format!("look for link {index}"))(e)),
        }
    }

    /// All links, or those enslaved to `master`.
    pub fn list(&mut self, master: Option<u32>) -> Result<Vec<Link>, Error> {
        let links: Vec<Link> = self
            .socket
            .dump(message::list_links(master), |all: &mut Vec<_>, r| {
                all.extend(message::read_link(&r));
            })
            .map_err(failed("list links"))?;
        Ok(links
            .into_iter()
            .filter(|l| master.is_none() || l.master == master)
            .collect())
    }

    /// What went through each link, in the kernel's order.
    pub fn counters(&mut self) -> Result<Vec<(String, Counters)>, Error> {
        self.socket
            .dump(message::list_links(None), |all: &mut Vec<_>, r| {
                all.extend(message::read_counters(&r));
            })
            .map_err(failed("read the counters of links"))
    }

    /// Makes a bridge, up and without spanning tree. One that exists already is left as it is.
    pub fn add_bridge(
        &mut self,
        name: &str,
        mac: Mac,
        mtu: Option<u32>,
        vlan_filtering: bool,
    ) -> Result<(), Error> {
        // Without an address of its own a bridge takes the lowest of its ports', and changes it
        // as they come and go: every change costs the containers their neighbour entry.
        let bridge = NewLink {
            mac: Some(mac),
            mtu,
            up: true,
            ..NewLink::new(name, Kind::Bridge { vlan_filtering })
        };
        match self.add(&bridge) {
            Err(Error::Netlink { source, .. }) if source.errno() == Some(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Makes a link of a kind that this kernel may lack: the error then says so.
    pub fn add(&mut self, link: &NewLink<'_>) -> Result<(), Error> {
        let made = self.socket.request(message::new_link(link));
        made.map_err(|source| not_made(link, source))
    }

    /// Makes a link and gives it its alias, in one system call.
    pub fn add_owned(&mut self, link: &NewLink<'_>, alias: &str) -> Result<(), Error> {
        let quiet = false;
        let messages = vec![
            message::new_link(link),
            message::name_owner(link.name, alias, quiet),
        ];
        self.socket
            .requests(messages)
            .map_err(|e| not_made(link, e.source))
    }

    pub fn add_veth(&mut self, veth: &NewVeth<'_>) -> Result<(), Error> {
        self.all(message::new_veth(veth), |_| {
            format!("make the veth pair {} and {}", veth.name, veth.peer_name)
        })
    }

    /// Changes a link, all in one system call.
    pub fn change(&mut self, link: &Link, change: &Change<'_>) -> Result<(), Error> {
        self.socket
            .request(message::change_link(link.index, change))
            .map_err(failed(format!("change link {}", link.name)))
    }

    /// The VLANs of a bridge's port, in the place of those that it has.
    pub fn set_port_vlans(&mut self, port: &Link, vlans: &PortVlans) -> Result<(), Error> {
        let messages = vec![
            message::clear_port_vlans(port.index),
            message::add_port_vlans(port.index, vlans),
        ];
        self.all(messages, |_| format!("set the VLANs of port {}", port.name))
    }

    /// More VLANs for a bridge's port.
    pub fn add_port_vlans(&mut self, port: &Link, vlans: &PortVlans) -> Result<(), Error> {
        self.socket
            .request(message::add_port_vlans(port.index, vlans))
            .map_err(failed(format!("add VLANs to port {}", port.name)))
    }

    pub fn set_up(&mut self, link: &Link) -> Result<(), Error> {
        self.socket
            .request(message::set_up(link.index))
            .map_err(failed(format!("set link {} up", link.name)))
    }

    pub fn set_port_up(&mut self, name: &str, hairpin: bool, isolated: bool) -> Result<(), Error> {
        self.socket
            .request(message::set_port_up(name, hairpin, isolated))
            .map_err(failed(format!("set bridge port {name} up")))
    }

    /// Lets a change of carrier take effect now. The kernel does that in a work queue, and until
    /// then drops what is sent through the link (a first SYN comes again after a second). Since
    /// Linux 6.9 asking for a link does the work at once; before, this is only a question.
    pub fn settle(&mut self, index: u32) -> Result<(), Error> {
        self.by_index(index).map(drop)
    }

    /// Sets the link down; one that has gone is a success.
    pub fn set_down(&mut self, link: &Link) -> Result<(), Error> {
        match self.socket.request(message::set_down(link.index)) {
            Err(e) if e.errno() != Some(Errno::NODEV) => {
                Err(failed(format!("set link {} down", link.name))(e))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the link; one that has gone is a success.
    pub fn delete(&mut self, link: &Link) -> Result<(), Error> {
        match self.socket.request(message::delete_link(link.index)) {
            Err(e) if e.errno() != Some(Errno::NODEV) => {
                Err(failed(format!("delete link {}", link.name))(e))
            }
            _ => Ok(()),
        }
    }

    /// Adds an address, without duplicate address detection; one that is there is left.
    pub fn add_address(&mut self, link: &Link, address: Cidr) -> Result<(), Error> {
        self.create(
            message::new_address(address, link.index, Manner::default()),
            format!("add address {address} to {}", link.name),
        )
    }

    pub fn delete_address(&mut self, link: &Link, address: Cidr) -> Result<(), Error> {
        self.socket
            .request(message::delete_address(address, link.index))
            .map_err(failed(format!(
                "remove address {address} from {}",
                link.name
            )))
    }

    pub fn addresses(&mut self, link: &Link) -> Result<Vec<Cidr>, Error> {
        let all: Vec<(Cidr, u32)> = self
            .socket
            .dump(
                message::list_addresses(link.index),
                |all: &mut Vec<_>, r| {
                    all.extend(message::read_address(&r));
                },
            )
            .map_err(failed(format!("list the addresses of {}", link.name)))?;
        Ok(all
            .into_iter()
            .filter(|(_, index)| *index == link.index)
            .map(|(address, _)| address)
            .collect())
    }

    /// Those of all links.
    pub fn all_addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        self.addresses_but(0)
    }

    /// Those of all links but one.
    pub fn addresses_but(&mut self, link: u32) -> Result<Vec<IpAddr>, Error> {
        let all: Vec<(Cidr, u32)> = self
            .socket
            .dump(message::list_addresses(0), |all: &mut Vec<_>, r| {
                all.extend(message::read_address(&r));
            })
            .map_err(failed("list the host's addresses"))?;
        let others = all.into_iter().filter(|(_, index)| *index != link);
        Ok(others.map(|(address, _)| address.address()).collect())
    }

    /// Gives a fresh link its addresses, sets it up, adds the routes: all in one system call.
    /// `detect`: with duplicate address detection.
    pub fn configure(
        &mut self,
        link: &Link,
        addresses: &[Cidr],
        detect: bool,
        routes: &[NewRoute],
    ) -> Result<(), Error> {
        let alone = false;
        self.configure_so(link, addresses, Manner { detect, alone }, routes)
    }

    /// As [`Links::configure`], without the kernel's own routes to the addresses' subnets.
    pub fn configure_alone(
        &mut self,
        link: &Link,
        addresses: &[Cidr],
        routes: &[NewRoute],
    ) -> Result<(), Error> {
        let (detect, alone) = (false, true);
        self.configure_so(link, addresses, Manner { detect, alone }, routes)
    }

    fn configure_so(
        &mut self,
        link: &Link,
        addresses: &[Cidr],
        manner: Manner,
        routes: &[NewRoute],
    ) -> Result<(), Error> {
        let mut messages: Vec<Message> = addresses
            .iter()
            .map(|a| message::new_address(*a, link.index, manner))
            .collect();
        messages.push(message::set_up(link.index));
        messages.extend(routes.iter().map(message::new_route));
        self.all(messages, |i| match i.checked_sub(addresses.len()) {
            None => format!("add address {} to {}", addresses[i], link.name),
            Some(0) => format!("set link {} up", link.name),
            Some(n) => match routes.get(n - 1) {
                Some(r) => format!("add the route to {} through {}", r.dst, link.name),
                None => format!("configure {}", link.name),
            },
        })
    }

    /// Waits until duplicate address detection has come to an end for every address.
    pub fn await_detection(&mut self, link: &Link) -> Result<(), Error> {
        let deadline = Instant::now() + DETECTION;
        loop {
            let all: Vec<(Cidr, u32, Detection)> = self
                .socket
                .dump(
                    message::list_addresses(link.index),
                    |all: &mut Vec<_>, r| all.extend(message::read_detection(&r)),
                )
                .map_err(failed(format!("list the addresses of {}", link.name)))?;
            let state = |wanted| {
                let here = all.iter().filter(|(_, index, _)| *index == link.index);
                let mut those = here.filter(move |(_, _, state)| *state == wanted);
                those.next().map(|(address, _, _)| *address)
            };
            if let Some(address) = state(Detection::Duplicate) {
                return Err(Error::AddressTaken {
                    address: address.address(),
                    owner: format!("another host on the link of {}", link.name),
                });
            }
            let Some(address) = state(Detection::Running) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(Error::Mismatch {
                    what: format!("duplicate address detection of {address}"),
                    found: "still running".into(),
                    wanted: "done".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The main table's routes of a family.
    pub fn routes(&mut self, v4: bool) -> Result<Vec<RouteEntry>, Error> {
        let all: Vec<RouteEntry> = self
            .socket
            .dump(message::list_routes(v4), |all: &mut Vec<_>, r| {
                all.extend(message::read_route(&r));
            })
            .map_err(failed("list routes"))?;
        Ok(all.into_iter().filter(is_main).collect())
    }

    /// The index of the link that a packet to `address` would leave by; `None` if unreachable.
    pub fn way_to(&mut self, address: IpAddr) -> Result<Option<u32>, Error> {
        let mut way = None;
        let asked = self.socket.query(message::get_route(address), |r| {
            way = message::read_route(&r).map(|r| r.link);
        });
        match asked {
            Ok(()) => Ok(way),
            Err(e) if matches!(e.errno(), Some(Errno::NETUNREACH | Errno::HOSTUNREACH)) => Ok(None),
            Err(e) => Err(failed(format!("ask for the route to {address}"))(e)),
        }
    }

    fn create(&mut self, message: Message, action: String) -> Result<(), Error> {
        match self.socket.request(message) {
            Err(e) if e.errno() != Some(Errno::EXIST) => Err(failed(action)(e)),
            _ => Ok(()),
        }
    }

    fn all(
        &mut self,
        messages: Vec<Message>,
        action: impl FnOnce(usize) -> String,
    ) -> Result<(), Error> {
        self.socket
            .requests(messages)
            .map_err(|BatchError { index, source }| Error::Netlink {
                action: action(index),
                source,
            })
    }
}
