//! What the database and the state folder remember of a container: versioned, apart from
//! the types that the code works with.

use corten_spec::{Cidr, ContainerId, Digest, Name};
use serde::{Deserialize, Serialize};

use super::options::{Options, PortMapping};

/// The record's format; a newer one is refused.
pub const VERSION: u32 = 1;

/// The `record` column of a container's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub options: Options,
    /// The image's config, by which the container was made: the tag may move on.
    pub image_config: Digest,
    pub manifest: Digest,
    /// Snapshot layer ids, bottom first.
    pub layers: Vec<String>,
    /// The last run, where there was one.
    pub run: Option<Run>,
}

/// One run of a container: what was handed to it. Addresses and ports are those that it got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Seconds and nanoseconds since 1970.
    pub started_at: (i64, u32),
    pub pid: u32,
    pub addresses: Vec<std::net::IpAddr>,
    pub mac: Option<String>,
    pub ports: Vec<PortMapping>,
    /// In the order of the container's endpoints.
    #[serde(default)]
    pub networks: Vec<Attached>,
}

/// What a run got on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub network: String,
    pub interface: String,
    pub addresses: Vec<Cidr>,
    pub gateways: Vec<std::net::IpAddr>,
    pub mac: Option<String>,
    /// The published ports are on this one.
    pub publishes: bool,
}

impl Run {
    /// Enters what it got on a network, in place of what it had there.
    pub fn attached(&mut self, new: Attached) {
        self.networks.retain(|n| n.network != new.network);
        self.networks.push(new);
        self.count_up();
    }

    pub fn detached(&mut self, network: &str) {
        self.networks.retain(|n| n.network != network);
        self.count_up();
    }

    fn count_up(&mut self) {
        let all = self.networks.iter().flat_map(|n| &n.addresses);
        self.addresses = all.map(Cidr::address).collect();
        self.mac = self.networks.iter().find_map(|n| n.mac.clone());
    }

    /// The addresses that published ports lead to.
    pub fn published_to(&self) -> Vec<std::net::IpAddr> {
        let on = self.networks.iter().filter(|n| n.publishes);
        on.flat_map(|n| &n.addresses).map(Cidr::address).collect()
    }
}

/// What the shim wrote when the container's init had exited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExitRecord {
    #[serde(default)]
    pub pid: u32,
    /// As a shell counts: the exit code, or 128 + the signal.
    pub exit_status: u32,
    /// RFC 3339 with nanoseconds.
    pub exited_at: String,
    #[serde(default)]
    pub oom_killed: bool,
}

/// A container as it was found: its row and its record.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: ContainerId,
    pub name: Name,
    pub image: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub record: Record,
}
