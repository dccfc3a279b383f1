//! Networks: what one is, who is on it, and a container's life on it.
//!
//! ```text
//!   config.toml ─▶ the default network ┐
//!   corten.db ───▶ those that were made ├─▶ Network ─▶ CNI configuration ─▶ corten_net::cni::Caller
//!   ETC/net.d ───▶ CNI configurations   ┘                                      ADD at start and connect,
//!                                                                              DEL at release and disconnect
//! ```
//!
//! A network is a row, a file or a setting; its bridge and rules are made with its first container and taken away by
//! `rm` or `prune`. Who is on which network is in the container's own record, and in rows that keep a network from
//! going while it is needed.

mod attach;
mod check;
mod connect;
mod create;
mod error;
mod files;
pub(crate) mod inspect;
mod leases;
mod names;
mod options;
mod ports;
mod remove;

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_net::cni::{Caller, ConfigFile, NetworkConfigList, load_folder};
use corten_net::definition::Place;
pub use corten_net::definition::{Definition, Driver, Ipam, Subnet};
use corten_spec::{Digest, Kind};
use corten_store::NetworkRow;
use serde::{Deserialize, Serialize};

use crate::Engine;
pub use crate::container::inspect::rfc3339;
use crate::container::options::DEFAULT_NETWORK;
use crate::error::Error;

pub(crate) use attach::{Joined, namespace_of, new_namespace};
pub use check::Fault;
pub use connect::ConnectOptions;
pub use corten_net::recover::Reloaded;
pub use create::CreateNetwork;
pub use error::NetworkError;
pub(crate) use files::Files;
pub use names::RESOLVER;
pub(crate) use names::names_on;
pub(crate) use ports::{HeldPort, forwards, hold_ports, sockets_of};

/// The record's format; a newer one is refused.
const VERSION: u32 = 1;

/// One network.
#[derive(Clone, Debug)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// Nanoseconds since 1970; 0 for one that nobody made.
    pub created_at: i64,
    pub origin: Origin,
    /// Containers find each other by name.
    pub dns: bool,
    pub labels: BTreeMap<String, String>,
    /// The driver's options as they were given.
    pub options: BTreeMap<String, String>,
    pub(crate) plan: Plan,
}

/// Where a network is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the settings.
    Default,
    /// In the database, by [`Engine::create_network`].
    Created,
    /// A CNI configuration.
    File(PathBuf),
}

/// What it comes to.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    Definition(Box<Definition>),
    List(Box<NetworkConfigList>),
}

/// The `record` column of a network's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    definition: Definition,
    dns: bool,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

impl Network {
    /// The definition, unless it is a foreign configuration.
    pub fn definition(&self) -> Option<&Definition> {
        match &self.plan {
            Plan::Definition(d) => Some(d),
            Plan::List(_) => None,
        }
    }

    /// `bridge`, `macvlan`, …; of a foreign configuration the first plugin.
    pub fn driver(&self) -> &str {
        match &self.plan {
            Plan::Definition(d) => d.driver.as_str(),
            Plan::List(list) => list.plugins.first().map_or("", |p| p.kind.as_str()),
        }
    }

    /// Whether the host routes to its subnets.
    fn is_routed(&self) -> bool {
        self.definition().is_some_and(|d| d.driver.is_routed())
    }

    pub fn is_internal(&self) -> bool {
        self.definition().is_some_and(|d| d.internal)
    }

    /// Whether ports can be published through it.
    pub fn can_publish(&self) -> bool {
        match &self.plan {
            Plan::Definition(d) => d.can_publish(),
            Plan::List(list) => {
                let mut declared = list.plugins.iter().flat_map(|p| &p.capabilities);
                declared.any(|c| c == "portMappings")
            }
        }
    }

    /// The CNI configuration for an attachment of this ordinal.
    pub(crate) fn list(&self, place: &Place, ordinal: u32) -> Result<NetworkConfigList, Error> {
        match &self.plan {
            // Of several networks a container goes out by its first. Above 0, so that an administrator inside
            // can put a route of his own before it.
            Plan::Definition(d) => Ok(d.list(place, 100u32.saturating_add(ordinal))?),
            Plan::List(list) => Ok(NetworkConfigList::clone(list)),
        }
    }
}

impl Engine {
    /// Every network: the default one, those that were made (oldest first), the configurations in files.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        let mut all = vec![self.default_network()];
        for row in self.store.networks().list()? {
            all.push(parse(row)?);
        }
        all.extend(self.file_networks()?);
        Ok(all)
    }

    /// A network by name, id or unique prefix of an id.
    pub fn network(&self, name: &str) -> Result<Network, Error> {
        if let Some(found) = self.network_named(name)? {
            return Ok(found);
        }
        if name == "default" {
            return Ok(self.default_network());
        }
        match self.store.networks().get(name) {
            Ok(row) => return parse(row),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        let mut all = self.file_networks()?;
        all.push(self.default_network());
        let by_id = |n: &Network| name.len() >= 4 && n.id.starts_with(name);
        let found = all.into_iter().find(by_id);
        Ok(found.ok_or_else(|| NetworkError::Missing { name: name.into() })?)
    }

    /// The network of this very name, as records hold it; `None` where it has gone since (a configuration that was
    /// taken out of its folder).
    pub(crate) fn network_named(&self, name: &str) -> Result<Option<Network>, Error> {
        if name == DEFAULT_NETWORK {
            return Ok(Some(self.default_network()));
        }
        match self.store.networks().named(name) {
            Ok(row) => return parse(row).map(Some),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        Ok(self.file_networks()?.into_iter().find(|n| n.name == name))
    }

    /// The network of containers that ask for none.
    pub(crate) fn default_network(&self) -> Network {
        let n = &self.config.network;
        Network {
            id: self.id_of(DEFAULT_NETWORK),
            name: DEFAULT_NETWORK.into(),
            created_at: 0,
            origin: Origin::Default,
            dns: n.dns,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            plan: Plan::Definition(Box::new(Definition::bridge(
                DEFAULT_NETWORK,
                &n.bridge,
                &n.subnets,
            ))),
        }
    }

    /// Configurations of the folder; one that cannot be used keeps no other network from being used, and is
    /// told by [`Engine::broken_networks`].
    fn file_networks(&self) -> Result<Vec<Network>, Error> {
        let files = load_folder(&self.config.network.configurations)?;
        Ok(files
            .into_iter()
            .filter_map(|file| Some((file.path, file.list.ok()?)))
            .map(|(path, list)| Network {
                id: self.id_of(&list.name),
                name: list.name.clone(),
                created_at: 0,
                origin: Origin::File(path),
                dns: false,
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
                plan: Plan::List(Box::new(list)),
            })
            .collect())
    }

    /// The files of the folder that are no networks, each with the reason.
    pub fn broken_networks(&self) -> Result<Vec<Error>, Error> {
        let files = load_folder(&self.config.network.configurations)?;
        let reason = |f: ConfigFile| f.list.err().map(Error::from);
        Ok(files.into_iter().filter_map(reason).collect())
    }

    /// An id for a network that has no row, the same each time.
    fn id_of(&self, name: &str) -> String {
        let text = format!("{} {name}", self.paths.run().display());
        Digest::of(text.as_bytes()).hex().to_owned()
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            state_dir: self.paths.ipam(),
            table: self.config.network.table.clone(),
            dhcp_socket: self.paths.run().join(leases::SOCKET),
        }
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::new(self.config.network.plugins.clone(), self.paths.cni_cache())
    }
}

fn parse(row: NetworkRow) -> Result<Network, Error> {
    let record: Record = serde_json::from_str(&row.record).map_err(|source| Error::Document {
        path: row.id.as_str().into(),
        source,
    })?;
    if record.version > VERSION {
        return Err(Error::RecordVersion {
            name: row.name.to_string(),
            version: record.version,
        });
    }
    Ok(Network {
        id: row.id.to_string(),
        name: row.name.to_string(),
        created_at: row.created_at,
        origin: Origin::Created,
        dns: record.dns,
        labels: record.labels,
        options: record.options,
        plan: Plan::Definition(Box::new(record.definition)),
    })
}

fn to_json(record: &Record, id: &str) -> Result<String, Error> {
    serde_json::to_string(record).map_err(|source| Error::Document {
        path: id.into(),
        source,
    })
}
