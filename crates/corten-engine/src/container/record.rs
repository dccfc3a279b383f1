//! What the database and the state folder remember of a container: versioned, apart from
//! the types that the code works with.

use corten_shim::Restarting;
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
    /// Why the last start failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// A start that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The whole chain, in one line.
    pub error: String,
    /// As docker's: 127 and 126 where the program is missing or not executable, else 128.
    pub exit_code: u32,
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
    /// How often its policy has started it since the user did.
    #[serde(default)]
    pub restarts: u32,
    /// When the run before this one ended, as its exit record had it.
    #[serde(default)]
    pub last_finished: Option<String>,
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
    /// It is to be started again, if its supervisor still lives.
    #[serde(default)]
    pub restarting: Option<Restarting>,
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

impl Failure {
    pub(crate) fn of(error: &crate::Error) -> Self {
        let mut text = error.to_string();
        let mut exit_code = 128;
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            let shim = cause.downcast_ref::<corten_shim::Error>();
            let told = shim.and_then(corten_shim::Error::failure);
            if let Some(code @ (126 | 127)) = told.map(|f| f.exit_code) {
                exit_code = code as u32;
            }
            source = cause.source();
        }
        Self {
            error: text,
            exit_code,
        }
    }
}
