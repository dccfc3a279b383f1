//! The host's control groups, from inside.

use serde_json::json;

use super::proven;
use crate::harness::{Bundle, text};

fn without_namespace(bundle: &mut Bundle) {
    bundle.namespaces(|list| list.retain(|n| n["type"] != "cgroup"));
    // The worst that a spec may ask for.
    bundle.unmount("/sys/fs/cgroup");
    bundle.mount(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime"],
    }));
}

/// CVE-2023-25809: without a cgroup namespace the groups of others are not in reach, to look or to write.
#[test]
fn groups_of_the_host_are_out_of_reach() {
    proven("cgroup.host_view", |side| {
        let mut bundle = side.script(
            "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do ls $d/ | grep corten-it; mkdir $d/corten-escape && rmdir $d/corten-escape && test -e $d/release_agent && echo outer; done; true",
        );
        without_namespace(&mut bundle);
        let output = bundle.run();
        let out = text(&output.stdout);
        out.contains("corten-it") || out.contains("outer")
    });
}

/// `release_agent` of v1 names a program of the host; it is in a hierarchy's root only, which no container has.
#[test]
fn no_container_has_a_release_agent() {
    proven("cgroup.host_view", |side| {
        // Pure v2 has none: then the root's own file tells whose root it is.
        let mut bundle = side.script(
            "ls /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent /sys/fs/cgroup/cgroup.max.depth.none 2>/dev/null; test -e /sys/fs/cgroup/cgroup.controllers && ! test -e /sys/fs/cgroup/cgroup.type && echo release_agent; true",
        );
        without_namespace(&mut bundle);
        text(&bundle.run().stdout).contains("release_agent")
    });
}
