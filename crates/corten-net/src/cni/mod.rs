//! The runtime's side of CNI: attach a container to a network, take it off, compare, collect.

pub(crate) mod cache;
mod caller;
mod exec;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::path::PathBuf;

pub use caller::Caller;
use corten_spec::ContainerId;
pub use corten_spec::cni::{
    Capabilities, CniResult, Dns, DnsArgument, NetworkConfigList, PortMapping, Protocol,
};
pub(crate) use exec::{exec, insert};
pub use folder::{ConfigFile, load_file, load_folder};

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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use corten_spec::cni::{CniResult, NetworkConfigList, Version};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use crate::plugin::{self, Request, Session, Verb};

    /// Any JSON, made of the keys and values that mean something here.
    fn documents() -> impl Strategy<Value = Value> {
        let words = "10.0.0.0/24|fd00::/64|10.0.0.5|::1|bridge|host-local|portmap|1.0.0|0.4.0|eth0|tcp|-1|\\PC{0,4}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0u32..70000).prop_map(Value::from),
            words.prop_map(Value::from),
        ];
        let keys = "cniVersion|cniVersions|name|type|plugins|ipam|ranges|subnet|rangeStart|rangeEnd|gateway|routes|dst|gw|\
                    interfaces|ips|address|interface|dns|capabilities|prevResult|runtimeConfig|portMappings|hostPort|\
                    containerPort|hostIP|protocol|vlan|mtu|sandbox|disableGC";
        leaf.prop_recursive(5, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys, inner), 0..6)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_document_makes_a_panic(document in documents(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = NetworkConfigList::parse(&bytes);
            if let Ok(result) = CniResult::parse(&document, Version::V1_1_0) {
                for version in Version::ALL {
                    let again = CniResult::parse(&result.to_document(version), version).unwrap();
                    prop_assert_eq!(&again.ips, &result.ips);
                }
            }
            if let Ok(list) = NetworkConfigList::from_document(document.clone()) {
                let _ = (crate::network::Parts::of(&list, &list.plugins[0]), list.document());
            }
            // STATUS reads the whole configuration and changes nothing.
            let mut config = document.as_object().cloned().unwrap_or_else(Map::new);
            config.insert("name".into(), json!("n"));
            if let Some(ipam) = config.get_mut("ipam").and_then(Value::as_object_mut) {
                ipam.insert("dataDir".into(), json!("/nonexistent"));
                ipam.insert("type".into(), json!("host-local"));
            }
            let session = Session::default();
            for name in plugin::NAMES {
                let _ = plugin::run(name, &Request {
                    verb: Verb::Status,
                    container_id: "c",
                    netns: Path::new(""),
                    ifname: "eth0",
                    args: &[],
                    path: &[],
                    bundled: true,
                    version: Version::V1_1_0,
                    config: &config,
                    session: &session,
                });
            }
        }
    }
}
