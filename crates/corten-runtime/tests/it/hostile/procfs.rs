//! Writes that the runtime makes by way of `/proc`, and a container that has put something else there.

use serde_json::json;

use super::{proven, proven_in_depth};
use crate::harness::{Bundle, text};

/// A folder of the host as the container's `/proc`, with a file where a write is expected.
fn false_proc(bundle: &mut Bundle, file: &str) -> std::path::PathBuf {
    let fake = bundle.dir.path().join("fake");
    let path = fake.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "fake\n").unwrap();
    bundle.unmount("/proc");
    bundle
        .mount(json!({"destination": "/proc", "type": "bind", "source": fake, "options": ["bind"]}))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    path
}

/// CVE-2025-52881, CVE-2019-16884: `/proc` of the container is not what settings go through.
#[test]
fn settings_do_not_go_through_a_false_proc() {
    proven("procfs.plain", |side| {
        let mut bundle = side.bundle(&["true"]);
        let file = false_proc(&mut bundle, "sys/net/ipv4/ip_forward");
        bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        let _ = bundle.run();
        // Refused, or written to the true one: never to the false.
        std::fs::read_to_string(file).unwrap() != "fake\n"
    });
}

/// The same for labels, without which the program would run unconfined.
#[test]
fn labels_do_not_go_through_a_false_proc() {
    proven_in_depth("labels.unchecked,procfs.plain", |side| {
        let mut bundle = side.bundle(&["true"]);
        let file = false_proc(&mut bundle, "thread-self/attr/exec");
        bundle.set(
            "/process/selinuxLabel",
            json!("system_u:system_r:container_t:s0"),
        );
        let _ = bundle.run();
        std::fs::read_to_string(file).unwrap() != "fake\n"
    });
}

/// And of an added process.
#[test]
fn labels_of_an_added_process_do_not_go_through_a_false_proc() {
    proven_in_depth("labels.unchecked,exec.early,procfs.plain", |side| {
        let mut bundle = side.bundle(&["sleep", "100"]);
        let file = false_proc(&mut bundle, "thread-self/attr/exec");
        bundle.up();
        let label = "system_u:system_r:container_t:s0";
        let output = bundle.oci(["exec", "--process-label", label, &bundle.id, "true"]);
        if side.is_up() {
            assert!(!output.status.success(), "{}", text(&output.stderr));
        }
        std::fs::read_to_string(file).unwrap() != "fake\n"
    });
}

/// A setting that is the host's is refused by name, wherever it would be written.
#[test]
fn a_setting_of_the_host_is_refused() {
    for name in [
        "kernel.core_pattern",
        "kernel.sysrq",
        "vm.swappiness",
        "kernel/../kernel/sysrq",
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.set("/linux/sysctl", json!({name: "1"}));
        let output = bundle.run();
        assert!(!output.status.success(), "{name}");
        assert!(text(&output.stderr).contains("linux.sysctl"), "{name}");
    }
}
