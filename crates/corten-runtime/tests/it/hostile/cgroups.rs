//! The host's control groups, from inside.

use serde_json::json;

use super::proven;
use crate::harness::{Bundle, text};

fn without_namespace(bundle: &mut Bundle) {
    bundle.namespaces(|list| list.retain(|n| n["type"] != "cgroup"));
    bundle.unmount("/sys/fs/cgroup");
    bundle.mount(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    }));
}

/// Where v2 is all there is, a container without a namespace sees the tree, as its `/proc/self/cgroup` names it.
fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// CVE-2023-25809: without a cgroup namespace the groups of others are not in reach.
#[test]
fn groups_of_the_host_are_out_of_reach() {
    proven("cgroup.host_view", |side| {
        let mut bundle = side.script(
            "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do ls $d/ | grep corten-it; mkdir $d/corten-escape 2>/dev/null && rmdir $d/corten-escape && echo outer; done; true",
        );
        without_namespace(&mut bundle);
        let output = bundle.run();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let out = text(&output.stdout);
        out.contains("outer") || (!unified() && out.contains("corten-it"))
    });
}

/// `release_agent` of v1 names a program of the host; it is in a hierarchy's root only, which no container has.
#[test]
fn no_container_has_a_release_agent() {
    if unified() {
        return; // v2 has none.
    }
    proven("cgroup.host_view", |side| {
        let mut bundle = side.script("ls /sys/fs/cgroup/*/release_agent 2>/dev/null; true");
        without_namespace(&mut bundle);
        text(&bundle.run().stdout).contains("release_agent")
    });
}
