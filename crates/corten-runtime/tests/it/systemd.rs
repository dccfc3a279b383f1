//! The systemd cgroup driver. Tests named `systemd_*` need systemd as PID 1, and say so where they are
//! skipped; a guest with it runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Bundle, ours, text};

/// Whether systemd runs this host, and the runtime is ours.
fn systemd() -> bool {
    let here = Path::new("/run/systemd/system").exists();
    if !here {
        println!("skipped: systemd is not PID 1 here");
    }
    here && ours()
}

/// A bundle whose scope is in a slice of the tests' own.
fn scoped(args: &[&str]) -> (Bundle, Unit) {
    let mut bundle = Bundle::new(args);
    let path = format!("corten-it.slice:box:{}", bundle.id);
    bundle.set("/linux/cgroupsPath", json!(path));
    let unit = Unit {
        name: format!("box-{}.scope", bundle.id),
        group: format!("/corten.slice/corten-it.slice/box-{}.scope", bundle.id),
    };
    (bundle, unit)
}

struct Unit {
    name: String,
    group: String,
}

impl Unit {
    fn show(&self, property: &str) -> String {
        let output = Command::new("systemctl")
            .args(["show", "--value", "-p", property, &self.name])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().into()
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup")
            .join(self.group.trim_start_matches('/'))
            .join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name))
            .unwrap()
            .trim()
            .into()
    }

    /// Nothing of it, in systemd or in the kernel.
    fn assert_gone(&self) {
        assert_eq!(self.show("ActiveState"), "inactive");
        assert_eq!(self.show("LoadState"), "not-found");
        assert!(!self.file("").exists(), "{} is left", self.group);
    }
}

/// `create` with the driver, and its log.
fn create(bundle: &Bundle) -> (bool, String) {
    bundle.write();
    let log = bundle.dir.path().join("create.log");
    let mut command = bundle.command(["--systemd-cgroup", "--log"]);
    command.arg(&log).args(["create", "--bundle"]);
    let status = command
        .arg(bundle.dir.path())
        .arg(&bundle.id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    (
        status.success(),
        std::fs::read_to_string(log).unwrap_or_default(),
    )
}

fn up(bundle: &Bundle) {
    let (success, log) = create(bundle);
    assert!(success, "{log}");
    bundle.ok(["start", &bundle.id]);
}

#[test]
fn without_systemd_the_driver_is_refused() {
    if Path::new("/run/systemd/system").exists() || !ours() {
        println!("skipped: systemd runs here");
        return;
    }
    let (bundle, _) = scoped(&["true"]);
    let (success, log) = create(&bundle);
    assert!(!success);
    assert!(
        log.contains(
            "cannot use the systemd cgroup driver: systemd is not running: no /run/systemd/system"
        ),
        "{log}"
    );
}

#[test]
fn a_scopes_path_needs_the_driver() {
    if !ours() {
        return;
    }
    let (bundle, _) = scoped(&["true"]);
    let (code, log) = bundle.create();
    assert_eq!(code, 1);
    assert!(
        log.contains("in systemd's form SLICE:PREFIX:NAME without --systemd-cgroup"),
        "{log}"
    );
}

#[test]
fn systemd_a_scope_from_create_to_delete() {
    if !systemd() {
        return;
    }
    let (mut bundle, unit) = scoped(&["sleep", "1000"]);
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 67108864, "reservation": 33554432},
               "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
               "pids": {"limit": 40},
               "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}),
    );
    up(&bundle);
    let pid = bundle.pid();
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(own.contains(&format!(":{}\n", unit.group)), "{own}");
    assert_eq!(unit.read("cgroup.procs"), pid.to_string(), "init alone");
    for (property, value) in [
        ("ActiveState", "active"),
        ("Slice", "corten-it.slice"),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("TasksMax", "40"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("AllowedCPUs", "0"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(unit.show(property), value, "{property}");
    }
    for (file, value) in [
        ("memory.max", "67108864"),
        ("pids.max", "40"),
        ("cpu.max", "50000 100000"),
        ("hugetlb.2MB.max", "4194304"),
    ] {
        assert_eq!(unit.read(file), value, "{file}");
    }
    let inside = bundle.ok(["exec", &bundle.id, "cat", "/proc/self/cgroup"]);
    assert_eq!(inside, "0::/\n");
    bundle.ok(["pause", &bundle.id]);
    assert_eq!(bundle.status(), "paused");
    bundle.ok(["resume", &bundle.id]);
    bundle.ok([
        "update",
        "--memory",
        "134217728",
        "--pids-limit",
        "30",
        &bundle.id,
    ]);
    assert_eq!(unit.show("MemoryMax"), "134217728");
    assert_eq!(unit.show("TasksMax"), "30");
    assert_eq!(unit.read("memory.max"), "134217728");
    bundle.ok(["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped(pid);
    bundle.ok(["delete", &bundle.id]);
    unit.assert_gone();
}

#[test]
fn systemd_a_reload_takes_no_limit_away() {
    if !systemd() {
        return;
    }
    let script = "while :; do sleep 1000; done";
    let (mut bundle, unit) = scoped(&["sh", "-c", script]);
    bundle.set(
        "/linux/resources",
        json!({"pids": {"limit": 25}, "memory": {"limit": 67108864, "swap": 67108864},
               "hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}],
               "devices": [{"allow": false, "access": "rwm"},
                           {"allow": true, "type": "c", "major": 7, "minor": 0, "access": "r"}]}),
    );
    // A console's memory: it needs no capability, so only the group decides.
    bundle.set(
        "/linux/devices",
        json!([{"path": "/dev/vcs", "type": "c", "major": 7, "minor": 0, "fileMode": 438}]),
    );
    up(&bundle);
    let check = || {
        assert_eq!(unit.read("pids.max"), "25");
        assert_eq!(unit.read("memory.max"), "67108864");
        assert_eq!(unit.read("memory.swap.max"), "0");
        assert_eq!(unit.read("hugetlb.2MB.max"), "2097152");
        let open = |script| {
            bundle
                .oci(["exec", &bundle.id, "sh", "-c", script])
                .status
                .success()
        };
        assert!(open(": </dev/vcs"));
        assert!(!open(": >/dev/vcs"));
    };
    check();
    let reload = Command::new("systemctl").arg("daemon-reload").status();
    assert!(reload.unwrap().success());
    check();
}

#[test]
fn systemd_without_a_path_it_is_in_the_system_slice() {
    if !systemd() {
        return;
    }
    let (mut bundle, _) = scoped(&["cat", "/proc/self/cgroup"]);
    bundle.set("/linux/cgroupsPath", json!(""));
    bundle.namespaces(|list| list.retain(|n| n["type"] != "cgroup"));
    bundle.write();
    let path = bundle.dir.path().to_str().unwrap();
    let output = bundle.oci(["--systemd-cgroup", "run", "--bundle", path, &bundle.id]);
    let group = format!("/system.slice/corten-{}.scope", bundle.id);
    assert!(text(&output.stdout).contains(&group), "{output:?}");
    let name = format!("corten-{}.scope", bundle.id);
    Unit { name, group }.assert_gone();
}

/// The process that holds the scope's place must not count.
#[test]
fn systemd_one_process_is_enough() {
    if !systemd() {
        return;
    }
    for limit in [0, 1] {
        let (mut bundle, unit) = scoped(&[
            "sh",
            "-c",
            "read x </sys/fs/cgroup/pids.max; echo $x; true & :",
        ]);
        bundle.set("/linux/resources/pids", json!({"limit": limit}));
        bundle.write();
        let path = bundle.dir.path().to_str().unwrap();
        let output = bundle.oci(["--systemd-cgroup", "run", "--bundle", path, &bundle.id]);
        assert_eq!(text(&output.stdout), "1\n", "{output:?}");
        assert!(text(&output.stderr).contains("fork"), "{output:?}");
        unit.assert_gone();
    }
}

#[test]
fn systemd_annotations_are_properties() {
    if !systemd() {
        return;
    }
    let (mut bundle, unit) = scoped(&["sleep", "1000"]);
    bundle.set(
        "/annotations",
        json!({"org.systemd.property.TimeoutStopSec": "7", "org.systemd.property.Description": "'of the test'"}),
    );
    up(&bundle);
    assert_eq!(unit.show("TimeoutStopUSec"), "7s");
    assert_eq!(unit.show("Description"), "of the test");
    bundle.ok(["delete", "--force", &bundle.id]);
    unit.assert_gone();
    bundle.set(
        "/annotations",
        json!({"org.systemd.property.Nonsense": "true"}),
    );
    let (success, log) = create(&bundle);
    assert!(!success);
    assert!(log.contains("systemd refused StartTransientUnit"), "{log}");
    unit.assert_gone();
}

#[test]
fn systemd_a_failed_start_leaves_nothing() {
    if !systemd() {
        return;
    }
    let (mut bundle, unit) = scoped(&["no-such-program"]);
    assert!(!create(&bundle).0);
    unit.assert_gone();
    bundle.set("/process/args", json!(["true"]));
    bundle.set("/linux/resources/unified", json!({"memory.nonsense": "1"}));
    let (success, log) = create(&bundle);
    assert!(!success);
    assert!(log.contains("memory.nonsense"), "{log}");
    unit.assert_gone();
    let (bundle, unit) = scoped(&["no-such-program"]);
    bundle.write();
    let path = bundle.dir.path().to_str().unwrap();
    let output = bundle.oci(["--systemd-cgroup", "run", "--bundle", path, &bundle.id]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    unit.assert_gone();
}

#[test]
fn systemd_a_unit_of_somebody_else_is_not_taken() {
    if !systemd() {
        return;
    }
    let (bundle, unit) = scoped(&["true"]);
    let name = format!("--unit={}", unit.name);
    let mut other = Command::new("systemd-run")
        .args(["--scope", &name, "--slice=corten-it", "sleep", "1000"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while unit.show("ActiveState") != "active" && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (success, log) = create(&bundle);
    assert!(!success);
    assert!(log.contains("UnitExists"), "{log}");
    assert_eq!(unit.show("ActiveState"), "active", "it was left alone");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn systemd_a_create_killed_at_any_moment_can_be_deleted() {
    if !systemd() {
        return;
    }
    let (bundle, unit) = scoped(&["sleep", "1000"]);
    bundle.write();
    let start = || {
        let mut command = bundle.command(["--systemd-cgroup", "create", "--bundle"]);
        command
            .arg(bundle.dir.path())
            .arg(&bundle.id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let begun = Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = begun.elapsed();
    bundle.ok(["delete", "--force", &bundle.id]);
    // From before the first line to after the last.
    for step in 0..=12 {
        let mut child = start();
        std::thread::sleep(whole * step / 11);
        child.kill().unwrap();
        child.wait().unwrap();
        bundle.ok(["delete", "--force", &bundle.id]);
        let end = Instant::now() + Duration::from_secs(20);
        // A call that was on its way may start the scope after all; with nobody in it systemd removes it.
        while unit.show("ActiveState") != "inactive" && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        unit.assert_gone();
    }
}
