//! From CRI's configuration of a pod to the specification of the process that holds it. Pure, but for the `config.json`
//! that a sandbox's bundle may have.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use corten_spec::Kind;
use corten_spec::oci::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Spec};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use crate::proto::sandbox::{IdRange, Mode, PodConfig};
use crate::ttrpc::status::Status;

/// Who is nobody's user, as in the pause images.
const NOBODY: u32 = 65535;
const POD_CONFIG: &str = "runtime.v1.PodSandboxConfig";

/// What CreateSandbox says.
#[derive(Debug)]
pub struct Asked<'a> {
    pub id: &'a str,
    pub namespace: &'a str,
    pub bundle: &'a Path,
    pub options: Option<&'a Any>,
    /// The pod's network namespace; empty: the host's.
    pub network: &'a str,
    pub annotations: &'a BTreeMap<String, String>,
}

/// The holder's specification: the namespaces that the pod's containers share, and nothing to run.
pub fn spec(asked: &Asked<'_>) -> Result<Spec, Status> {
    let config = config(asked.options)?;
    let given = given(asked.bundle)?;
    let linux = match given.get("linux") {
        Some(linux) => linux.clone(),
        None => linux(asked, &config)?,
    };
    let hostname = match given.get("hostname").and_then(Value::as_str) {
        Some(name) => name,
        None => &config.hostname,
    };
    let mut document = json!({
        "ociVersion": corten_runtime::OCI_VERSION,
        "process": {
            "user": {"uid": NOBODY, "gid": NOBODY},
            "args": ["pause"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": "/"},
        "annotations": asked.annotations,
        "linux": linux,
    });
    // Without a namespace of its own the name would be the host's.
    if !hostname.is_empty() && makes(&document, "uts") {
        document["hostname"] = hostname.into();
    }
    if !makes(&document, "mount") {
        let all = document.pointer_mut("/linux/namespaces");
        let all = all.and_then(Value::as_array_mut);
        // It must not be in the shim's.
        let all = all.ok_or_else(|| invalid("a sandbox without namespaces".into()))?;
        all.push(json!({"type": "mount"}));
    }
    let bytes = document.to_string();
    let (spec, _) = corten_runtime::document::read(bytes.as_bytes())
        .map_err(|e| invalid(format!("bad sandbox: {e}")))?;
    Ok(spec)
}

fn makes(document: &Value, kind: &str) -> bool {
    let all = document["linux"]["namespaces"].as_array();
    all.is_some_and(|all| {
        all.iter()
            .any(|n| n["type"] == kind && n.get("path").is_none())
    })
}

/// Whether the control group is a scope of systemd's: `SLICE:PREFIX:NAME`.
pub fn is_systemd(spec: &Spec) -> bool {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone());
    path.is_some_and(|p| p.to_string_lossy().splitn(3, ':').count() == 3)
}

/// Who is root in the pod, as the host sees it.
pub fn root_of(spec: &Spec) -> (u32, u32) {
    let linux = spec.linux().as_ref();
    let first = |maps: Option<&Vec<LinuxIdMapping>>| {
        let mut maps = maps.into_iter().flatten();
        maps.find(|m| m.container_id() == 0)
            .map_or(0, |m| m.host_id())
    };
    (
        first(linux.and_then(|l| l.uid_mappings().as_ref())),
        first(linux.and_then(|l| l.gid_mappings().as_ref())),
    )
}

/// The path of the pod's network, if the pod is to have a user namespace as well.
pub fn network_of_users(spec: &Spec) -> Option<PathBuf> {
    let all = spec.linux().as_ref()?.namespaces().as_ref()?;
    let find = |kind| all.iter().find(|n| n.typ() == kind);
    find(LinuxNamespaceType::User).filter(|n| n.path().is_none())?;
    find(LinuxNamespaceType::Network)?.path().clone()
}

/// Has the pod join a user namespace instead of making one.
pub fn join_users(spec: &mut Spec, path: PathBuf) {
    let linux = spec.linux_mut().as_mut();
    let all = linux.and_then(|l| l.namespaces_mut().as_mut());
    let users = |n: &&mut LinuxNamespace| n.typ() == LinuxNamespaceType::User;
    if let Some(namespace) = all.and_then(|all| all.iter_mut().find(users)) {
        namespace.set_path(Some(path));
    }
}

pub fn config(options: Option<&Any>) -> Result<PodConfig, Status> {
    let Some(any) = options.filter(|a| !a.value.is_empty()) else {
        return Ok(PodConfig::default());
    };
    match crate::options::name(any) {
        POD_CONFIG => PodConfig::decode(any.value.as_slice())
            .map_err(|e| invalid(format!("bad options {}: {e}", any.type_url))),
        other => Err(invalid(format!(
            "options of type {other} are not understood: a sandbox takes {POD_CONFIG}"
        ))),
    }
}

/// The specification that whoever made the sandbox gave it, if they did.
fn given(bundle: &Path) -> Result<Value, Status> {
    let path = bundle.join("config.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) if bytes.is_empty() => return Ok(Value::Null),
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Value::Null),
        Err(e) => {
            let text = format!("cannot read {}: {e}", path.display());
            return Err(Status::of(Kind::Internal, text));
        }
    };
    serde_json::from_slice(&bytes).map_err(|e| invalid(format!("bad {}: {e}", path.display())))
}

fn linux(asked: &Asked<'_>, config: &PodConfig) -> Result<Value, Status> {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let wanted = security.namespace_options.clone().unwrap_or_default();
    let mut namespaces = vec![json!({"type": "mount"})];
    if !asked.network.is_empty() {
        namespaces.push(json!({"type": "network", "path": asked.network}));
    }
    // A pod on the host's network has the host's name.
    if wanted.network() != Mode::Node {
        namespaces.push(json!({"type": "uts"}));
    }
    if wanted.ipc() != Mode::Node {
        namespaces.push(json!({"type": "ipc"}));
    }
    // Else each container has its own, or the host's.
    if wanted.pid() == Mode::Pod && security.namespace_options.is_some() {
        namespaces.push(json!({"type": "pid"}));
    }
    let users = wanted.userns_options.clone().unwrap_or_default();
    if !matches!(users.mode(), Mode::Pod | Mode::Node) {
        let mode = users.mode().as_str_name();
        return Err(invalid(format!(
            "userns_options of mode {mode}: a pod has users of its own or the node's"
        )));
    }
    let mapped = users.mode() == Mode::Pod && wanted.userns_options.is_some();
    if mapped {
        if users.uids.is_empty() || users.gids.is_empty() {
            return Err(invalid("userns_options without uids or gids".to_string()));
        }
        namespaces.push(json!({"type": "user"}));
    }
    let mut value = json!({
        "namespaces": namespaces,
        "cgroupsPath": cgroup(asked, &linux.cgroup_parent),
        "sysctl": linux.sysctls,
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
    });
    if mapped {
        value["uidMappings"] = ranges(&users.uids);
        value["gidMappings"] = ranges(&users.gids);
    }
    Ok(value)
}

/// As containerd names the groups of a pod's containers.
fn cgroup(asked: &Asked<'_>, parent: &str) -> String {
    let name = parent.rsplit('/').next().unwrap_or_default();
    match (parent, name.ends_with(".slice")) {
        ("", _) => format!("/{}/{}", asked.namespace, asked.id),
        (_, true) => format!("{name}:cri-containerd:{}", asked.id),
        (parent, false) => format!("/{}/{}", parent.trim_matches('/'), asked.id),
    }
}

fn ranges(ranges: &[IdRange]) -> Value {
    let range = |r: &IdRange| {
        json!({
            "containerID": r.container_id,
            "hostID": r.host_id,
            "size": r.length,
        })
    };
    ranges.iter().map(range).collect()
}

fn invalid(text: String) -> Status {
    Status::of(Kind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sandbox::{PodLinux, PodNamespaces, PodSecurity, PodUsers};

    fn made(config: &PodConfig, network: &str) -> Value {
        let dir = tempfile::tempdir().unwrap();
        let any = Any {
            type_url: format!("type.googleapis.com/{POD_CONFIG}"),
            value: config.encode_to_vec(),
        };
        let spec = spec(&Asked {
            id: "pod",
            namespace: "k8s.io",
            bundle: dir.path(),
            options: Some(&any),
            network,
            annotations: &BTreeMap::new(),
        });
        serde_json::to_value(spec.unwrap()).unwrap()
    }

    fn kinds(spec: &Value) -> Vec<&str> {
        let all = spec["linux"]["namespaces"].as_array().unwrap();
        all.iter().map(|n| n["type"].as_str().unwrap()).collect()
    }

    fn with(namespaces: PodNamespaces, parent: &str) -> PodConfig {
        PodConfig {
            hostname: "web".into(),
            linux: Some(PodLinux {
                cgroup_parent: parent.into(),
                security_context: Some(PodSecurity {
                    namespace_options: Some(namespaces),
                }),
                sysctls: BTreeMap::new(),
            }),
            ..PodConfig::default()
        }
    }

    #[test]
    fn a_pod_shares_network_name_and_ipc() {
        let mut namespaces = PodNamespaces::default();
        namespaces.set_pid(Mode::Container);
        let spec = made(&with(namespaces, "/kubepods/burstable"), "/run/netns/x");
        assert_eq!(kinds(&spec), ["mount", "network", "uts", "ipc"]);
        assert_eq!(spec["hostname"], "web");
        assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/burstable/pod");
        assert_eq!(spec["process"]["user"]["uid"], NOBODY);
    }

    #[test]
    fn a_pod_of_the_host_has_neither_name_nor_network() {
        let mut namespaces = PodNamespaces::default();
        namespaces.set_network(Mode::Node);
        namespaces.set_ipc(Mode::Node);
        let spec = made(&with(namespaces, "/a/kube.slice"), "");
        assert_eq!(kinds(&spec), ["mount", "pid"]);
        assert!(spec.get("hostname").is_none(), "{spec}");
        assert_eq!(
            spec["linux"]["cgroupsPath"],
            "kube.slice:cri-containerd:pod"
        );
    }

    #[test]
    fn users_are_mapped_as_asked() {
        let range = IdRange {
            host_id: 100_000,
            container_id: 0,
            length: 65536,
        };
        let namespaces = PodNamespaces {
            userns_options: Some(PodUsers {
                mode: Mode::Pod.into(),
                uids: vec![range],
                gids: vec![range],
            }),
            ..PodNamespaces::default()
        };
        let spec = made(&with(namespaces, ""), "/run/netns/x");
        assert!(kinds(&spec).contains(&"user"));
        assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], 100_000);
        assert_eq!(spec["linux"]["cgroupsPath"], "/k8s.io/pod");
    }

    #[test]
    fn a_configuration_without_namespaces_is_refused() {
        for linux in [json!(5), json!({}), json!({"namespaces": "all"})] {
            let dir = tempfile::tempdir().unwrap();
            let given = json!({"linux": linux}).to_string();
            std::fs::write(dir.path().join("config.json"), given).unwrap();
            let refused = spec(&Asked {
                id: "pod",
                namespace: "k8s.io",
                bundle: dir.path(),
                options: None,
                network: "",
                annotations: &BTreeMap::new(),
            });
            assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "{linux}");
        }
    }

    #[test]
    fn users_of_another_container_are_refused() {
        for mode in [Mode::Container, Mode::Target] {
            let config = with(
                PodNamespaces {
                    userns_options: Some(PodUsers {
                        mode: mode.into(),
                        ..PodUsers::default()
                    }),
                    ..PodNamespaces::default()
                },
                "",
            );
            let error = linux(&asked(&BTreeMap::new()), &config).unwrap_err();
            assert!(error.message.contains(mode.as_str_name()), "{error:?}");
        }
    }

    fn asked(annotations: &BTreeMap<String, String>) -> Asked<'_> {
        Asked {
            id: "pod",
            namespace: "k8s.io",
            bundle: Path::new("/nowhere"),
            options: None,
            network: "",
            annotations,
        }
    }

    #[test]
    fn options_of_others_are_named() {
        let any = Any {
            type_url: "example.Thing".into(),
            value: vec![1],
        };
        assert!(
            config(Some(&any))
                .unwrap_err()
                .message
                .contains("example.Thing")
        );
    }
}
