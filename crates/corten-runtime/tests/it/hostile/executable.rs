//! The runtime's own executable (CVE-2019-5736).

use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;

use super::{proven, weak};
use crate::harness::{Bundle, runtime, text};

/// Ways to be executed without being named: a link, an interpreter line, and one through the other. With what a
/// dynamic loader would obey, which ours must not have.
fn trap(bundle: &mut Bundle, kind: &str) {
    let entry = bundle.root().join("entry");
    match kind {
        "link" => symlink("/proc/self/exe", entry).unwrap(),
        "script" => script(&entry, "#!/proc/self/exe --version\n"),
        _ => {
            symlink("/proc/self/exe", bundle.root().join("inner")).unwrap();
            script(&entry, "#!/inner --version\n");
        }
    }
    std::fs::write(bundle.root().join("etc/ld.so.preload"), "/evil.so\n").unwrap();
    bundle.set(
        "/process/env",
        json!([
            "PATH=/bin",
            "LD_PRELOAD=/evil.so",
            "LD_LIBRARY_PATH=/",
            "LD_AUDIT=/evil.so"
        ]),
    );
}

fn script(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// It speaks of itself: the container has executed it, and could hold it open for writing.
fn speaks(output: &std::process::Output) -> bool {
    let all = text(&output.stdout) + &text(&output.stderr);
    all.contains("corten-oci version") || all.contains("usage: corten-oci")
}

#[test]
fn an_entrypoint_is_not_the_runtime() {
    let own = std::fs::read(runtime()).unwrap();
    for kind in ["link", "script", "both"] {
        proven("trampoline.none", |side| {
            let mut bundle = side.bundle(&["/entry", "--version"]);
            trap(&mut bundle, kind);
            speaks(&bundle.run())
        });
    }
    assert!(std::fs::read(runtime()).unwrap() == own);
}

#[test]
fn an_added_process_is_not_the_runtime() {
    for kind in ["link", "script", "both"] {
        proven("trampoline.none", |side| {
            let mut bundle = side.bundle(&["sleep", "100"]);
            trap(&mut bundle, kind);
            bundle.up();
            speaks(&bundle.oci(["exec", &bundle.id, "/entry", "--version"]))
        });
    }
}

/// What an added process is before its program, a container that may trace it sees: never the runtime.
#[test]
fn exec_does_not_show_the_runtimes_executable() {
    proven("exec.early,exec.dumpable", |side| {
        let loops =
            "while :; do for p in /proc/[0-9]*; do readlink $p/exe >> /tmp/seen; done; done";
        let mut bundle = side.script(loops);
        super::entering::may_trace(&mut bundle);
        bundle.up();
        let name = match side.is_up() {
            true => runtime(),
            false => weak(),
        };
        let name = name.file_name().unwrap().to_str().unwrap().to_owned();
        (0..super::entering::TRIES).any(|_| {
            bundle.oci(["exec", &bundle.id, "true"]);
            let seen = std::fs::read_to_string(bundle.root().join("tmp/seen"));
            seen.unwrap_or_default().contains(&name)
        })
    });
}
