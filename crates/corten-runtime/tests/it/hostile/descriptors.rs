//! Descriptors of the host that a caller left open (CVE-2024-21626).

use std::process::{Command, Output};

use serde_json::json;

use super::{Side, proven, proven_in_depth};
use crate::harness::{Bundle, text};

/// The runtime with the host's root open at every number from 3 to 1023 that is not needed.
fn leaking(bundle: &Bundle, args: &[&str]) -> Output {
    let inner = bundle.command(args);
    let words = inner.get_args().map(|a| a.to_str().unwrap());
    // dash takes one digit only; bash takes all.
    let line = format!(
        "ulimit -n 4096; for n in $(seq 3 1023); do eval \"exec $n</\"; done 2>/dev/null; exec {} {}",
        inner.get_program().to_str().unwrap(),
        words.collect::<Vec<_>>().join(" "),
    );
    let mut command = Command::new("bash");
    command.args(["-c", &line]);
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    command.output().unwrap()
}

/// Numbers above stdio, but for the folder's own that `ls` has open.
fn some_are_left(output: &Output) -> bool {
    let out = text(&output.stdout);
    assert!(out.contains('0'), "{out}{}", text(&output.stderr));
    out.split_whitespace()
        .filter_map(|n| n.parse::<u32>().ok())
        .any(|n| n > 3)
}

/// With room for all of them.
fn roomy(side: Side, args: &[&str]) -> Bundle {
    let mut bundle = side.bundle(args);
    bundle.set("/process/rlimits", json!([]));
    bundle
}

#[test]
fn no_descriptor_crosses_into_a_container() {
    proven("fds.leak", |side| {
        let bundle = roomy(side, &["ls", "/proc/self/fd"]);
        bundle.write();
        let folder = bundle.dir.path().to_str().unwrap();
        some_are_left(&leaking(&bundle, &["run", "--bundle", folder, &bundle.id]))
    });
}

#[test]
fn no_descriptor_crosses_with_an_added_process() {
    // What is close-on-exec stays so: only the caller's own are left by this mistake.
    proven("fds.leak", |side| {
        let bundle = roomy(side, &["sleep", "100"]);
        bundle.up();
        some_are_left(&leaking(
            &bundle,
            &["exec", &bundle.id, "ls", "/proc/self/fd"],
        ))
    });
}

/// The working directory is such a descriptor, or one of the runtime's own.
#[test]
fn the_working_directory_is_inside() {
    for cwd in ["/proc/self/fd/7", "/proc/self/fd/300", "/proc/self/fd/1023"] {
        proven("cwd.unchecked", |side| {
            let mut bundle = roomy(side, &["ls"]);
            bundle.set("/process/cwd", json!(cwd));
            bundle.write();
            let folder = bundle.dir.path().to_str().unwrap();
            let output = leaking(&bundle, &["run", "--bundle", folder, &bundle.id]);
            output.status.success() || text(&output.stdout).contains("home")
        });
    }
}

#[test]
fn the_working_directory_of_an_added_process_is_inside() {
    for cwd in ["/proc/self/fd/7", "/proc/self/fd/300", "/proc/self/fd/1023"] {
        // Two walls: it is not in the container's /proc at all, and the folder is checked.
        proven_in_depth("cwd.unchecked,exec.early", |side| {
            let bundle = roomy(side, &["sleep", "100"]);
            bundle.up();
            let args = ["exec", "--cwd", cwd, &bundle.id, "ls"];
            let output = leaking(&bundle, &args);
            output.status.success() || text(&output.stdout).contains("home")
        });
    }
}
