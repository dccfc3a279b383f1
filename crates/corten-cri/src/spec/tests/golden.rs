//! Whole specifications.

use serde_json::json;

use super::*;
use crate::proto::{
    Device, HugepageLimit, IdMapping, Int64Value, KeyValue, LinuxContainerResources, Mount,
    MountPropagation, SecurityProfile, UserNamespace, security_profile::ProfileType,
};
use crate::spec::sandbox;

pub(super) fn ids() -> UserNamespace {
    let map = vec![IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    }];
    UserNamespace {
        mode: NamespaceMode::Pod as i32,
        uids: map.clone(),
        gids: map,
    }
}

fn node(below: &str, character: bool, major: u32, minor: u32) -> Node {
    Node {
        below: below.into(),
        character,
        major,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 6,
    }
}

/// As kubelet asks for a container of a burstable pod.
fn usual() -> ContainerConfig {
    let mut asked = asked(|c| {
        c.namespace_options = Some(options());
        c.run_as_user = Some(Int64Value { value: 1000 });
        c.supplemental_groups = vec![2000];
        c.no_new_privs = true;
        c.masked_paths = vec!["/proc/kcore".into()];
        c.readonly_paths = vec!["/proc/sys".into()];
        c.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: "/var/lib/kubelet/seccomp/web.json".into(),
        });
    });
    asked.envs = vec![KeyValue {
        key: "PORT".into(),
        value: b"80".to_vec(),
    }];
    asked.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 985,
        hugepage_limits: vec![HugepageLimit {
            page_size: "2MB".into(),
            limit: 0,
        }],
        unified: [("memory.high".to_owned(), "60000000".to_owned())].into(),
        ..Default::default()
    });
    let mount = |target: &str, source: &str, readonly| Mount {
        container_path: target.into(),
        host_path: source.into(),
        readonly,
        ..Default::default()
    };
    asked.mounts = vec![
        mount(
            "/var/run/secrets/kubernetes.io/serviceaccount",
            "/v/token",
            true,
        ),
        mount("/etc/hosts", "/v/etc-hosts", false),
        mount("/dev/termination-log", "/v/termination", false),
        Mount {
            propagation: MountPropagation::PropagationHostToContainer as i32,
            ..mount("/host", "/srv", true)
        },
    ];
    asked
}

#[test]
fn a_usual_container() {
    let mut world = World::new();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO" }],
    });
    world
        .observed
        .seccomp
        .insert("/var/lib/kubelet/seccomp/web.json".into(), profile);
    for (path, found) in [
        ("/v/token", Source::Present(Propagation::Private)),
        ("/v/etc-hosts", Source::Present(Propagation::Private)),
        ("/v/termination", Source::Present(Propagation::Private)),
        ("/srv", Source::Absent(Propagation::Shared)),
    ] {
        world.observed.sources.insert(path.into(), found);
    }
    let planned = world.plan(&pod(), &usual()).unwrap();
    assert_eq!(planned.user.supplemental_groups, [1000, 2000, 50000]);
    assert_eq!(planned.folders, [Path::new("/srv")]);
    assert_eq!(planned.stop_signal, 15);
    assert_eq!(planned.warnings, [""; 0]);
    golden("usual.json", &planned.spec);
}

#[test]
fn a_container_of_which_nothing_is_said() {
    let world = World::new();
    let asked = ContainerConfig::default();
    golden("nothing.json", &world.spec(&pod(), &asked));
}

#[test]
fn a_privileged_container() {
    let mut world = World::new();
    world.observed.devices.insert(
        "/dev".into(),
        vec![node("null", true, 1, 3), node("sda", false, 8, 0)],
    );
    world
        .observed
        .devices
        .insert("/dev/nvme".into(), vec![node("", false, 259, 0)]);
    let mut pod = pod();
    let context = pod.linux.as_mut().unwrap().security_context.as_mut();
    context.unwrap().privileged = true;
    let mut asked = asked(|c| {
        c.privileged = true;
        c.masked_paths = vec!["/proc/kcore".into()];
    });
    asked.devices = vec![Device {
        container_path: "/dev/disk".into(),
        host_path: "/dev/nvme".into(),
        permissions: "r".into(),
    }];
    asked.tty = true;
    golden("privileged.json", &world.spec(&pod, &asked));
}

#[test]
fn a_container_with_a_user_namespace() {
    let options = NamespaceOption {
        userns_options: Some(ids()),
        ..options()
    };
    let mut asked = asked(|c| c.namespace_options = Some(options.clone()));
    let map = ids().uids;
    asked.mounts = vec![Mount {
        container_path: "/data".into(),
        host_path: "/v/data".into(),
        uid_mappings: map.clone(),
        gid_mappings: map,
        ..Default::default()
    }];
    let mut world = World::new();
    let pod = with_options(&options);
    golden("user.json", &world.spec(&pod, &asked));
    // The files of a pod that an earlier version has made are root's on the host.
    world.files_are_its = false;
    let spec = world.spec(&pod, &asked);
    let mounts = spec["mounts"].as_array().unwrap();
    let hosts = mounts.iter().find(|m| m["destination"] == "/etc/hosts");
    assert_eq!(hosts.unwrap()["uidMappings"][0]["hostID"], 100_000);
}

fn sandbox_of(pod: &PodSandboxConfig) -> Value {
    let facts = sandbox::Facts {
        host: &host(),
        handler: &handler(),
        id: "pod1",
        observed: &Observed::default(),
        cgroup: "/kubepods/pod1/pod1",
        level: "",
    };
    let planned = sandbox::plan(pod, &facts).unwrap();
    readable(&planned.spec);
    planned.spec
}

#[test]
fn a_pod_without_a_process() {
    let mut pod = pod();
    let linux = pod.linux.as_mut().unwrap();
    linux.sysctls = [("net/ipv4/conf/eth0.1/mtu".to_owned(), "9000".to_owned())].into();
    linux.resources = Some(LinuxContainerResources {
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 30,
        ..Default::default()
    });
    golden("pod.json", &sandbox_of(&pod));
}

#[test]
fn a_pod_whose_containers_share_processes_and_users() {
    let pod = with_options(&NamespaceOption {
        userns_options: Some(ids()),
        ..Default::default()
    });
    golden("pod-shared.json", &sandbox_of(&pod));
}

#[test]
fn a_pod_of_the_host() {
    let host = NamespaceMode::Node as i32;
    let mut pod = with_options(&NamespaceOption {
        network: host,
        pid: host,
        ipc: host,
        ..Default::default()
    });
    pod.hostname.clear();
    golden("pod-host.json", &sandbox_of(&pod));
}
