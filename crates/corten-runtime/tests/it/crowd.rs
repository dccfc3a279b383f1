//! Three hundred containers at once: all run, each can be entered, none is left, and the last cost the runtime no
//! more than the first.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Bundle, ours, text};

const COUNT: usize = 300;

/// `exec` of a command that stays a moment, and the peak resident set of the runtime meanwhile, in KiB.
fn peak_of_exec(bundle: &Bundle, id: &str) -> u64 {
    let mut child = bundle
        .command(["exec", id, "sleep", "0.6"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(child.wait().unwrap().success());
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse().unwrap()
}

/// The bundle again under another id, with a group of its own.
fn create(bundle: &mut Bundle, id: &str) {
    bundle.set(
        "/linux/cgroupsPath",
        Value::from(format!("/corten-it/{id}")),
    );
    bundle.write();
    let folder = bundle.dir.path().to_str().unwrap().to_owned();
    let status = bundle
        .command(["create", "--bundle", &folder, id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{id} was not created");
}

/// Whatever fails, nobody stays.
struct Crowd(Bundle);

impl Drop for Crowd {
    fn drop(&mut self) {
        let left = std::fs::read_dir(self.0.state_root()).into_iter().flatten();
        for entry in left.flatten() {
            let _ = self.0.oci([
                "delete".as_ref(),
                "--force".as_ref(),
                entry.file_name().as_os_str(),
            ]);
        }
    }
}

#[test]
fn three_hundred_containers_live_at_once() {
    let mut crowd = Crowd(Bundle::new(&["sleep", "1000"]));
    let bundle = &mut crowd.0;
    let ids: Vec<String> = (0..COUNT).map(|n| format!("{}-{n}", bundle.id)).collect();
    for id in &ids {
        create(bundle, id);
        bundle.ok(["start", id]);
    }
    let first = ours().then(|| peak_of_exec(bundle, &ids[0]));

    let listed: Value = serde_json::from_str(&bundle.ok(["list", "--format", "json"])).unwrap();
    let listed = listed.as_array().unwrap();
    let running = listed.iter().filter(|c| c["status"] == "running").count();
    assert_eq!((listed.len(), running), (COUNT, COUNT));
    for id in &ids {
        let said = bundle.oci(["exec", id, "echo", id]);
        assert!(said.status.success(), "{}", text(&said.stderr));
        assert_eq!(text(&said.stdout).trim(), id);
    }
    if let Some(first) = first {
        let last = peak_of_exec(bundle, &ids[COUNT - 1]);
        assert!(
            last <= first + first / 20,
            "exec grew from {first} to {last} KiB"
        );
    }
    let pids: Vec<i64> = listed.iter().map(|c| c["pid"].as_i64().unwrap()).collect();
    for id in &ids {
        bundle.ok(["delete", "--force", id]);
    }
    for pid in pids {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!command.contains("sleep"), "process {pid} is left");
    }
    let left = std::fs::read_dir(bundle.state_root()).unwrap().count();
    assert_eq!(left, 0, "state is left");
    let groups = ["/sys/fs/cgroup/pids/corten-it", "/sys/fs/cgroup/corten-it"];
    for entry in groups.iter().filter_map(|g| std::fs::read_dir(g).ok()) {
        let ours = entry
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(&bundle.id));
        assert_eq!(ours.count(), 0, "a control group is left");
    }
}
