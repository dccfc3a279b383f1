//! The runtime in the hands of somebody without rights.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use corten_testkit::need;
use serde_json::{Value, json};

use crate::harness::text;
use crate::user::{COUNT, FIRST, Rootless, UID};

#[test]
fn a_user_has_one_id_without_help() {
    let script = "id -u; cat /proc/self/uid_map /proc/self/setgroups; touch /tmp/x; stat -c %u:%t,%T /tmp/x /dev/null /dev/shm; cat /proc/sys/kernel/hostname; mount | grep -c ' /sys/fs/cgroup'; ls /sys/class/net";
    let mut container = Rootless::script(script);
    container.bundle.set("/hostname", json!("mine"));
    let output = container.stdout();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "0");
    let map: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(map, ["0", &UID.to_string(), "1"]);
    assert_eq!(
        lines[2..7],
        ["deny", "0:0,0", "65534:1,3", "0:0,0", "mine"],
        "{output}"
    );
    assert_ne!(lines[7], "0", "the caller's groups are shown");
    assert_eq!(lines[8..], ["lo"]);
    let made = std::fs::metadata(container.bundle.root().join("tmp/x")).unwrap();
    assert_eq!((made.uid(), made.gid()), (UID, UID));
}

#[test]
fn a_life_without_root() {
    let mut container = Rootless::new(&["sleep", "1000"]);
    container.bundle.set("/process/oomScoreAdj", json!(500));
    container.up();
    let id = container.bundle.id.clone();
    assert_eq!(container.state()["status"], "running");
    assert_eq!(container.state_folders(), 1, "the state is the user's");
    let pid = container.pid();
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(of("oom_score_adj"), "500\n");
    assert_eq!(
        of("cgroup"),
        std::fs::read_to_string("/proc/self/cgroup").unwrap()
    );

    let script = "id -u; for n in self/ns/user 1/ns/user self/ns/pid 1/ns/pid; do readlink /proc/$n; done; cat /proc/self/oom_score_adj";
    let output = container.ok(&["exec", &id, "sh", "-c", script]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("0", lines[2], lines[4]));
    let nope = container.oci(&["exec", &id, "nope"]);
    assert_eq!(nope.status.code(), Some(127), "{}", text(&nope.stderr));
    assert_eq!(
        container
            .oci(&["exec", &id, "sh", "-c", "exit 7"])
            .status
            .code(),
        Some(7)
    );
    assert!(container.exec_terminal("tty").starts_with("/dev/pts/0"));
    let unmapped = container.oci(&["exec", "--user", "1", &id, "true"]);
    assert!(
        text(&unmapped.stderr).contains("process.user.uid"),
        "{}",
        text(&unmapped.stderr)
    );

    let listed: Vec<i32> =
        serde_json::from_str(&container.ok(&["ps", "--format", "json", &id])).unwrap();
    assert_eq!(listed, [pid]);
    let paused = text(&container.oci(&["pause", &id]).stderr);
    assert!(
        paused.contains("has no control group of its own"),
        "{paused}"
    );
    container.ok(&["kill", "--all", &id, "KILL"]);
    container.bundle.wait_stopped(pid);
    assert_eq!(container.state()["status"], "stopped");
    container.ok(&["delete", &id]);
    assert_eq!(container.state_folders(), 0);
}

#[test]
fn a_terminal_is_opened_inside() {
    let mut container = Rootless::script("tty; stty size; ls -ln /dev/console");
    container.bundle.set("/process/terminal", json!(true));
    container
        .bundle
        .set("/process/consoleSize", json!({"height": 24, "width": 81}));
    let line = format!(
        "{} run --bundle {} {}",
        container.path("corten-oci").display(),
        container.bundle.dir.path().display(),
        container.bundle.id
    );
    let output = container
        .command("script")
        .args(["-qec", &line, "/dev/null"])
        .output()
        .unwrap();
    let output = text(&output.stdout);
    assert!(output.starts_with("/dev/pts/0\r\n24 81\r\n"), "{output:?}");
    assert!(output.contains("crw"), "{output:?}");
}

#[test]
fn ranges_are_mapped_by_newuidmap() {
    let script = "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id -u; id -g; id -G; chown 33:34 /tmp";
    let mut container = Rootless::script(script).with_ranges();
    container.bundle.set(
        "/process/user",
        json!({"uid": 0, "gid": 5, "additionalGids": [6, 7]}),
    );
    let capabilities = json!(["CAP_CHOWN"]);
    for set in ["bounding", "permitted", "effective"] {
        container.bundle.set(
            &format!("/process/capabilities/{set}"),
            capabilities.clone(),
        );
    }
    let output = container.stdout();
    let lines: Vec<Vec<&str>> = output
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let (own, first, count) = (UID.to_string(), FIRST.to_string(), COUNT.to_string());
    assert_eq!(lines[0], ["0", &own, "1"]);
    assert_eq!(lines[1], ["1", &first, &count]);
    assert_eq!((&lines[0], &lines[1]), (&lines[2], &lines[3]));
    assert_eq!(
        lines[4..],
        [vec!["allow"], vec!["0"], vec!["5"], vec!["5", "6", "7"]]
    );
    let tmp = std::fs::metadata(container.bundle.root().join("tmp")).unwrap();
    assert_eq!((tmp.uid(), tmp.gid()), (FIRST + 32, FIRST + 33));
}

#[test]
fn a_range_that_is_not_the_users_is_named() {
    let mut container = Rootless::new(&["true"]).with_ranges();
    let ids = json!([
        {"containerID": 0, "hostID": UID, "size": 1},
        {"containerID": 1, "hostID": FIRST, "size": COUNT + 1},
    ]);
    container.bundle.set("/linux/uidMappings", ids);
    let message = container.error();
    for part in [
        "newuidmap",
        "1-1001 to 1000000-1001000",
        "/etc/subuid",
        "1000000-1000999",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    container.bundle.set(
        "/linux/uidMappings",
        json!([{"containerID": 0, "hostID": 0, "size": 1}]),
    );
    let message = container.error();
    assert!(
        message.contains("container's user ids 0-0 to 0-0"),
        "{message}"
    );
    assert_eq!(container.state_folders(), 0);
}

#[test]
fn what_a_user_cannot_have_is_refused() {
    let refused = |pointer: &str, value: Value, parts: &[&str]| {
        let mut container = Rootless::new(&["true"]);
        container.bundle.set(pointer, value);
        let message = container.error();
        for part in parts {
            assert!(message.contains(part), "{part}: {message}");
        }
    };
    let limit = json!({"limit": 7});
    refused(
        "/linux/resources/pids",
        limit,
        &["linux.resources", "sets pids.max to 7"],
    );
    let group = json!("/corten-it-mine");
    refused(
        "/linux/cgroupsPath",
        group,
        &["make the control group", "permission denied"],
    );
    let groups = &["process.user.additionalGids", "setgroups is denied"];
    refused("/process/user/additionalGids", json!([0]), groups);
    let user = &[
        "process.user.uid",
        "is 1, which the user namespace does not map",
    ];
    refused("/process/user/uid", json!(1), user);
    let disk = json!([{"destination": "/m", "type": "ext4", "source": "/dev/vda"}]);
    refused("/mounts", disk, &["mount", "operation not permitted"]);

    let mut container = Rootless::new(&["true"]);
    container
        .bundle
        .namespaces(|n| n.retain(|n| n["type"] != "user"));
    container
        .bundle
        .set("/linux/uidMappings", json!([]))
        .set("/linux/gidMappings", json!([]));
    let message = container.error();
    assert!(message.contains("has no user namespace"), "{message}");
}

#[test]
fn namespaces_that_are_the_hosts_are_seen_by_its_own_mounts() {
    let mut container = Rootless::script("ls /sys/class/net; ls /proc/2/status; touch /sys/x");
    container.bundle.namespaces(|n| {
        n.retain(|n| n["type"] != "network" && n["type"] != "pid");
    });
    container
        .bundle
        .config
        .as_object_mut()
        .unwrap()
        .remove("hostname");
    let output = container.run();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let links = std::fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(out.lines().count(), links + 1, "{out}{err}");
    assert!(err.contains("Read-only file system"), "{err}");
}

#[test]
fn groups_are_kept_if_asked_for() {
    let mut container = Rootless::script("grep ^Groups /proc/self/status");
    container.groups = "--groups=64243,64244";
    // Without, they stay as well, since setgroups is denied: but nobody counts on it.
    container
        .bundle
        .set("/annotations", json!({"run.oci.keep_original_groups": "1"}));
    let mut container = container.with_ranges();
    assert_eq!(
        container.stdout().split_whitespace().collect::<Vec<_>>(),
        ["Groups:", "65534", "65534"]
    );
    container
        .bundle
        .set("/annotations", json!({"run.oci.keep_original_groups": "0"}));
    assert_eq!(container.stdout().trim(), "Groups:");
}

#[test]
fn clocks_of_a_users_own() {
    if !need::file("/proc/self/ns/time") {
        return;
    }
    let mut container =
        Rootless::script("cat /proc/self/timens_offsets; readlink /proc/self/ns/user");
    container
        .bundle
        .namespaces(|n| n.push(json!({"type": "time"})));
    container.bundle.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 5000, "nanosecs": 3}}),
    );
    let output = container.stdout();
    let words: Vec<&str> = output.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words, ["boottime", "5000", "3"]);
}

#[test]
fn a_users_containers_share_namespaces() {
    let first = Rootless::new(&["sleep", "1000"]);
    first.up();
    let pid = first.pid();
    let script = "for n in user net ipc uts pid; do readlink /proc/self/ns/$n; done; id -u";
    let mut second = Rootless::script(script);
    for (kind, file) in [
        ("user", "user"),
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("pid", "pid"),
    ] {
        second.bundle.namespaces(|n| {
            n.retain(|n| n["type"] != kind);
            n.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        });
    }
    second
        .bundle
        .config
        .as_object_mut()
        .unwrap()
        .remove("hostname");
    let expected: String = ["user", "net", "ipc", "uts", "pid"]
        .iter()
        .map(|n| std::fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap())
        .map(|l| format!("{}\n", l.display()))
        .collect();
    assert_eq!(second.stdout(), expected + "0\n");
}

#[test]
fn root_of_a_user_namespace_without_mounts_of_its_own() {
    let mut container =
        Rootless::script("id -u; cat /proc/self/uid_map; tty 2>&1; stat -c %u /dev/pts");
    container
        .bundle
        .namespaces(|n| n.retain(|n| n["type"] != "user"));
    container
        .bundle
        .set("/linux/uidMappings", json!([]))
        .set("/linux/gidMappings", json!([]));
    let runtime = container.path("corten-oci");
    let bundle = container.bundle.dir.path().to_owned();
    for flags in [&["--map-root-user"][..], &["--map-root-user", "--mount"]] {
        let mut command = container.command("unshare");
        command
            .args(flags)
            .arg(&runtime)
            .arg("run")
            .arg("--bundle")
            .arg(&bundle);
        let output = command.arg(&container.bundle.id).output().unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{flags:?}: {err}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((lines[0], lines[3]), ("0", "0"), "{out}");
    }
}

#[test]
fn hooks_of_a_user_run_where_they_belong() {
    let mut container = Rootless::script("true");
    let out = container.path("home");
    let hook = |name: &str| {
        let script = format!(
            "cat > /dev/null; (readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; id -u) > {}",
            out.join(name).display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    container
        .bundle
        .set("/hooks/createRuntime", hook("runtime"));
    container
        .bundle
        .set("/hooks/createContainer", hook("container"));
    container.stdout();
    let read = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        text.lines().map(String::from).collect()
    };
    let (runtime, inside) = (read("runtime"), read("container"));
    let user = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert_eq!(runtime[1..], [user.to_str().unwrap(), &UID.to_string()]);
    assert_ne!((&runtime[0], &runtime[1]), (&inside[0], &inside[1]));
    assert_eq!(inside[2], "0");
    let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    container.bundle.set("/hooks/createContainer", failing);
    let message = container.error();
    assert!(message.contains("createContainer hook"), "{message}");
    assert!(message.contains("exit status 3"), "{message}");
    container
        .bundle
        .set("/hooks/createContainer", json!([{"path": "/no/such"}]));
    let message = container.error();
    assert!(message.contains("cannot be run"), "{message}");
}

/// A part of the unified tree that the user may use, and its own processes' group in it.
struct Delegated(PathBuf);

impl Delegated {
    fn new(id: &str) -> Option<Self> {
        const CGROUP2: u64 = 0x6367_7270;
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = roots
            .into_iter()
            .find(|root| rustix::fs::statfs(*root).is_ok_and(|s| s.f_type as u64 == CGROUP2))?;
        let top = root.join(format!("corten-it-{id}"));
        for folder in [top.clone(), top.join("session")] {
            std::fs::create_dir(&folder).unwrap();
            for file in [
                "",
                "cgroup.procs",
                "cgroup.subtree_control",
                "cgroup.threads",
            ] {
                std::os::unix::fs::chown(folder.join(file), Some(UID), Some(UID)).unwrap();
            }
        }
        Some(Self(top))
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let left: Vec<_> = std::fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let folders = left.iter().filter(|e| e.path().is_dir());
        let names: Vec<_> = folders.map(|e| e.file_name()).collect();
        for name in &names {
            let _ = std::fs::remove_dir(self.0.join(name));
        }
        let removed = std::fs::remove_dir(&self.0);
        if !std::thread::panicking() {
            assert_eq!(names, ["session"], "a control group is left");
            removed.unwrap();
        }
    }
}

#[test]
fn a_delegated_group_is_entered() {
    let mut container = Rootless::new(&["sleep", "1000"]);
    let delegated = Delegated::new(&container.bundle.id);
    let delegated = delegated.expect("this host has no unified control groups");
    container.group = Some(delegated.0.join("session"));
    let id = container.bundle.id.clone();
    let named = format!("/{}/box", delegated.name());
    for path in [None, Some(named)] {
        let expected = match &path {
            // Beside the caller's own.
            None => format!("0::/{}/corten-{id}", delegated.name()),
            Some(path) => format!("0::{path}"),
        };
        container.bundle.set("/linux/cgroupsPath", json!(path));
        container.up();
        let pid = container.pid();
        let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(
            of(&pid.to_string()).contains(&expected),
            "{}",
            of(&pid.to_string())
        );
        let inside = container.ok(&["exec", &id, "cat", "/proc/self/cgroup"]);
        assert!(inside.contains("0::/\n"), "{inside}");
        container.ok(&["pause", &id]);
        assert_eq!(container.state()["status"], "paused");
        container.ok(&["resume", &id]);
        // From another group, from which the user may not move there, it is said that the process stays outside.
        let session = container.group.take();
        let outside = container.oci(&["exec", &id, "true"]);
        assert!(outside.status.success());
        assert!(
            text(&outside.stderr).contains("stays outside"),
            "{}",
            text(&outside.stderr)
        );
        container.group = session;
        container.ok(&["delete", "--force", &id]);
    }
    drop(container);
    drop(delegated);
}
