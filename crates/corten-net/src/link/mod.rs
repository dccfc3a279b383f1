//! Links, addresses and routes of one network namespace, over rtnetlink.

mod message;
pub mod netns;

use std::net::IpAddr;

use corten_spec::Cidr;
use corten_sys::netlink::{BatchError, Error as NetlinkError, Family, Message, Socket};
use rustix::io::Errno;

pub use message::{Link, Mac, NewRoute, NewVeth, RouteEntry, is_main, mac_text, parse_mac};
pub(crate) use message::{address_of, octets};

use crate::Error;

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

    /// Makes a bridge, up and without spanning tree. One that exists already is left as it is.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: Option<u32>) -> Result<(), Error> {
        self.create(
            message::new_bridge(name, mac, mtu),
            format!("make bridge {name}"),
        )
    }

    pub fn add_veth(&mut self, veth: &NewVeth<'_>) -> Result<(), Error> {
        self.all(message::new_veth(veth), |_| {
            format!("make the veth pair {} and {}", veth.name, veth.peer_name)
        })
    }

    pub fn set_up(&mut self, link: &Link) -> Result<(), Error> {
        self.socket
            .request(message::set_up(link.index))
            .map_err(failed(format!("set link {} up", link.name)))
    }

    pub fn set_port_up(&mut self, name: &str, hairpin: bool) -> Result<(), Error> {
        self.socket
            .request(message::set_port_up(name, hairpin))
            .map_err(failed(format!("set bridge port {name} up")))
    }

    /// Lets a change of carrier take effect now. The kernel does that in a work queue, and until
    /// then drops what is sent through the link (a first SYN comes again after a second). Since
    /// Linux 6.9 asking for a link does the work at once; before, this is only a question.
    pub fn settle(&mut self, index: u32) -> Result<(), Error> {
        self.by_index(index).map(drop)
    }

    pub fn set_down(&mut self, link: &Link) -> Result<(), Error> {
        self.socket
            .request(message::set_down(link.index))
            .map_err(failed(format!("set link {} down", link.name)))
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
            message::new_address(address, link.index),
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

    /// Gives a fresh link its addresses, sets it up, adds the routes: all in one system call.
    pub fn configure(
        &mut self,
        link: &Link,
        addresses: &[Cidr],
        routes: &[NewRoute],
    ) -> Result<(), Error> {
        let mut messages: Vec<Message> = addresses
            .iter()
            .map(|a| message::new_address(*a, link.index))
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
