//! What a user asks for when creating a container, after parsing and before
//! any look at the host. Docker's words and defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
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
    pub dns: Vec<IpAddr>,
    /// Host name and address, for `/etc/hosts`.
    pub add_host: Vec<(String, IpAddr)>,
    pub ports: Vec<PortMapping>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    #[default]
    Bridge,
    Host,
    None,
}

impl NetworkMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::None => "none",
        }
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
