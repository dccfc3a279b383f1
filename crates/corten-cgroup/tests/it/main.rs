//! The crate against the running kernel, as root. Host tests use the host's own
//! layout; v2 tests run again in a private mount namespace whose `/sys/fs/cgroup` is a
//! cgroup2 mount, which has every core feature and, on a hybrid host, the leftover controllers.

mod host;
mod limits;
mod systemd;
mod unified;

use std::process::{Child, Command, Stdio};

use corten_cgroup::{Cgroup, Layout};
use oci_spec::runtime::LinuxResources;

/// A group of this test's own, killed and removed at the end whatever happens.
struct Scratch {
    group: Cgroup,
    path: String,
    layout: Layout,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let layout = Layout::probe().unwrap();
        let path = format!("/corten-test-{}-{name}/a", std::process::id());
        let group = Cgroup::create(&layout, &path).unwrap();
        Self {
            group,
            path,
            layout,
        }
    }

    fn apply(&self, json: &str) -> Result<(), corten_cgroup::Error> {
        self.group.apply(&resources(json))
    }

    /// Starts a command inside, the way that a runtime does: it joins by itself.
    fn spawn(&self, script: &str) -> Child {
        let mut join = String::new();
        for h in self.layout.hierarchies() {
            join += &format!("echo 0 > {}{}/tasks; ", h.root.display(), self.path);
        }
        if let Some(root) = self.layout.unified() {
            join += &format!("echo 0 > {}{}/cgroup.procs; ", root.display(), self.path);
        }
        Command::new("sh")
            .args(["-c", &format!("{join} echo ready; {script}")])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn spawn_ready(&self, script: &str) -> Child {
        use std::io::Read;
        let mut child = self.spawn(script);
        let mut line = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        child
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.group.thaw();
        let _ = self.group.kill(9);
        // A test that failed half-way may have left zombies of its own; they are empty groups' business, not ours.
        let deleted = self.group.delete();
        let parent = self.path.rsplit_once('/').unwrap().0;
        let parent = Cgroup::open(&self.layout, parent).and_then(|p| p.delete());
        if !std::thread::panicking() {
            deleted.unwrap();
            parent.unwrap();
        }
    }
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// Runs the named test of this binary once more where only cgroup v2 is mounted.
/// Returns whether we are there already, as on a machine that has nothing else.
fn inside_v2(test: &str) -> bool {
    const MARK: &str = "CORTEN_CGROUP_V2";
    let pure = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if pure || std::env::var_os(MARK).is_some() {
        return true;
    }
    let root = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.subtree_control");
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    // What was handed down from the root for the test is taken back.
    if root.is_ok_and(|r| r.trim().is_empty()) {
        let _ = std::fs::write("/sys/fs/cgroup/unified/cgroup.subtree_control", "-hugetlb");
    }
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    false
}
