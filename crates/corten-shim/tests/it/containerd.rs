//! Under a real containerd of our own: root, state and socket in a temporary folder.
//! Skipped where none is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use corten_spec::Digest;
use corten_testkit::need;
use serde_json::json;

use super::rig::{busybox, eventually, shim};

pub(super) const IMAGE: &str = "docker.io/test/busybox:latest";

pub(super) struct Containerd {
    /// Groups and runtime state are the host's, so each test has a namespace of its own.
    pub(super) namespace: String,
    folder: tempfile::TempDir,
    pub(super) daemon: Child,
}

impl Containerd {
    /// Starts one and imports the image. `None`: containerd is not installed.
    pub(super) fn start() -> Option<Self> {
        let top =
            r#"disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]"#;
        Self::configured("", top, None)
    }

    /// With more lines of configuration: tables, and what comes before them.
    pub(super) fn configured(tables: &str, top: &str, namespace: Option<&str>) -> Option<Self> {
        if !need::file("/usr/bin/containerd") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("bin")).unwrap();
        let name = root.join("bin/containerd-shim-corten-v2");
        std::os::unix::fs::symlink(shim(), name).unwrap();
        let at = root.display();
        let config = format!(
            r#"version = 2
root = "{at}/root"
state = "{at}/state"
{top}
[grpc]
  address = "{at}/c.sock"
[ttrpc]
  address = "{at}/c.ttrpc"
{tables}
"#
        );
        let config = config.replace("@AT@", &at.to_string());
        fs::write(root.join("config.toml"), config).unwrap();
        let daemon = daemon(root);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let own = format!("shimtest-{}-{count}", std::process::id());
        let namespace = namespace.map_or(own, String::from);
        let it = Self {
            namespace,
            folder,
            daemon,
        };
        it.ready();
        image(it.path());
        it.ok(&[
            "images",
            "import",
            &it.path().join("image.tar").display().to_string(),
        ]);
        Some(it)
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `kill -9`.
    pub(super) fn die(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Starts it again, with all that it has on disk.
    pub(super) fn back(&mut self) {
        self.daemon = daemon(self.path());
        self.ready();
    }

    pub(super) fn ready(&self) {
        eventually("containerd", || self.ctr(&["version"]).status.success());
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["60", "ctr", "-a"])
            .arg(self.path().join("c.sock"));
        command.args(["-n", &self.namespace]).args(args);
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn ctr(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(super) fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(output.status.success(), "ctr {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Output {
        let runtime = ["run", "--runtime", "io.containerd.corten.v2"];
        let args = [&runtime, flags, &[IMAGE, id], command].concat();
        self.ctr(&args)
    }

    pub(super) fn detached(&self, id: &str) {
        let output = self.run(&["-d"], id, &["sleep", "1000"]);
        assert!(output.status.success(), "{output:?}");
    }

    pub(super) fn bundle(&self, id: &str) -> PathBuf {
        self.path()
            .join("state/io.containerd.runtime.v2.task")
            .join(&self.namespace)
            .join(id)
    }

    pub(super) fn end(&self, id: &str) {
        self.ok(&["task", "kill", "-s", "KILL", id]);
        eventually("the exit", || self.ok(&["task", "ls"]).contains("STOPPED"));
        self.ctr(&["task", "rm", id]);
        self.ok(&["container", "rm", id]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in String::from_utf8_lossy(&self.ctr(&["task", "ls", "-q"]).stdout).lines() {
            self.ctr(&["task", "rm", "-f", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("{tail:#?}");
        }
        // The group above all containers of the namespace, which containerd never removes.
        let layout = corten_cgroup::Layout::probe().unwrap();
        let parent = format!("/{}", self.namespace);
        if layout.list(&parent).is_ok_and(|l| l.is_empty())
            && let Ok(group) = corten_cgroup::Cgroup::open(&layout, &parent)
        {
            let _ = group.delete();
        }
        let _ = fs::remove_dir(Path::new("/run/corten/containerd").join(&self.namespace));
    }
}

fn daemon(root: &Path) -> Child {
    let path = std::env::var("PATH").unwrap();
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(root.join("log"))
        .unwrap();
    Command::new("containerd")
        .arg("--config")
        .arg(root.join("config.toml"))
        .env("PATH", format!("{}/bin:{path}", root.display()))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// An OCI layout with one layer, as a tar.
pub(super) fn image(root: &Path) {
    busybox(&root.join("rootfs"));
    let tar = |from: &Path, to: &Path| {
        let status = Command::new("tar")
            .arg("-C")
            .arg(from)
            .arg("-cf")
            .arg(to)
            .arg(".")
            .status();
        assert!(status.unwrap().success());
    };
    tar(&root.join("rootfs"), &root.join("layer.tar"));
    let blobs = root.join("oci/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: Vec<u8>, media: &str| {
        let digest = Digest::of(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        let media = format!("application/vnd.oci.image.{media}");
        json!({"mediaType": media, "digest": digest.to_string(), "size": bytes.len()})
    };
    let layer = put(fs::read(root.join("layer.tar")).unwrap(), "layer.v1.tar");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}
    });
    let config = put(config.to_string().into(), "config.v1+json");
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]});
    let mut manifest = put(manifest.to_string().into(), "manifest.v1+json");
    manifest["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(root.join("oci/index.json"), index.to_string()).unwrap();
    fs::write(
        root.join("oci/oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    tar(&root.join("oci"), &root.join("image.tar"));
}

#[test]
fn run_with_exit_codes_pipes_and_a_terminal() {
    let Some(it) = Containerd::start() else {
        return;
    };
    let output = it.run(&["--rm"], "one", &["echo", "first"]);
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(0), &b"first\n"[..]),
        "{output:?}"
    );
    let output = it.run(&["--rm"], "two", &["sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = it.run(&["--rm"], "three", &["/bin/none"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("/bin/none"),
        "{output:?}"
    );
    let data: Vec<u8> = (0..5_000_000u32)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    let input = it.path().join("input");
    fs::write(&input, &data).unwrap();
    let args = [
        "run",
        "--rm",
        "--runtime",
        "io.containerd.corten.v2",
        IMAGE,
        "four",
        "cat",
    ];
    let output = it
        .command(&args)
        .stdin(fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert!(
        output.stdout == data,
        "{} of {} bytes",
        output.stdout.len(),
        data.len()
    );
    assert_eq!(it.ok(&["task", "ls", "-q"]), "");
}

#[test]
fn exec_pause_metrics_and_events_in_order() {
    let Some(it) = Containerd::start() else {
        return;
    };
    let events = fs::File::create(it.path().join("events")).unwrap();
    let mut listener = it.command(&["events"]).stdout(events).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    it.detached("box");
    let output = it.ctr(&[
        "task",
        "exec",
        "--exec-id",
        "e",
        "box",
        "sh",
        "-c",
        "echo in; exit 5",
    ]);
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(5), &b"in\n"[..]),
        "{output:?}"
    );
    it.ok(&["task", "pause", "box"]);
    assert!(it.ok(&["task", "ls"]).contains("PAUSED"));
    it.ok(&["task", "resume", "box"]);
    let metrics = it.ok(&["task", "metrics", "box"]);
    assert!(metrics.contains("pids.current"), "{metrics}");
    let checkpoint = it.ctr(&["task", "checkpoint", "box"]);
    assert!(!checkpoint.status.success());
    it.end("box");
    eventually("the last event", || {
        fs::read_to_string(it.path().join("events"))
            .unwrap()
            .contains("/tasks/delete")
    });
    listener.kill().unwrap();
    listener.wait().unwrap();
    let events = fs::read_to_string(it.path().join("events")).unwrap();
    let topics = events
        .split_whitespace()
        .filter(|w| w.starts_with("/tasks/"));
    // As containerd-shim-runc-v2 tells the same story; the checkpoint's pause is containerd's own doing.
    let topics: Vec<&str> = topics.collect();
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
    ];
    assert_eq!(topics[..7], expected.map(|t| format!("/tasks/{t}")));
    assert_eq!(topics[topics.len() - 2..], ["/tasks/exit", "/tasks/delete"]);
}

#[test]
fn a_killed_containerd_finds_its_shims_again() {
    let Some(mut it) = Containerd::start() else {
        return;
    };
    it.detached("box");
    it.die();
    it.back();
    let output = it.ctr(&["task", "exec", "--exec-id", "e", "box", "echo", "still"]);
    assert_eq!(&output.stdout[..], b"still\n", "{output:?}");
    it.end("box");
}

#[test]
fn a_killed_shim_is_cleaned_up_after() {
    let Some(it) = Containerd::start() else {
        return;
    };
    it.detached("box");
    let bundle = it.bundle("box");
    let shim = fs::read_to_string(bundle.join("shim.pid")).unwrap();
    let socket = fs::read_to_string(bundle.join("address")).unwrap();
    let socket = socket.strip_prefix("unix://").unwrap();
    let shim = rustix::process::Pid::from_raw(shim.parse().unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    eventually("containerd's cleaning", || {
        it.ok(&["task", "ls", "-q"]).is_empty()
    });
    eventually("the bundle's end", || !bundle.exists());
    let layout = corten_cgroup::Layout::probe().unwrap();
    assert!(corten_cgroup::Cgroup::open(&layout, &format!("/{}/box", it.namespace)).is_err());
    assert!(!Path::new(socket).exists());
    it.ok(&["container", "rm", "box"]);
}

#[test]
fn a_hundred_at_once() {
    let guest = std::env::var_os("CORTEN_GUEST").is_some();
    if !need::that(!guest, "a guest is too slow for a hundred of anything") {
        return;
    }
    let Some(it) = Containerd::start() else {
        return;
    };
    std::thread::scope(|scope| {
        for n in 0..100 {
            let it = &it;
            scope.spawn(move || {
                let script = format!("echo {n}; exit {}", n % 7);
                let output = it.run(&["--rm"], &format!("c{n}"), &["sh", "-c", &script]);
                assert_eq!(output.status.code(), Some(n % 7), "{output:?}");
                assert_eq!(output.stdout, format!("{n}\n").into_bytes());
            });
        }
    });
    assert_eq!(it.ok(&["task", "ls", "-q"]), "");
}

/// ctr closes its end of a FIFO as soon as it hears of the exit, whatever is still in it.
#[test]
fn the_exit_is_told_after_a_slow_reader_has_read_all() {
    let Some(it) = Containerd::start() else {
        return;
    };
    let runtime = "io.containerd.corten.v2";
    let script = "head -c 150000 /dev/zero";
    let args = [
        "run",
        "--rm",
        "--runtime",
        runtime,
        IMAGE,
        "slow",
        "sh",
        "-c",
        script,
    ];
    // The pipe behind ctr holds 64 KiB, ctr itself 32, and the FIFO the rest.
    let mut ctr = it.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut ctr.stdout.take().unwrap(), &mut got).unwrap();
    assert!(ctr.wait().unwrap().success());
    assert_eq!(got.len(), 150_000);
}
