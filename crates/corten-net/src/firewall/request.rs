//! What callers ask for, in their own terms: [`super::wish`] and [`super::port`] turn it into elements.

use std::net::{IpAddr, SocketAddr};

use corten_spec::Cidr;
use corten_spec::cni::Protocol;

use super::element::Entry;
use super::{port, wish};
use crate::link::Mac;
use crate::owner::Owner;

/// A port of the host, rewritten to one of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The unspecified address means every address of the family.
    pub host: SocketAddr,
    pub protocol: Protocol,
    /// Of the same family as `host`.
    pub target: SocketAddr,
    pub source: Source,
    pub owner: Owner,
}

/// The source address that the container sees of a client. It is said of the target: two ports to
/// one target have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The client's own, but for clients whose address the container could not answer to: those
    /// on the host's loopback, and containers.
    #[default]
    Answerable,
    /// The client's own, come what may.
    Kept,
    /// The host's, whoever the client is.
    Host,
}

/// What a network needs beyond its ports.
#[derive(Clone, Debug, Default)]
pub struct Network<'a> {
    /// Its link on the host.
    pub link: Option<&'a str>,
    pub subnets: &'a [Cidr],
    pub masquerade: bool,
    /// No way in or out through the host, published ports included; the host itself is reached.
    pub internal: bool,
    /// Neither reaches the other links of ours nor is reached by them, but for published ports.
    pub isolated: bool,
    /// The gateway's IPv4 address stands for the host's 127.0.0.1, for TCP and UDP, wherever
    /// nothing listens on it itself. (`[::1]` cannot be reached so: the kernel has
    /// no `route_localnet` for IPv6.)
    pub host_loopback: bool,
}

/// What the plugin `firewall` does for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub addresses: Vec<IpAddr>,
    pub link: String,
    /// Nothing is forwarded between the link and others that are so marked.
    pub between_links: bool,
    /// The bridge's ports that reach nobody else on the bridge.
    pub alone: Vec<String>,
    pub owner: Owner,
}

/// A bridge's port that may send from one MAC address only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    pub port: String,
    pub mac: Mac,
    pub owner: Owner,
}

/// Elements that somebody is to have: made by the functions below, compared and restored whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub(super) entries: Vec<Entry>,
    /// Those that others are to let pass.
    pub(super) links: Vec<String>,
}

impl Wanted {
    pub fn network(&mut self, network: &Network<'_>) {
        self.entries.extend(wish::network(network));
        let link = network.link.filter(|_| !network.internal);
        self.let_pass(link.into_iter());
    }

    pub fn ports(&mut self, ports: &[Published]) {
        self.entries.extend(ports.iter().flat_map(port::entries));
    }

    pub fn admitted(&mut self, admitted: &Admitted) {
        self.entries.extend(wish::admitted(admitted));
        self.let_pass(std::iter::once(&*admitted.link));
    }

    pub fn guarded(&mut self, guarded: &Guarded) {
        self.entries.extend(wish::guarded(guarded));
    }

    pub fn extend(&mut self, other: Wanted) {
        self.entries.extend(other.entries);
        self.let_pass(other.links.iter().map(String::as_str));
    }

    fn let_pass<'a>(&mut self, links: impl Iterator<Item = &'a str>) {
        for link in links {
            if !self.links.iter().any(|l| l == link) {
                self.links.push(link.into());
            }
        }
    }
}
