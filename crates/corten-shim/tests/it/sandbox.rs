//! The Sandbox API, by a client of our own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use corten_shim::client::{CreateOptions, CreateRequest, Stdio};
use corten_shim::proto::sandbox::{
    CreateSandboxRequest, DnsConfig, IdRange, PlatformResponse, PodConfig, PodLinux, PodNamespaces,
    PodSecurity, PodUsers, SandboxMetricsResponse, SandboxRequest, SandboxStatusRequest,
    SandboxStatusResponse, StartSandboxResponse, StopSandboxRequest,
};
use corten_shim::proto::task::{ShutdownRequest, WaitResponse};
use corten_spec::Kind;
use prost::Message;
use prost_types::Any;
use serde_json::json;

use super::raw::Raw;
use super::rig::{Rig, eventually};

const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

fn named(rig: &Rig) -> SandboxRequest {
    SandboxRequest {
        sandbox_id: format!("{}-pod", rig.id),
    }
}

/// Of a pod that shares its PID namespace as well.
fn create(rig: &Rig) -> CreateSandboxRequest {
    let config = PodConfig {
        hostname: "podname".into(),
        dns_config: Some(DnsConfig {
            servers: vec!["10.9.8.7".into()],
            searches: vec!["pod.test".into()],
            options: Vec::new(),
        }),
        linux: Some(PodLinux {
            cgroup_parent: "/corten-shimtest".into(),
            security_context: Some(PodSecurity {
                namespace_options: Some(PodNamespaces::default()),
            }),
            sysctls: BTreeMap::from([("kernel.shmmni".to_string(), "123".to_string())]),
        }),
    };
    CreateSandboxRequest {
        sandbox_id: named(rig).sandbox_id,
        bundle_path: rig.path("pod").display().to_string(),
        options: Some(Any {
            type_url: "runtime.v1.PodSandboxConfig".into(),
            value: config.encode_to_vec(),
        }),
        ..CreateSandboxRequest::default()
    }
}

/// A shim with a sandbox that is ready, and the holder's process id.
fn ready(rig: &Rig) -> (Raw, u32) {
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    raw.call::<()>(SERVICE, "CreateSandbox", &create(rig))
        .unwrap();
    let started: StartSandboxResponse = raw.call(SERVICE, "StartSandbox", &named(rig)).unwrap();
    assert!(started.created_at.is_some());
    (raw, started.pid)
}

fn status(raw: &mut Raw, rig: &Rig) -> SandboxStatusResponse {
    let request = SandboxStatusRequest {
        sandbox_id: named(rig).sandbox_id,
        verbose: true,
    };
    raw.call(SERVICE, "SandboxStatus", &request).unwrap()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/ns")).exists()
        && !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "))
}

fn ended(rig: &Rig) {
    let layout = corten_cgroup::Layout::probe().unwrap();
    let group = format!("/corten-shimtest/{}", named(rig).sandbox_id);
    assert!(corten_cgroup::Cgroup::open(&layout, &group).is_err());
    assert!(!rig.path("state").join(named(rig).sandbox_id).exists());
}

#[test]
fn a_pod_is_held_by_a_process_that_can_and_has_nothing() {
    let mut rig = Rig::new("exit 0");
    rig.keep();
    let (mut raw, pid) = ready(&rig);
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status_text = file("status");
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Uid:\t65535",
    ] {
        assert!(status_text.contains(line), "{status_text}");
    }
    // But for what it says with that it is ready, they are closed before that.
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(open() <= 1, "descriptors of the shim");
    eventually("the last one's end", || open() == 0);
    for kind in ["ipc", "uts", "pid", "mnt"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let platform: PlatformResponse = raw.call(SERVICE, "Platform", &named(&rig)).unwrap();
    assert_eq!(platform.platform.unwrap().os, "linux");
    raw.call::<()>(SERVICE, "PingSandbox", &named(&rig))
        .unwrap();
    let now = status(&mut raw, &rig);
    assert_eq!((now.state.as_str(), now.pid), ("SANDBOX_READY", pid));
    let metrics: SandboxMetricsResponse =
        raw.call(SERVICE, "SandboxMetrics", &named(&rig)).unwrap();
    let data = metrics.metrics.unwrap().data.unwrap();
    assert!(data.type_url.starts_with("io.containerd.cgroups.v"));
    // Wait ends with Stop.
    raw.send(SERVICE, "WaitSandbox", &named(&rig));
    let stop = StopSandboxRequest {
        sandbox_id: named(&rig).sandbox_id,
        timeout_secs: 1,
    };
    let mut other = Raw::connect(&rig.path("shim.sock"));
    other.call::<()>(SERVICE, "StopSandbox", &stop).unwrap();
    let waited: WaitResponse = raw.receive().unwrap();
    assert_eq!(waited.exit_status, 137);
    assert!(!is_alive(pid));
    let now = status(&mut raw, &rig);
    assert_eq!(now.state, "SANDBOX_NOTREADY");
    assert!(now.exited_at.is_some());
    other.call::<()>(SERVICE, "StopSandbox", &stop).unwrap();
    raw.call::<()>(SERVICE, "ShutdownSandbox", &named(&rig))
        .unwrap();
    rig.wait_for_shim();
    ended(&rig);
}

#[test]
fn containers_join_the_pod_and_orphans_are_buried() {
    let mut rig = Rig::new("exit 0");
    rig.keep();
    let (mut raw, pid) = ready(&rig);
    let at = |kind: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{}", if kind == "network" { "net" } else { kind })});
    let mut spec = super::rig::spec(
        rig.id.as_str(),
        "(sleep 0.1 &) ; sleep 0.5; hostname; cat /proc/sys/kernel/shmmni; ls -d /proc/[0-9]*; exit 4",
    );
    spec.as_object_mut().unwrap().remove("hostname");
    spec["linux"]["namespaces"] = json!([at("pid"), at("ipc"), at("uts"), {"type": "mount"}]);
    fs::write(rig.path("config.json"), spec.to_string()).unwrap();
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 4);
    let log = fs::read_to_string(rig.path("log")).unwrap();
    assert!(log.contains("F podname") && log.contains("F 123"), "{log}");
    // The orphan fell to the holder, and is no zombie: it and the shell's own are all there is.
    let processes = log.lines().filter(|l| l.contains("F /proc/")).count();
    assert!(processes <= 3, "{log}");
    assert!(is_alive(pid), "the pod outlives its containers");
    let busy = raw
        .call::<()>(SERVICE, "StartSandbox", &named(&rig))
        .unwrap_err();
    assert_eq!(busy.kind(), Kind::Conflict);
    // Shutdown takes what is left.
    raw.call::<()>(SERVICE, "ShutdownSandbox", &named(&rig))
        .unwrap();
    rig.wait_for_shim();
    assert!(!is_alive(pid));
    ended(&rig);
    rig.assert_clean();
}

#[test]
fn a_pod_may_have_users_of_its_own() {
    let mut rig = Rig::new("exit 0");
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    let range = IdRange {
        host_id: 100_000,
        container_id: 0,
        length: 65536,
    };
    let mut request = create(&rig);
    let options = request.options.as_mut().unwrap();
    let mut config = PodConfig::decode(options.value.as_slice()).unwrap();
    let linux = config.linux.as_mut().unwrap();
    linux.sysctls.clear();
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options = Some(PodNamespaces {
        userns_options: Some(PodUsers {
            mode: 0,
            uids: vec![range],
            gids: vec![range],
        }),
        ..PodNamespaces::default()
    });
    options.value = config.encode_to_vec();
    raw.call::<()>(SERVICE, "CreateSandbox", &request).unwrap();
    let started: StartSandboxResponse = raw.call(SERVICE, "StartSandbox", &named(&rig)).unwrap();
    let map = fs::read_to_string(format!("/proc/{}/uid_map", started.pid)).unwrap();
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"]);
    let status = fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    assert!(status.contains("Uid:\t165535"), "{status}");
    // What a containerd asks that has lost count of its pods.
    let ask = ShutdownRequest::default();
    raw.call::<()>("containerd.task.v3.Task", "Shutdown", &ask)
        .unwrap();
    raw.call::<()>(SERVICE, "PingSandbox", &named(&rig))
        .unwrap();
    raw.call::<()>(SERVICE, "ShutdownSandbox", &named(&rig))
        .unwrap();
    rig.wait_for_shim();
    ended(&rig);
}

#[test]
fn containers_read_the_pods_names() {
    let mut rig = Rig::with("cat /etc/hostname /etc/resolv.conf; ls /etc", |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
        spec.as_object_mut().unwrap().remove("hostname");
    });
    let (mut raw, _) = ready(&rig);
    let output = rig.path("out");
    let request = CreateRequest {
        checkpoint: Default::default(),
        bundle: rig.folder.path().into(),
        rootfs: Vec::new(),
        stdio: Stdio {
            stdout: format!("file://{}", output.display()),
            ..Stdio::default()
        },
        options: CreateOptions::default(),
    };
    rig.client().create(request).unwrap();
    rig.client().start("").unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    let text = fs::read_to_string(output).unwrap();
    let expected = "podname\nsearch pod.test\nnameserver 10.9.8.7\nhostname\nhosts\nresolv.conf\n";
    assert_eq!(text, expected);
    rig.client().delete("").unwrap();
    rig.client = None;
    raw.call::<()>(SERVICE, "ShutdownSandbox", &named(&rig))
        .unwrap();
    rig.wait_for_shim();
    ended(&rig);
}

#[test]
fn the_holder_ends_with_its_shim_and_delete_frees_the_rest() {
    a_killed_pod(false);
}

#[test]
fn delete_frees_the_rest_when_bundles_are_gone() {
    a_killed_pod(true);
}

/// `gone`: containerd has removed the member's bundle before it calls for the pod.
fn a_killed_pod(gone: bool) {
    let mut rig = Rig::new("exit 0");
    let (_raw, pid) = ready(&rig);
    // containerd 2 writes so in the bundles of a pod's containers, and calls for the pod alone.
    let pod = named(&rig).sandbox_id;
    let bundle = rig.path("member");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("sandbox"), &pod).unwrap();
    let mut spec = super::rig::spec(rig.id.as_str(), "sleep 1000");
    spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]);
    spec.as_object_mut().unwrap().remove("hostname");
    spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": pod});
    spec["root"]["path"] = json!(rig.path("rootfs"));
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let request = CreateRequest {
        checkpoint: Default::default(),
        bundle: bundle.clone(),
        rootfs: Vec::new(),
        stdio: Stdio::default(),
        options: CreateOptions::default(),
    };
    let member = rig.client().create(request).unwrap();
    rig.client().start("").unwrap();
    rig.kill_shim();
    if gone {
        fs::remove_dir_all(&bundle).unwrap();
    }
    assert!(is_alive(member), "containers outlive their shim");
    eventually("the holder's end", || !is_alive(pid));
    for _ in 0..2 {
        let deleted = std::process::Command::new(super::rig::shim())
            .args([
                "-namespace",
                "test",
                "-id",
                &named(&rig).sandbox_id,
                "-state-root",
            ])
            .arg(rig.path("state"))
            .arg("delete")
            .current_dir(rig.folder.path())
            .output()
            .unwrap();
        assert!(deleted.status.success(), "{deleted:?}");
    }
    eventually("the member's end", || !is_alive(member));
    ended(&rig);
    rig.assert_clean();
}

#[test]
fn a_holder_that_is_killed_is_told() {
    let mut rig = Rig::new("exit 0");
    rig.keep();
    let (mut raw, pid) = ready(&rig);
    raw.send(SERVICE, "WaitSandbox", &named(&rig));
    let holder = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(holder, rustix::process::Signal::KILL).unwrap();
    let waited: WaitResponse = raw.receive().unwrap();
    assert_eq!(waited.exit_status, 137);
    assert_eq!(status(&mut raw, &rig).state, "SANDBOX_NOTREADY");
    raw.call::<()>(SERVICE, "ShutdownSandbox", &named(&rig))
        .unwrap();
    rig.wait_for_shim();
    ended(&rig);
}

#[test]
fn wrong_requests_are_named_and_change_nothing() {
    let mut rig = Rig::new("exit 0");
    rig.keep();
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    for method in [
        "StartSandbox",
        "Platform",
        "PingSandbox",
        "WaitSandbox",
        "SandboxMetrics",
    ] {
        let error = raw.call::<()>(SERVICE, method, &named(&rig)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{method}");
    }
    let bad = |change: fn(&mut CreateSandboxRequest)| {
        let mut request = create(&rig);
        change(&mut request);
        request
    };
    for (request, kind, named) in [
        (
            bad(|r| r.sandbox_id = "../x".into()),
            Kind::Invalid,
            "sandbox_id",
        ),
        (
            bad(|r| r.rootfs = vec![Default::default()]),
            Kind::Unsupported,
            "rootfs",
        ),
        (
            bad(|r| r.options.as_mut().unwrap().type_url = "x.Y".into()),
            Kind::Invalid,
            "x.Y",
        ),
    ] {
        let error = raw
            .call::<()>(SERVICE, "CreateSandbox", &request)
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.message.contains(named), "{error:?}");
    }
    raw.call::<()>(SERVICE, "CreateSandbox", &create(&rig))
        .unwrap();
    let twice = raw
        .call::<()>(SERVICE, "CreateSandbox", &create(&rig))
        .unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    let unknown = raw.call::<()>(SERVICE, "Dance", &named(&rig)).unwrap_err();
    assert_eq!(unknown.kind(), Kind::Unsupported);
    raw.call::<()>(SERVICE, "ShutdownSandbox", &named(&rig))
        .unwrap();
    rig.wait_for_shim();
    ended(&rig);
}
