//! Pods through containerd's CRI plugin, with our runtime type: one shim a pod, whatever restarts.

use std::fs;
use std::path::PathBuf;

use corten_shim::proto::task::ContainerRequest;
use corten_testkit::need;

use super::containerd::{Containerd, IMAGE};
use super::grpc::Grpc;
use super::raw::Raw;
use super::rig::eventually;

/// Messages of runtime.v1, with the fields that are used.
mod messages {
    macro_rules! messages {
        ($($name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty,)* })*) => {
            $(
                #[derive(Clone, PartialEq, prost::Message)]
                pub struct $name { $($(#[$attribute])* pub $field: $kind,)* }
            )*
        };
    }

    messages! {
        Metadata {
            #[prost(string, tag = "1")] name: String,
            #[prost(string, tag = "2")] uid: String,
            #[prost(string, tag = "3")] namespace: String,
        }
        Namespaces {
            #[prost(int32, tag = "1")] network: i32,
            #[prost(int32, tag = "2")] pid: i32,
        }
        Security {
            #[prost(message, optional, tag = "1")] namespace_options: Option<Namespaces>,
        }
        PodLinux {
            #[prost(message, optional, tag = "2")] security_context: Option<Security>,
        }
        PodConfig {
            #[prost(message, optional, tag = "1")] metadata: Option<Metadata>,
            #[prost(string, tag = "3")] log_directory: String,
            #[prost(message, optional, tag = "8")] linux: Option<PodLinux>,
        }
        RunPod {
            #[prost(message, optional, tag = "1")] config: Option<PodConfig>,
            #[prost(string, tag = "2")] runtime_handler: String,
        }
        // Of a pod or a container, in requests and answers.
        Id {
            #[prost(string, tag = "1")] id: String,
        }
        ContainerMetadata {
            #[prost(string, tag = "1")] name: String,
        }
        Image {
            #[prost(string, tag = "1")] image: String,
        }
        ContainerSecurity {
            #[prost(message, optional, tag = "3")] namespace_options: Option<Namespaces>,
        }
        ContainerLinux {
            #[prost(message, optional, tag = "2")] security_context: Option<ContainerSecurity>,
        }
        ContainerConfig {
            #[prost(message, optional, tag = "1")] metadata: Option<ContainerMetadata>,
            #[prost(message, optional, tag = "2")] image: Option<Image>,
            #[prost(string, repeated, tag = "3")] command: Vec<String>,
            #[prost(string, tag = "11")] log_path: String,
            #[prost(message, optional, tag = "15")] linux: Option<ContainerLinux>,
        }
        CreateContainer {
            #[prost(string, tag = "1")] pod: String,
            #[prost(message, optional, tag = "2")] config: Option<ContainerConfig>,
            #[prost(message, optional, tag = "3")] pod_config: Option<PodConfig>,
        }
        ExecSync {
            #[prost(string, tag = "1")] id: String,
            #[prost(string, repeated, tag = "2")] command: Vec<String>,
            #[prost(int64, tag = "3")] timeout: i64,
        }
        ExecResult {
            #[prost(bytes = "vec", tag = "1")] stdout: Vec<u8>,
            #[prost(bytes = "vec", tag = "2")] stderr: Vec<u8>,
            #[prost(int32, tag = "3")] exit_code: i32,
        }
        Stop {
            #[prost(string, tag = "1")] id: String,
            #[prost(int64, tag = "2")] timeout: i64,
        }
        Status {
            #[prost(int32, tag = "3")] state: i32,
            #[prost(int32, tag = "7")] exit_code: i32,
        }
        StatusAnswer {
            #[prost(message, optional, tag = "1")] status: Option<Status>,
        }
        Number {
            #[prost(uint64, tag = "1")] value: u64,
        }
        Usage {
            #[prost(message, optional, tag = "2")] used: Option<Number>,
        }
        Stats {
            #[prost(message, optional, tag = "2")] cpu: Option<Usage>,
            #[prost(message, optional, tag = "3")] memory: Option<Usage>,
        }
        Listed {
            #[prost(string, tag = "1")] id: String,
            #[prost(int32, tag = "6")] state: i32,
        }
        List {
            #[prost(message, repeated, tag = "1")] items: Vec<Listed>,
        }
        ListedPod {
            #[prost(string, tag = "1")] id: String,
            #[prost(int32, tag = "3")] state: i32,
        }
        PodList {
            #[prost(message, repeated, tag = "1")] items: Vec<ListedPod>,
        }
        StatsAnswer {
            #[prost(message, optional, tag = "1")] stats: Option<Stats>,
        }
    }
}
pub(super) use messages::*;

pub(super) const EXITED: i32 = 2;
const NODE: i32 = 2;

pub(super) struct Cri {
    pub(super) containerd: Containerd,
    pub(super) grpc: Grpc,
    pod: PodConfig,
}

impl Cri {
    pub(super) fn start() -> Option<Self> {
        let tables = format!(
            r#"[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_tcp_service = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "corten"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.corten]
  runtime_type = "io.containerd.corten.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.corten.options]
  NoNewKeyring = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "@AT@/cni/bin"
  conf_dir = "@AT@/cni/conf"
"#
        );
        let top = r#"disabled_plugins = ["io.containerd.internal.v1.opt"]"#;
        let containerd = Containerd::configured(&tables, top, Some("k8s.io"))?;
        let pod = PodConfig {
            metadata: Some(Metadata {
                name: "pod".into(),
                uid: "uid".into(),
                namespace: "test".into(),
            }),
            log_directory: containerd.path().join("logs").display().to_string(),
            linux: Some(PodLinux {
                security_context: Some(Security {
                    namespace_options: Some(network_of_the_host()),
                }),
            }),
        };
        fs::create_dir_all(&pod.log_directory).unwrap();
        let grpc = Grpc::connect(&containerd.path().join("c.sock"));
        Some(Self {
            containerd,
            grpc,
            pod,
        })
    }

    pub(super) fn call<T: prost::Message + Default>(
        &mut self,
        method: &str,
        request: &impl prost::Message,
    ) -> T {
        let answer = self.grpc.call(method, request);
        answer.unwrap_or_else(|| panic!("{method} has failed"))
    }

    pub(super) fn run_pod(&mut self) -> String {
        let request = RunPod {
            config: Some(self.pod.clone()),
            runtime_handler: String::new(),
        };
        // The image that was imported is known to the plugin a moment later.
        let mut made = None;
        eventually("the pod", || {
            made = self.grpc.call::<Id>("RunPodSandbox", &request);
            made.is_some()
        });
        made.unwrap().id
    }

    pub(super) fn run(&mut self, pod: &str, name: &str, script: &str) -> String {
        let id = self
            .make(pod, name, script)
            .expect("CreateContainer has failed");
        self.call::<()>("StartContainer", &named(&id));
        id
    }

    /// Not started. `None`: it was refused.
    pub(super) fn make(&mut self, pod: &str, name: &str, script: &str) -> Option<String> {
        let request = CreateContainer {
            pod: pod.into(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: name.into() }),
                image: Some(Image {
                    image: IMAGE.into(),
                }),
                command: ["sh", "-c", script].map(String::from).into(),
                log_path: format!("{name}.log"),
                linux: Some(ContainerLinux {
                    security_context: Some(ContainerSecurity {
                        namespace_options: Some(network_of_the_host()),
                    }),
                }),
            }),
            pod_config: Some(self.pod.clone()),
        };
        self.grpc
            .call::<Id>("CreateContainer", &request)
            .map(|a| a.id)
    }

    pub(super) fn exec(&mut self, id: &str, script: &str) -> ExecResult {
        self.call("ExecSync", &self.asking(id, script))
    }

    pub(super) fn asking(&self, id: &str, script: &str) -> ExecSync {
        ExecSync {
            id: id.into(),
            command: ["sh", "-c", script].map(String::from).into(),
            timeout: 20,
        }
    }

    pub(super) fn status(&mut self, id: &str) -> Status {
        let answer: StatusAnswer = self.call("ContainerStatus", &named(id));
        answer.status.unwrap()
    }

    /// containerd is started again.
    pub(super) fn back(&mut self) {
        self.containerd.back();
        self.grpc = Grpc::connect(&self.containerd.path().join("c.sock"));
        eventually("the plugin", || {
            self.grpc.call::<Id>("Version", &named("")).is_some()
        });
    }

    pub(super) fn socket(&self, id: &str) -> PathBuf {
        let address = fs::read_to_string(self.containerd.bundle(id).join("address")).unwrap();
        address.strip_prefix("unix://").unwrap().into()
    }
}

/// No CNI is needed for it, and each container has its own PIDs.
fn network_of_the_host() -> Namespaces {
    Namespaces {
        network: NODE,
        pid: 1,
    }
}

pub(super) fn named(id: &str) -> Id {
    Id { id: id.into() }
}

#[test]
fn a_pod_of_three_containers_has_one_shim_for_its_whole_life() {
    if !need::file("/usr/bin/containerd") {
        return;
    }
    let mut it = Cri::start().unwrap();
    let pod = it.run_pod();
    let script = "echo out; echo err >&2; trap 'exit 7' TERM; sleep 1000 & wait";
    let ids: Vec<String> = ["one", "two", "three"]
        .map(|n| it.run(&pod, n, script))
        .into();
    let socket = it.socket(&pod);
    assert!(ids.iter().all(|id| it.socket(id) == socket));
    let shim = |it: &Cri| {
        let mut raw = Raw::connect(&it.socket(&pod));
        let request = ContainerRequest::default();
        let answer: corten_shim::proto::task::ConnectResponse = raw
            .call("containerd.task.v2.Task", "Connect", &request)
            .unwrap();
        answer.shim_pid
    };
    let first = shim(&it);
    let done = it.exec(&ids[1], "echo in; echo bad >&2; exit 5");
    assert_eq!(
        (done.stdout, done.stderr, done.exit_code),
        (b"in\n".to_vec(), b"bad\n".to_vec(), 5)
    );
    let log = fs::read_to_string(it.containerd.path().join("logs/one.log")).unwrap();
    assert!(
        log.contains("stdout F out") && log.contains("stderr F err"),
        "{log}"
    );
    let stats: StatsAnswer = it.call("ContainerStats", &named(&ids[0]));
    let stats = stats.stats.unwrap();
    let used = |usage: Option<Usage>| usage.and_then(|u| u.used).map_or(0, |n| n.value);
    assert!(used(stats.cpu) > 0 && used(stats.memory) > 0);
    // containerd comes and goes; the pod does not notice.
    it.containerd.die();
    it.back();
    assert_eq!(it.exec(&ids[2], "echo still").stdout, b"still\n");
    assert_eq!(shim(&it), first);
    // One goes, the others run on.
    it.call::<()>(
        "StopContainer",
        &Stop {
            id: ids[0].clone(),
            timeout: 10,
        },
    );
    let status = it.status(&ids[0]);
    assert_eq!((status.state, status.exit_code), (EXITED, 7));
    it.call::<()>("RemoveContainer", &named(&ids[0]));
    assert_eq!(it.exec(&ids[1], "echo still").stdout, b"still\n");
    let again = it.run(&pod, "four", script);
    assert_eq!(it.socket(&again), socket);
    assert_eq!(shim(&it), first);
    it.call::<()>("StopPodSandbox", &named(&pod));
    it.call::<()>("RemovePodSandbox", &named(&pod));
    eventually("the shim's end", || !socket.exists());
    assert!(!it.containerd.bundle(&pod).exists());
}
