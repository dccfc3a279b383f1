//! Namespaces that were there before the container, named by path.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use corten_testkit::need;
use serde_json::{Value, json};

use crate::harness::{Bundle, error, ours, stdout, text};

/// (the specification's word, the kernel's file).
const KINDS: [(&str, &str); 8] = [
    ("user", "user"),
    ("mount", "mnt"),
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// A process that holds namespaces open, and ends with the test.
struct Holder(Child);

impl Holder {
    /// As `unshare` makes them, with a process that sleeps in them.
    fn new(flags: &[&str]) -> Self {
        let mut child = Command::new("unshare")
            .args(flags)
            .args(["sh", "-c", "echo; exec sleep 1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says a word when it is there.
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        if flags.contains(&"--user") {
            for map in ["uid_map", "gid_map"] {
                std::fs::write(format!("/proc/{}/{map}", child.id()), "0 100000 65536").unwrap();
            }
        }
        Self(child)
    }

    fn path(&self, kind: &str) -> PathBuf {
        let file = match kind {
            // The process itself is in the old one.
            "pid" => "pid_for_children",
            other => KINDS.iter().find(|(word, _)| *word == other).unwrap().1,
        };
        PathBuf::from(format!("/proc/{}/ns/{file}", self.0.id()))
    }

    fn namespace(&self, kind: &str) -> Value {
        json!({"type": kind, "path": self.path(kind)})
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Puts a namespace in the place of the new one of its kind.
fn join(bundle: &mut Bundle, namespace: Value) {
    bundle.namespaces(|list| {
        list.retain(|n| n["type"] != namespace["type"]);
        list.push(namespace);
    });
}

fn link(path: &Path) -> String {
    std::fs::read_link(path).unwrap().to_str().unwrap().into()
}

#[test]
fn each_kind_is_joined_alone() {
    if !need::file("/proc/self/ns/time") {
        return;
    }
    let holder = Holder::new(&["--net", "--ipc", "--uts", "--cgroup", "--time"]);
    for (kind, file) in KINDS {
        if matches!(kind, "user" | "mount" | "pid") {
            continue;
        }
        let mut bundle = Bundle::new(&["readlink", &format!("/proc/self/ns/{file}")]);
        join(&mut bundle, holder.namespace(kind));
        bundle.config.as_object_mut().unwrap().remove("hostname");
        assert_eq!(stdout(&bundle).trim(), link(&holder.path(kind)), "{kind}");
    }
}

#[test]
fn a_user_namespace_is_joined_with_new_others() {
    let holder = Holder::new(&["--user"]);
    let script = "readlink /proc/self/ns/user; cat /proc/self/uid_map; stat -c %u:%g /dev /dev/shm /dev/null /dev/pts; id -u; touch /tmp/x";
    let mut bundle = Bundle::script(script);
    bundle.give(100_000);
    join(&mut bundle, holder.namespace("user"));
    let output = stdout(&bundle);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], link(&holder.path("user")));
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert_eq!(lines[2..], ["0:0", "0:0", "0:0", "0:0", "0"], "{output}");

    // The mappings may be said again, and must be true.
    let mapping = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
    bundle.set("/linux/uidMappings", mapping(100_000));
    bundle.set("/linux/gidMappings", mapping(100_000));
    stdout(&bundle);
    bundle.set("/linux/uidMappings", mapping(200_000));
    if ours() {
        let message = error(&bundle, 1);
        assert!(message.contains("linux.uidMappings"), "{message}");
        assert!(message.contains("joined user namespace"), "{message}");
    }
}

#[test]
fn all_of_a_pod_is_joined() {
    if !need::file("/proc/self/ns/time") {
        return;
    }
    let flags = [
        "--user",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
        "--time",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    // The pid namespace of a process that forked: its child is init there.
    let holder = Holder::new(&flags);
    let script = "for n in user pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done; hostname; id -u; id -g";
    let mut bundle = Bundle::script(script);
    bundle.give(100_000);
    bundle.config.as_object_mut().unwrap().remove("hostname");
    for (kind, _) in KINDS {
        if kind != "mount" {
            join(&mut bundle, holder.namespace(kind));
        }
    }
    let output = stdout(&bundle);
    let lines: Vec<&str> = output.lines().collect();
    for (line, kind) in lines
        .iter()
        .zip(["user", "pid", "network", "ipc", "uts", "cgroup", "time"])
    {
        assert_eq!(*line, link(&holder.path(kind)), "{kind}");
    }
    assert_eq!(lines[8..], ["0", "0"]);
}

#[test]
fn a_process_is_added_where_namespaces_were_joined() {
    let holder = Holder::new(&["--user", "--net", "--ipc"]);
    let mut bundle = Bundle::new(&["sleep", "100"]);
    bundle.give(100_000);
    for kind in ["user", "network", "ipc"] {
        join(&mut bundle, holder.namespace(kind));
    }
    bundle.up();
    let script = "for n in user net ipc; do readlink /proc/self/ns/$n; done; id -u";
    let output = bundle.ok(["exec", &bundle.id, "sh", "-c", script]);
    let lines: Vec<&str> = output.lines().collect();
    for (line, kind) in lines.iter().zip(["user", "network", "ipc"]) {
        assert_eq!(*line, link(&holder.path(kind)), "{kind}");
    }
    assert_eq!(lines[3], "0");
}

#[test]
fn a_path_of_another_kind_or_of_none_is_named() {
    if !need::file("/proc/self/ns/time") {
        return;
    }
    if !ours() {
        return;
    }
    let holder = Holder::new(&["--net"]);
    for (kind, file) in KINDS {
        let other = if kind == "network" { "ipc" } else { "net" };
        let mut bundle = Bundle::new(&["true"]);
        let path = format!("/proc/{}/ns/{other}", holder.0.id());
        join(&mut bundle, json!({"type": kind, "path": path}));
        let message = error(&bundle, 1);
        assert!(message.contains("linux.namespaces"), "{file}: {message}");
        assert!(
            message.contains(&format!("as {file} namespace")),
            "{message}"
        );
        assert!(
            message.contains(&format!("is a {other} namespace")),
            "{message}"
        );
    }
    let mut bundle = Bundle::new(&["true"]);
    // A pipe without a writer: whoever opens it to read waits.
    let pipe = bundle.dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for path in [
        pipe.as_path(),
        Path::new("/etc/passwd"),
        Path::new("/dev/null"),
    ] {
        join(&mut bundle, json!({"type": "network", "path": path}));
        let message = error(&bundle, 1);
        assert!(message.contains("and it is none"), "{message}");
    }
    join(&mut bundle, json!({"type": "network", "path": "/no/such"}));
    let message = error(&bundle, 1);
    assert!(message.contains("/no/such"), "{message}");
    assert!(message.contains("no such file"), "{message}");
}

#[test]
fn ones_own_namespaces_are_joined_by_staying() {
    if !need::file("/proc/self/ns/time") {
        return;
    }
    let script = "for n in user pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done";
    let mut bundle = Bundle::script(script);
    bundle.config.as_object_mut().unwrap().remove("hostname");
    for (kind, file) in KINDS {
        // sysfs and proc belong to those that are shared with the host, and can be mounted by its root.
        if kind != "mount" {
            join(
                &mut bundle,
                json!({"type": kind, "path": format!("/proc/self/ns/{file}")}),
            );
        }
    }
    let output = stdout(&bundle);
    for (line, kind) in output
        .lines()
        .zip(["user", "pid", "net", "ipc", "uts", "cgroup", "time"])
    {
        assert_eq!(line, link(&Path::new("/proc/self/ns").join(kind)), "{kind}");
    }
    if ours() {
        // It is the host's, whatever it is called.
        bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        let message = error(&bundle, 1);
        assert!(
            message.contains("shares that namespace with the host"),
            "{message}"
        );
    }
}

#[test]
fn a_mount_namespace_is_joined_below_its_root() {
    let first = Bundle::new(&["sleep", "1000"]);
    std::fs::create_dir_all(first.root().join("sub/bin")).unwrap();
    std::fs::copy("/bin/busybox", first.root().join("sub/bin/busybox")).unwrap();
    for name in ["sh", "ls", "cat", "grep", "readlink", "sleep", "touch"] {
        std::os::unix::fs::symlink("busybox", first.root().join("sub/bin").join(name)).unwrap();
    }
    std::fs::write(first.root().join("mark"), "of the first\n").unwrap();
    first.up();
    let namespace = json!({"type": "mount", "path": format!("/proc/{}/ns/mnt", first.pid())});

    // The whole of it: nothing is mounted, and the root is what it is.
    let mut second = Bundle::new(&["sh", "-c", "cat /mark; readlink /proc/self/ns/mnt"]);
    second
        .set("/root/path", json!("/"))
        .set("/mounts", json!([]));
    second
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    join(&mut second, namespace.clone());
    let expected = format!(
        "of the first\n{}\n",
        link(Path::new(namespace["path"].as_str().unwrap()))
    );
    // The shared /proc is of the first's pid namespace, so the second goes there too.
    join(
        &mut second,
        json!({"type": "pid", "path": format!("/proc/{}/ns/pid", first.pid())}),
    );
    assert_eq!(stdout(&second), expected);

    // A folder of it: the spec's mounts are made below, and the rest is out of reach.
    let mut third = Bundle::new(&["sleep", "1000"]);
    third.set("/root/path", json!("/sub"));
    third.set(
        "/mounts",
        json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs"}]),
    );
    third
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    join(&mut third, namespace.clone());
    third.up();
    let exec = |script: &str| third.ok(["exec", &third.id, "sh", "-c", script]);
    let seen = exec("ls -d /mark 2>/dev/null; ls /; touch /t/x");
    assert!(!seen.contains("mark"), "{seen}");
    assert_eq!(first.ok(["exec", &first.id, "ls", "/sub/t"]), "x\n");

    // What can have no meaning there is refused.
    if ours() {
        third.set("/linux/rootfsPropagation", json!("private"));
        let mut other = Bundle::new(&["true"]);
        other.config = third.config.clone();
        let message = error(&other, 1);
        assert!(message.contains("linux.rootfsPropagation"), "{message}");
    }
}

#[test]
fn a_read_only_root_in_a_joined_mount_namespace() {
    let first = Bundle::new(&["sleep", "1000"]);
    std::fs::create_dir_all(first.root().join("sub/bin")).unwrap();
    std::fs::copy("/bin/busybox", first.root().join("sub/bin/sh")).unwrap();
    first.up();
    let mut second = Bundle::new(&["sh", "-c", "echo x > /file"]);
    second
        .set("/root/path", json!("/sub"))
        .set("/root/readonly", json!(true));
    second
        .set("/mounts", json!([]))
        .set("/linux/maskedPaths", json!([]));
    second.set("/linux/readonlyPaths", json!([]));
    join(
        &mut second,
        json!({"type": "mount", "path": format!("/proc/{}/ns/mnt", first.pid())}),
    );
    let output = second.run();
    assert!(!output.status.success());
    let message = text(&output.stderr);
    assert!(message.contains("Read-only file system"), "{message}");
    assert!(!first.root().join("sub/file").exists());
}

#[test]
fn clocks_that_cannot_be_set_are_refused() {
    if !need::file("/proc/self/ns/time") {
        return;
    }
    let offsets = |value: Value| {
        let mut bundle = Bundle::new(&["cat", "/proc/self/timens_offsets"]);
        bundle.namespaces(|n| n.push(json!({"type": "time"})));
        bundle.set("/linux/timeOffsets", value);
        bundle
    };
    let good = offsets(json!({"boottime": {"secs": 1000, "nanosecs": 999_999_999}}));
    let output = stdout(&good);
    let words: Vec<&str> = output.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(words, ["boottime", "1000", "999999999"]);
    if !ours() {
        return;
    }
    for odd in [
        json!({"boottime": {"secs": 0, "nanosecs": 1_000_000_000}}),
        json!({"monotonic": {"secs": 9_000_000_000_i64}}),
        json!({"realtime": {"secs": 1}}),
    ] {
        let message = error(&offsets(odd.clone()), 1);
        assert!(message.contains("linux.timeOffsets"), "{odd}: {message}");
    }
    // Before the machine was switched on.
    let message = error(&offsets(json!({"boottime": {"secs": -2_000_000_000}})), 1);
    assert!(message.contains("timens_offsets"), "{message}");
}

#[test]
fn ids_that_nobody_has_are_refused_before_anything_is_made() {
    if !ours() {
        return;
    }
    let ids = json!([{"containerID": 0, "hostID": 100000, "size": 10}]);
    for (user, field) in [
        (json!({"uid": 10, "gid": 0}), "process.user.uid"),
        (json!({"uid": 9, "gid": 10}), "process.user.gid"),
        (
            json!({"uid": 0, "gid": 0, "additionalGids": [3, 77]}),
            "process.user.additionalGids",
        ),
        (
            json!({"uid": 0, "gid": 0, "umask": 512}),
            "process.user.umask",
        ),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.namespaces(|n| n.push(json!({"type": "user"})));
        bundle.set("/linux/uidMappings", ids.clone());
        bundle.set("/linux/gidMappings", ids.clone());
        bundle.set("/process/user", user);
        let message = error(&bundle, 1);
        assert!(message.contains(field), "{message}");
        assert!(!bundle.state_root().exists(), "something was made");
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.namespaces(|n| n.push(json!({"type": "user"})));
    bundle.set(
        "/linux/uidMappings",
        json!([{"containerID": 5, "hostID": 100000, "size": 10}]),
    );
    bundle.set("/linux/gidMappings", ids);
    let message = error(&bundle, 1);
    assert!(
        message.contains("does not map the container's id 0"),
        "{message}"
    );
}
