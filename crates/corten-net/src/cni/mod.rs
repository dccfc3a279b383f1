//! The runtime's side of CNI: attach a container to a network, take it off, compare, collect.

mod cache;
mod caller;
mod exec;

use std::path::PathBuf;

pub use caller::Caller;
use corten_spec::ContainerId;
pub use corten_spec::cni::{
    Capabilities, CniResult, Dns, DnsArgument, NetworkConfigList, PortMapping, Protocol,
};
pub(crate) use exec::exec;

/// One container on one network by one interface: what a call is about.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub container_id: ContainerId,
    /// `/proc/PID/ns/net` or a bind mount of a namespace. DEL takes one that has gone, or an
    /// empty path.
    pub netns: PathBuf,
    /// The name of the link inside, `eth0` usually.
    pub ifname: String,
    /// `CNI_ARGS`: key and value, none of them holding `;` or `=`.
    pub args: Vec<(String, String)>,
    pub capabilities: Capabilities,
}

impl Attachment {
    /// On `eth0`, with no arguments.
    pub fn new(container_id: ContainerId, netns: impl Into<PathBuf>) -> Self {
        Self {
            container_id,
            netns: netns.into(),
            ifname: "eth0".into(),
            args: Vec::new(),
            capabilities: Capabilities::default(),
        }
    }
}

/// An attachment that GC must leave alone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}
