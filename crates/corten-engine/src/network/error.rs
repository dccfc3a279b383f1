//! What can go wrong with networks, in the engine's words. What the kernel or a plugin says is below
//! ([`corten_net::Error`]).

use std::net::IpAddr;
use std::path::PathBuf;

use corten_spec::{Cidr, Kind};

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("there is no network {name}")]
    Missing { name: String },
    #[error("there is no CNI configuration in {folder:?}")]
    NoConfiguration { folder: PathBuf },
    #[error("no network can be named {name:?}")]
    Name {
        name: String,
        #[source]
        source: corten_spec::IdError,
    },
    #[error("no network can be named {name}: the word means something else")]
    Reserved { name: String },
    #[error("network {name} is there already{}", place(file))]
    Exists { name: String, file: Option<PathBuf> },
    #[error("network {name} cannot be made")]
    Definition {
        name: String,
        #[source]
        source: Box<corten_net::Error>,
    },
    #[error("network {name} cannot be {action}: it is {what}")]
    NotOurs {
        name: String,
        action: &'static str,
        /// `the default network`, `the configuration FILE`.
        what: String,
    },
    #[error("network {name} is in use by {}", containers.join(", "))]
    InUse {
        name: String,
        containers: Vec<String>,
    },
    #[error("there is no network driver {name}")]
    Driver { name: String },
    #[error("driver {driver} has no option {key}")]
    Option { driver: &'static str, key: String },
    #[error("option {key} cannot be {value:?}: {reason}")]
    OptionValue {
        key: String,
        value: String,
        reason: &'static str,
    },
    #[error("{what} {value} belongs to none of the subnets")]
    NoSubnetFor { what: &'static str, value: String },
    #[error("subnet {subnet} is taken by {by}")]
    SubnetTaken { subnet: Cidr, by: String },
    #[error("bridge {link} is that of network {network}")]
    LinkTaken { link: String, network: String },
    #[error("no subnet is free in {}", join(pools))]
    PoolsFull { pools: Vec<Cidr> },
    #[error("container {container} is on network {network} already")]
    Connected { container: String, network: String },
    #[error("container {container} is not on network {network}")]
    NotConnected { container: String, network: String },
    #[error("container {container} has the network {mode}, beside which it can have no other")]
    Alone { container: String, mode: String },
    #[error("address {address} cannot be given on network {network}: {reason}")]
    Address {
        address: IpAddr,
        network: String,
        reason: &'static str,
    },
    #[error("interface {interface} would be there twice")]
    Interface { interface: String },
    #[error("network {network} is given twice")]
    Twice { network: String },
    #[error("port {port}, which the image exposes, cannot be published: tcp and udp can")]
    Exposed { port: String },
    #[error("no network of the container can publish ports")]
    Ports,
    #[error("the network of container {container} cannot be joined")]
    Join {
        container: String,
        #[source]
        source: crate::Is,
    },
    #[error("{} is no network namespace", path.display())]
    Namespace { path: PathBuf },
    #[error("{what} cannot be set with the network {mode}")]
    Together { what: &'static str, mode: String },
}

fn place(file: &Option<PathBuf>) -> String {
    let text = |f: &PathBuf| format!(", in {}", f.display());
    file.as_ref().map_or_else(String::new, text)
}

fn join(all: &[Cidr]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}

impl NetworkError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::NoConfiguration { .. } | Self::NotConnected { .. } => {
                Kind::NotFound
            }
            Self::Exists { .. } | Self::Connected { .. } => Kind::AlreadyExists,
            Self::Definition { source, .. } => source.kind(),
            Self::InUse { .. } | Self::PoolsFull { .. } => Kind::Busy,
            Self::NotOurs { .. }
            | Self::SubnetTaken { .. }
            | Self::LinkTaken { .. }
            | Self::Alone { .. }
            | Self::Join { .. } => Kind::Conflict,
            Self::Driver { .. } | Self::Option { .. } => Kind::Unsupported,
            Self::Name { .. }
            | Self::Reserved { .. }
            | Self::OptionValue { .. }
            | Self::NoSubnetFor { .. }
            | Self::Address { .. }
            | Self::Interface { .. }
            | Self::Twice { .. }
            | Self::Exposed { .. }
            | Self::Ports
            | Self::Namespace { .. }
            | Self::Together { .. } => Kind::Invalid,
        }
    }
}
