//! Published ports, masquerading and the way through other people's firewalls: nf_tables, over
//! netlink, every change one transaction.

mod expression;
mod foreign;
mod message;
mod port;
pub(crate) mod redirect;
mod table;

use std::net::SocketAddr;

use corten_spec::cni::Protocol;
use corten_spec::{Cidr, cidr};
use corten_sys::netlink::{BatchError, Error as NetlinkError, Family as Part, Message, Socket};
use rustix::io::Errno;

use crate::Error;
use crate::link::octets;
use crate::owner::Owner;

/// A port of the host, rewritten to one of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The unspecified address means every address of the family.
    pub host: SocketAddr,
    pub protocol: Protocol,
    /// Of the same family as `host`.
    pub target: SocketAddr,
    pub owner: Owner,
}

/// What a network needs beyond its ports.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// Its link on the host.
    pub link: Option<&'a str>,
    pub subnets: &'a [Cidr],
    pub masquerade: bool,
}

/// A connection to nf_tables, for one table of family inet.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    table: String,
    /// What this connection has seen to: the table, and the link that others let pass.
    ensured: bool,
    vouched: Option<String>,
}

fn failed(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Error {
    move |source| Error::Netlink {
        action: action.into(),
        source,
    }
}

impl Firewall {
    /// Opens a connection; the table is made by the first change.
    pub fn open(table: &str) -> Result<Self, Error> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if table.is_empty() || table.len() > 64 || !table.bytes().all(valid) {
            return Err(Error::Invalid {
                what: "nftables table",
                value: table.chars().take(64).collect(),
                reason: "may hold 1 to 64 of [a-zA-Z0-9_-]".into(),
            });
        }
        Ok(Self {
            socket: Socket::open(Part::Netfilter).map_err(failed("open nf_tables"))?,
            table: table.into(),
            ensured: false,
            vouched: None,
        })
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    /// Admits a network: its link, its subnets, and accepts its packets where another firewall
    /// would drop them.
    pub fn admit(&mut self, network: &Network<'_>) -> Result<(), Error> {
        let mut messages = Vec::new();
        if let Some(link) = network.link {
            let name = expression::ifname(link);
            messages.push(message::add_key(&self.table, table::LINKS, &name));
        }
        for subnet in network.subnets {
            let v4 = subnet.is_ipv4();
            messages.push(self.subnet(true, table::local(v4), subnet));
            if network.masquerade {
                messages.push(self.subnet(true, table::masq(v4), subnet));
            }
        }
        self.ensure()?;
        self.commit(messages, "admit a network to the firewall")?;
        if let Some(link) = network.link
            && self.vouched.as_deref() != Some(link)
        {
            foreign::accept(&mut self.socket, link)?;
            self.vouched = Some(link.into());
        }
        Ok(())
    }

    /// Takes back what [`Firewall::admit`] did; deletes the table when no link is left in it.
    pub fn dismiss(&mut self, link: &str, subnets: &[Cidr]) -> Result<(), Error> {
        foreign::withdraw(&mut self.socket, link)?;
        if !self.exists()? {
            return Ok(());
        }
        // One by one: what is not there must not keep the rest.
        let mut messages = vec![message::delete_element(
            &self.table,
            table::LINKS,
            &expression::ifname(link),
        )];
        for subnet in subnets {
            let v4 = subnet.is_ipv4();
            messages.push(self.subnet(false, table::masq(v4), subnet));
            messages.push(self.subnet(false, table::local(v4), subnet));
        }
        for m in messages {
            match self.socket.transact(message::transaction(vec![m])) {
                Err(e) if e.source.errno() != Some(Errno::NOENT) => {
                    return Err(failed("dismiss a network from the firewall")(e.source));
                }
                _ => {}
            }
        }
        if self.elements(table::LINKS)?.is_empty() && self.published()?.is_empty() {
            let gone = message::delete_table(&self.table);
            self.ensured = false;
            self.commit(vec![gone], "delete the firewall's table")?;
        }
        Ok(())
    }

    /// Publishes ports: all of them, or none. A port that another container has is refused with
    /// its name.
    pub fn publish(&mut self, ports: &[Published]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        self.ensure()?;
        let messages = ports
            .iter()
            .map(|p| message::new_element(&self.table, port::map_of(p), &port::to_element(p)))
            .collect();
        let Err(BatchError { index, source }) =
            self.socket.transact(message::transaction(messages))
        else {
            return Ok(());
        };
        // The first message of a transaction is its frame.
        let refused = index.checked_sub(1).and_then(|i| ports.get(i));
        match (refused, source.errno()) {
            (Some(port), Some(Errno::EXIST)) => Err(self.taken(port)),
            (Some(port), _) => Err(failed(format!(
                "publish port {}/{}",
                port.host, port.protocol
            ))(source)),
            (None, _) => Err(failed("publish ports")(source)),
        }
    }

    fn taken(&mut self, port: &Published) -> Error {
        let holder = self.published().ok().and_then(|all| {
            all.into_iter()
                .find(|p| p.host == port.host && p.protocol == port.protocol)
        });
        Error::PortTaken {
            address: port.host,
            protocol: port.protocol,
            owner: holder.map_or_else(|| "(unknown)".into(), |p| p.owner.container_id),
        }
    }

    /// Takes back all ports for which `which` is true, and says how many.
    pub fn withdraw(&mut self, which: impl Fn(&Published) -> bool) -> Result<usize, Error> {
        let mut ports = self.published()?;
        ports.retain(which);
        if ports.is_empty() {
            return Ok(0);
        }
        let messages = ports
            .iter()
            .map(|p| {
                let key = port::to_element(p).key;
                message::delete_element(&self.table, port::map_of(p), &key)
            })
            .collect();
        self.commit(messages, "take published ports back")?;
        Ok(ports.len())
    }

    /// All published ports, whoever owns them.
    pub fn published(&mut self) -> Result<Vec<Published>, Error> {
        let mut all = Vec::new();
        for (v4, on_address) in [(true, false), (true, true), (false, false), (false, true)] {
            let elements = self.elements(table::publish(v4, on_address))?;
            all.extend(
                elements
                    .iter()
                    .filter_map(|e| port::read(e, v4, on_address)),
            );
        }
        Ok(all)
    }

    /// The elements of a set; none if there is no table.
    fn elements(&mut self, set: &str) -> Result<Vec<message::Element>, Error> {
        let dumped = self.socket.dump(
            message::list_elements(&self.table, set),
            |all: &mut Vec<_>, r| all.extend(message::read_elements(&r)),
        );
        match dumped {
            Err(e) if e.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
            other => other.map_err(failed(format!("list set {set} of table {}", self.table))),
        }
    }

    /// Makes the table if it is missing, or of another revision of ours.
    fn ensure(&mut self) -> Result<(), Error> {
        if self.ensured {
            return Ok(());
        }
        // Two processes may both find none; the slower one's transaction fails as a whole.
        for _ in 0..3 {
            match self.revision()?.as_deref() {
                Some(table::REVISION) => {
                    self.ensured = true;
                    return Ok(());
                }
                Some(_) => {
                    return Err(Error::Invalid {
                        what: "nftables table",
                        value: self.table.clone(),
                        reason: format!("is not of revision {:?}", table::REVISION),
                    });
                }
                None => {}
            }
            let batch = message::transaction(table::create(&self.table));
            match self.socket.transact(batch) {
                Ok(()) => {
                    self.ensured = true;
                    return Ok(());
                }
                Err(e) if e.source.errno() == Some(Errno::EXIST) => {}
                Err(e) => {
                    return Err(failed(format!(
                        "make table inet {} (message {})",
                        self.table, e.index
                    ))(e.source));
                }
            }
        }
        Err(Error::Invalid {
            what: "nftables table",
            value: self.table.clone(),
            reason: "comes and goes: another process makes and deletes it".into(),
        })
    }

    fn exists(&mut self) -> Result<bool, Error> {
        self.revision().map(|r| r.is_some())
    }

    /// The comment of the table, if there is one.
    fn revision(&mut self) -> Result<Option<String>, Error> {
        let mut found = None;
        let asked = self.socket.query(message::get_table(&self.table), |r| {
            found = message::read_table(&r);
        });
        match asked {
            Ok(()) => Ok(found),
            Err(e) if e.errno() == Some(Errno::NOENT) => Ok(None),
            Err(e) => Err(failed(format!("look for table inet {}", self.table))(e)),
        }
    }

    fn subnet(&self, add: bool, set: &str, subnet: &Cidr) -> Message {
        let end = cidr::next(subnet.last()).map(octets);
        let first = octets(subnet.first());
        message::interval(add, &self.table, set, &first, end.as_deref())
    }

    fn commit(&mut self, messages: Vec<Message>, action: &str) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        self.socket
            .transact(message::transaction(messages))
            .map_err(|e| failed(action)(e.source))
    }
}
