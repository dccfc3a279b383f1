//! What a user asks for when creating a container, after parsing and before
//! any look at the host. Docker's words and defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use corten_spec::Name;
use serde::{Deserialize, Serialize};

/// One container, as asked for. Kept in the database so that `start` does the same again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    pub image: String,
    pub name: Option<Name>,
    pub process: ProcessOptions,
    pub limits: Limits,
    pub security: Security,
    pub network: NetworkOptions,
    pub mounts: Vec<MountRequest>,
    pub labels: BTreeMap<String, String>,
    /// Remove the container when it has exited.
    pub auto_remove: bool,
    pub read_only: bool,
    /// Put a small init before the command, which reaps and passes signals on.
    pub init: bool,
    /// Who runs it, by the name that [`runtime`](crate::runtime) looks up; `None` is our own.
    #[serde(default)]
    pub runtime: Option<String>,
}

/// What runs, as whom, with what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessOptions {
    /// Replaces the image's entrypoint (an empty list: none).
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Vec<String>,
    /// `KEY=VALUE`, later ones win.
    pub env: Vec<String>,
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub tty: bool,
    pub open_stdin: bool,
    /// The end of the first client's input is the end of the container's.
    #[serde(default)]
    pub stdin_once: bool,
}

/// Resource limits; `None` is no limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<i64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    pub pids: Option<i64>,
    pub ulimits: Vec<Ulimit>,
}

/// `--ulimit NAME=SOFT[:HARD]`, by the kernel's RLIMIT_ name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `RLIMIT_NOFILE`, …
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Security {
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub seccomp: Seccomp,
    pub no_new_privileges: bool,
}

/// Which system call filter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's default policy; none for a privileged container.
    #[default]
    Default,
    Unconfined,
    /// A profile in the OCI or Docker form, read when the container was created.
    Profile(serde_json::Value),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkOptions {
    pub mode: NetworkMode,
    /// With [`NetworkMode::Bridge`], the networks that the container is on; `None` is the default network alone.
    #[serde(default)]
    pub endpoints: Option<Vec<Endpoint>>,
    pub dns: Vec<IpAddr>,
    /// A single `.` is none.
    #[serde(default)]
    pub dns_search: Vec<String>,
    #[serde(default)]
    pub dns_options: Vec<String>,
    /// Host name and address, for `/etc/hosts`.
    pub add_host: Vec<(String, IpAddr)>,
    /// Host names that get the address by which the container reaches the host (`--add-host NAME:host-gateway`).
    #[serde(default)]
    pub gateway_hosts: Vec<String>,
    pub ports: Vec<PortMapping>,
    /// And every port that the image exposes, on ports of the host that are free.
    #[serde(default)]
    pub publish_all: bool,
}

impl NetworkOptions {
    /// Every network that the container is on.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        match (&self.mode, &self.endpoints) {
            (NetworkMode::Bridge, None) => vec![Endpoint::new(DEFAULT_NETWORK)],
            (NetworkMode::Bridge, Some(all)) => all.clone(),
            _ => Vec::new(),
        }
    }
}

/// The network of containers that ask for none.
pub const DEFAULT_NETWORK: &str = "bridge";

/// One network that a container is on, and what it wants there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: String,
    /// Counts from 0 and stays the same as others come and go: the name of the interface (`eth0`) and the metric of the
    /// default route follow from it.
    pub ordinal: u32,
    /// More names for the network's other containers to find it by.
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub ip: Option<Ipv4Addr>,
    #[serde(default)]
    pub ip6: Option<Ipv6Addr>,
    #[serde(default)]
    pub mac: Option<String>,
    /// Instead of `eth` and the ordinal.
    #[serde(default)]
    pub interface: Option<String>,
}

impl Endpoint {
    pub fn new(network: &str) -> Self {
        Self {
            network: network.into(),
            ..Self::default()
        }
    }

    /// The name of its link in the container.
    pub fn interface(&self) -> String {
        match &self.interface {
            Some(name) => name.clone(),
            None => format!("eth{}", self.ordinal),
        }
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ip.map(IpAddr::V4);
        v4.into_iter().chain(self.ip6.map(IpAddr::V6))
    }
}

/// Whose network namespace it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Its own, on networks.
    #[default]
    Bridge,
    Host,
    /// Its own, with nothing but the loopback.
    None,
    /// Another container's, by id.
    Container(String),
    /// That of a file.
    Namespace(PathBuf),
}

impl NetworkMode {
    /// As `--network` takes it.
    pub fn text(&self) -> String {
        match self {
            Self::Bridge => DEFAULT_NETWORK.into(),
            Self::Host => "host".into(),
            Self::None => "none".into(),
            Self::Container(id) => format!("container:{id}"),
            Self::Namespace(path) => format!("ns:{}", path.display()),
        }
    }

    /// Whether the namespace is made for this container.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Bridge | Self::None)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One published port. `host_port` 0 is chosen when the container starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// One `-v` or `--tmpfs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    pub source: MountSource,
    /// Absolute, in the container.
    pub target: String,
    /// Mount options after the kind's defaults: `ro`, `rshared`, `size=64m`, …
    pub options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    Bind(PathBuf),
    Volume(String),
    Tmpfs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_of_networks_before_there_were_several() {
        let text = r#"{"mode": "bridge", "dns": [], "add_host": [], "ports": [
            {"host_ip": null, "host_port": 0, "container_port": 80, "protocol": "tcp"}]}"#;
        let options: NetworkOptions = serde_json::from_str(text).unwrap();
        assert_eq!(options.endpoints(), [Endpoint::new("bridge")]);
        assert!(!options.publish_all);
        for (text, mode) in [("host", NetworkMode::Host), ("none", NetworkMode::None)] {
            let text = format!(r#"{{"mode": "{text}", "dns": [], "add_host": [], "ports": []}}"#);
            let options: NetworkOptions = serde_json::from_str(&text).unwrap();
            assert_eq!((options.endpoints(), options.mode), (Vec::new(), mode));
        }
    }
}
