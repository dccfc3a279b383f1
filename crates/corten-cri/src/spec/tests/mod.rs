//! Plans as text, and by rule. After a wanted change: `CORTEN_BLESS=1 cargo test -p corten-cri spec`.

mod devices;
mod golden;
mod mounts;
mod namespaces;
mod properties;
mod security;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use corten_engine::image::ImageConfig;
use serde_json::Value;

use super::facts::*;
use super::{Planned, Refused, container, needs};
use crate::cdi::Registry;
use crate::proto::{
    ContainerConfig, ContainerMetadata, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata,
};

pub(super) fn host() -> Host {
    Host {
        kernel: (6, 12),
        machine: "x86_64",
        unified: true,
        swap_accounting: true,
        hugetlb: true,
        // All 41 but CAP_SYS_RESOURCE.
        bounding: 0x1ff_feff_ffff,
        lowest_oom_score: Some(0),
        apparmor: None,
        selinux: None,
    }
}

pub(super) fn handler() -> Handler {
    Handler {
        pod_annotations: vec![],
        container_annotations: vec![],
        privileged_without_host_devices: false,
        device_ownership: false,
        recursive_read_only: true,
        oci_version: "1.2.0",
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/sh\n\
    default-user:x:1000:1000::/home:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww:x:33:\nadm:x:4:www,root\nin-image:x:50000:default-user\n";

/// Everything that a plan depends on, to be changed by a test.
struct World {
    host: Host,
    handler: Handler,
    namespaces: Namespaces,
    files_are_its: bool,
    image: ImageConfig,
    observed: Observed,
    images: BTreeMap<usize, PathBuf>,
    cdi: Registry,
}

impl World {
    fn new() -> Self {
        let path = |kind: &str| Some(PathBuf::from(format!("/proc/7/ns/{kind}")));
        Self {
            host: host(),
            handler: handler(),
            namespaces: Namespaces {
                network: path("net"),
                ipc: path("ipc"),
                uts: path("uts"),
                user: path("user"),
                pid: path("pid"),
                target: None,
            },
            files_are_its: true,
            image: ImageConfig {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["arg".into()],
                env: vec!["LANG=C".into()],
                working_dir: "/srv".into(),
                ..ImageConfig::default()
            },
            observed: Observed::default(),
            images: BTreeMap::new(),
            cdi: Registry::default(),
        }
    }

    fn plan(&self, pod: &PodSandboxConfig, asked: &ContainerConfig) -> Result<Planned, Refused> {
        let file = |name: &str| Some(PathBuf::from(format!("/run/pod/{name}")));
        let of_pod = Pod {
            id: "pod1",
            hostname: "web",
            namespaces: self.namespaces.clone(),
            hosts: file("hosts"),
            hostname_file: file("hostname"),
            resolv_conf: file("resolv.conf"),
            files_are_its: self.files_are_its,
            shm: file("shm"),
            level: "s0:c1,c2",
        };
        let planned = container(
            pod,
            asked,
            &Facts {
                host: &self.host,
                handler: &self.handler,
                pod: &of_pod,
                image: &self.image,
                image_name: "registry.k8s.io/web:1",
                passwd: PASSWD,
                group: GROUP,
                observed: &self.observed,
                images: &self.images,
                cgroup: "/kubepods/pod1/c1",
                cdi: &self.cdi,
            },
        )?;
        // What can be planned can be looked at before.
        needs(asked, &self.handler, &self.cdi)?;
        readable(&planned.spec);
        Ok(planned)
    }

    fn spec(&self, pod: &PodSandboxConfig, asked: &ContainerConfig) -> Value {
        self.plan(pod, asked).unwrap().spec
    }

    fn refusal(&self, pod: &PodSandboxConfig, asked: &ContainerConfig) -> String {
        self.plan(pod, asked).unwrap_err().to_string()
    }
}

/// What we write must be what the runtime's types can read.
fn readable(spec: &Value) {
    if let Err(error) = serde_json::from_value::<corten_spec::oci::runtime::Spec>(spec.clone()) {
        panic!("{error}: {spec:#}");
    }
}

/// Like a pod of kubelet's: each container has its own PID namespace.
fn pod() -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "web".into(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn options() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container as i32,
        ..Default::default()
    }
}

fn with_options(options: &NamespaceOption) -> PodSandboxConfig {
    let mut pod = pod();
    let context = pod.linux.as_mut().unwrap().security_context.as_mut();
    context.unwrap().namespace_options = Some(options.clone());
    pod
}

/// A container, with a security context to be changed.
fn asked(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut context = LinuxContainerSecurityContext::default();
    change(&mut context);
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "nginx".into(),
            attempt: 0,
        }),
        linux: Some(LinuxContainerConfig {
            security_context: Some(context),
            resources: None,
        }),
        ..Default::default()
    }
}

fn golden(name: &str, spec: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = format!("{spec:#}\n");
    if std::env::var_os("CORTEN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let differs = expected.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(expected == text, "{name} differs, first in {differs:?}");
}
