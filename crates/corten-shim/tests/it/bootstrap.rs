//! `start`, `-info` and `-v`, as containerd calls them. No container is made.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use corten_shim::proto::bootstrap::{BootstrapParams, BootstrapResult, Extension};
use corten_shim::proto::task::{
    ConnectResponse, ContainerRequest, RuncOptions, RuntimeInfo, ShutdownRequest,
};
use prost::Message;
use prost_types::Any;
use serde_json::json;

use super::raw::Raw;
use super::rig::{eventually, shim};

struct Bundles {
    folder: tempfile::TempDir,
}

impl Bundles {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("s")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A bundle of a container in the pod.
    fn bundle(&self, id: &str) -> PathBuf {
        let bundle = self.path(id);
        fs::create_dir_all(&bundle).unwrap();
        let spec = json!({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}});
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    fn params(&self, id: &str) -> BootstrapParams {
        BootstrapParams {
            instance_id: id.into(),
            namespace: "test".into(),
            containerd_grpc_address: self.path("c.sock").display().to_string(),
            socket_dir: Some(self.path("s").display().to_string()),
            ..BootstrapParams::default()
        }
    }

    fn start(&self, params: &BootstrapParams) -> Output {
        called(
            &["start"],
            &self.bundle(&params.instance_id),
            &params.encode_to_vec(),
        )
    }

    fn started(&self, id: &str) -> (BootstrapResult, u32) {
        let output = self.start(&self.params(id));
        assert!(output.status.success(), "{output:?}");
        let pid = fs::read_to_string(self.path(id).join("shim.pid")).unwrap();
        let result = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
        (result, pid.parse().unwrap())
    }
}

fn called(args: &[&str], folder: &Path, stdin: &[u8]) -> Output {
    let mut child = Command::new(shim())
        .args(args)
        .current_dir(folder)
        .env_remove("MAX_SHIM_VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A shim that refuses its command line reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn socket(result: &BootstrapResult) -> PathBuf {
    result.address.strip_prefix("unix://").unwrap().into()
}

fn connect(socket: &Path) -> ConnectResponse {
    let request = ContainerRequest::default();
    let mut raw = Raw::connect(socket);
    raw.call("containerd.task.v3.Task", "Connect", &request)
        .unwrap()
}

fn shut_down(socket: &Path) {
    let request = ShutdownRequest::default();
    let mut raw = Raw::connect(socket);
    raw.call::<()>("containerd.task.v2.Task", "Shutdown", &request)
        .unwrap();
    assert!(!socket.exists(), "a shim that ends is still to be found");
}

#[test]
fn two_starts_of_one_pod_at_once_end_in_one_shim() {
    let bundles = Bundles::new();
    for _ in 0..10 {
        let started: Vec<(BootstrapResult, u32)> = std::thread::scope(|scope| {
            let start = |id: &'static str| {
                let bundles = &bundles;
                scope.spawn(move || bundles.started(id))
            };
            ["a", "b", "c", "d"]
                .map(start)
                .map(|s| s.join().unwrap())
                .into()
        });
        let (first, pid) = &started[0];
        assert!(
            started.iter().all(|(r, p)| r == first && p == pid),
            "{started:?}"
        );
        assert_eq!((first.version, first.protocol.as_str()), (3, "ttrpc"));
        assert_eq!(connect(&socket(first)).shim_pid, *pid);
        shut_down(&socket(first));
    }
    assert_eq!(fs::read_dir(bundles.path("s")).unwrap().count(), 0);
}

/// Neither waits for the other, and what is left is one shim or none.
#[test]
fn starts_that_meet_a_shutdown_find_a_shim_or_make_one() {
    let bundles = Bundles::new();
    for _ in 0..30 {
        let (first, _) = bundles.started("a");
        std::thread::scope(|scope| {
            let path = socket(&first);
            scope.spawn(move || {
                let mut raw = Raw::connect(&path);
                let request = ShutdownRequest::default();
                raw.call::<()>("containerd.task.v3.Task", "Shutdown", &request)
                    .unwrap();
            });
            scope.spawn(|| bundles.started("b"));
        });
        let (last, pid) = bundles.started("c");
        assert_eq!(connect(&socket(&last)).shim_pid, pid);
        shut_down(&socket(&last));
    }
    assert_eq!(fs::read_dir(bundles.path("s")).unwrap().count(), 0);
}

#[test]
fn a_dead_shims_socket_is_replaced() {
    let bundles = Bundles::new();
    let (first, pid) = bundles.started("a");
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the shim's end", || {
        std::os::unix::net::UnixStream::connect(socket(&first)).is_err()
    });
    assert!(socket(&first).exists());
    let (second, _) = bundles.started("b");
    assert_eq!(first, second);
    assert_ne!(
        connect(&socket(&second)).shim_pid,
        pid.as_raw_nonzero().get() as u32
    );
    shut_down(&socket(&second));
}

#[test]
fn a_shim_that_hangs_up_instead_of_answering_is_replaced() {
    let bundles = Bundles::new();
    let (first, _) = bundles.started("a");
    shut_down(&socket(&first));
    // Somebody who accepts and goes: a shim in its last moment.
    let listener = UnixListener::bind(socket(&first)).unwrap();
    let leaves = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let (second, _) = bundles.started("b");
    leaves.join().unwrap();
    connect(&socket(&second));
    shut_down(&socket(&second));
}

#[test]
fn a_start_that_cannot_be_says_why_and_leaves_nothing() {
    let bundles = Bundles::new();
    let options = |options: RuncOptions| BootstrapParams {
        extensions: vec![Extension {
            value: Some(Any {
                type_url: "containerd.runc.v1.Options".into(),
                value: options.encode_to_vec(),
            }),
        }],
        ..bundles.params("a")
    };
    let cases = [
        (
            options(RuncOptions {
                binary_name: "crun".into(),
                ..Default::default()
            }),
            "BinaryName \"crun\"",
        ),
        (
            options(RuncOptions {
                root: "x".into(),
                ..Default::default()
            }),
            "Root \"x\"",
        ),
        (
            options(RuncOptions {
                shim_cgroup: "/there/is/none".into(),
                ..Default::default()
            }),
            "ShimCgroup \"/there/is/none\"",
        ),
        (
            BootstrapParams {
                socket_dir: Some("relative".into()),
                ..bundles.params("a")
            },
            "socket_dir",
        ),
    ];
    for (params, named) in cases {
        let output = bundles.start(&params);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(text.contains(named), "{text}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(fs::read_dir(bundles.path("s")).unwrap().count(), 0);
    let output = called(
        &["-id", "a", "-namespace", "n", "start"],
        &bundles.bundle("a"),
        &[0xff; 20],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("stdin is neither options nor BootstrapParams"),
        "{text}"
    );
}

#[test]
fn a_shim_is_born_in_the_group_that_is_named_for_it() {
    let layout = corten_cgroup::Layout::probe().unwrap();
    let path = format!("/corten-shims-{}", std::process::id());
    let group = corten_cgroup::Cgroup::create(&layout, &path).unwrap();
    let bundles = Bundles::new();
    let params = BootstrapParams {
        extensions: vec![Extension {
            value: Some(Any {
                type_url: "containerd.runc.v1.Options".into(),
                value: RuncOptions {
                    shim_cgroup: path.clone(),
                    ..RuncOptions::default()
                }
                .encode_to_vec(),
            }),
        }],
        ..bundles.params("a")
    };
    let output = bundles.start(&params);
    assert!(output.status.success(), "{output:?}");
    let result = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
    let pid = connect(&socket(&result)).shim_pid;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&path), "{groups}");
    assert!(group.pids().unwrap().contains(&(pid as i32)));
    shut_down(&socket(&result));
    eventually("the group's end", || group.delete().is_ok());
}

#[test]
fn debug_logs_requests_to_the_fifo() {
    let bundles = Bundles::new();
    let bundle = bundles.bundle("a");
    let log = bundle.join("log");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &log,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let params = BootstrapParams {
        log_level: -4,
        ..bundles.params("a")
    };
    // Opened for both, as its opening waits for nobody then.
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    let output = bundles.start(&params);
    assert!(output.status.success(), "{output:?}");
    let result = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
    connect(&socket(&result));
    let mut text = [0; 4096];
    let n = std::io::Read::read(&mut reader, &mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..n]);
    assert!(
        text.starts_with("time=\"") && text.contains("level=debug msg=\""),
        "{text}"
    );
    assert!(text.contains("containerd.task.v3.Task/Connect"), "{text}");
    shut_down(&socket(&result));
}

#[test]
fn info_tells_features_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let options = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: RuncOptions {
            systemd_cgroup: true,
            ..Default::default()
        }
        .encode_to_vec(),
    };
    let output = called(&["-info"], folder.path(), &options.encode_to_vec());
    assert!(output.status.success(), "{output:?}");
    let info = RuntimeInfo::decode(output.stdout.as_slice()).unwrap();
    assert_eq!(info.name, "io.containerd.corten.v2");
    assert_eq!(info.options.unwrap(), options);
    let features = info.features.unwrap();
    assert_eq!(
        features.type_url,
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    );
    let features: serde_json::Value = serde_json::from_slice(&features.value).unwrap();
    assert_eq!(
        features["linux"]["mountExtensions"]["idmap"]["enabled"],
        true
    );
    let without = called(&["-info"], folder.path(), b"");
    assert!(
        RuntimeInfo::decode(without.stdout.as_slice())
            .unwrap()
            .options
            .is_none()
    );
    let bad = Any {
        value: RuncOptions {
            binary_name: "crun".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        ..options
    };
    let refused = called(&["-info"], folder.path(), &bad.encode_to_vec());
    assert!(!refused.status.success());
    let version = called(&["-v"], folder.path(), b"");
    assert!(
        String::from_utf8(version.stdout)
            .unwrap()
            .contains(env!("CARGO_PKG_VERSION"))
    );
}
