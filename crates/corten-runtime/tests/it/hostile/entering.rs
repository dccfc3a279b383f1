//! A process on its way into a container that is there already, and may be waiting for it.

use serde_json::json;

use super::proven;
use crate::harness::{Bundle, text};

/// How often a container gets the chance. Two to three milliseconds each.
pub const TRIES: usize = 60;

/// The rights of a container that debugs itself.
pub fn may_trace(bundle: &mut Bundle) {
    let sets = json!([
        "CAP_SYS_PTRACE",
        "CAP_KILL",
        "CAP_DAC_OVERRIDE",
        "CAP_DAC_READ_SEARCH"
    ]);
    bundle.set(
        "/process/capabilities",
        json!({"bounding": sets, "permitted": sets, "effective": sets}),
    );
}

/// CVE-2016-9962: root, folder or descriptors of the host, seen through an added process.
#[test]
fn an_added_process_brings_nothing_of_the_host() {
    for link in ["root", "cwd"] {
        proven("exec.early,exec.dumpable", |side| {
            // The file is on the host only.
            let loops = format!(
                "while :; do for p in /proc/[0-9]*; do [ -e $p/{link}/HOST/mark ] && echo seen >> /tmp/seen; done; done"
            );
            let mut bundle = side.script("");
            let host = bundle.dir.path().to_str().unwrap().to_owned();
            let relative = if link == "root" { host.as_str() } else { "." };
            let loops = loops.replace("/HOST", &format!("/{relative}"));
            bundle.set("/process/args", json!(["sh", "-c", loops]));
            std::fs::write(bundle.dir.path().join("mark"), "").unwrap();
            may_trace(&mut bundle);
            bundle.up();
            (0..TRIES).any(|_| {
                let mut command = bundle.command(["exec", &bundle.id, "true"]);
                let output = command.current_dir(bundle.dir.path()).output().unwrap();
                assert!(output.status.success(), "{}", text(&output.stderr));
                bundle.root().join("tmp/seen").exists()
            })
        });
    }
}

/// The same for descriptors: a caller's open folder.
#[test]
fn an_added_process_shows_no_descriptor_of_the_host() {
    proven("exec.early,exec.dumpable", |side| {
        let loops = "while :; do for p in /proc/[0-9]*; do for n in 3 4 5 6 7 8 9; do [ -e $p/fd/$n/mark ] && echo seen >> /tmp/seen; done; done; done";
        let mut bundle = side.script(loops);
        std::fs::write(bundle.dir.path().join("mark"), "").unwrap();
        may_trace(&mut bundle);
        bundle.up();
        let inner = bundle.command(["exec", &bundle.id, "true"]);
        let args: Vec<_> = inner.get_args().map(|a| a.to_str().unwrap()).collect();
        let line = format!(
            "exec 9<{}; exec {} {}",
            bundle.dir.path().display(),
            inner.get_program().to_str().unwrap(),
            args.join(" ")
        );
        (0..TRIES).any(|_| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &line]);
            for (name, value) in inner.get_envs() {
                command.env(name, value.unwrap());
            }
            assert!(command.status().unwrap().success());
            bundle.root().join("tmp/seen").exists()
        })
    });
}

/// A container that stops whatever comes in holds nobody up for ever.
#[test]
fn a_container_that_stops_what_comes_in_holds_nobody_up() {
    let mut bundle = Bundle::script(
        "trap '' TERM; while :; do for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n = 1 ] || kill -STOP $n; done; done",
    );
    may_trace(&mut bundle);
    bundle.up();
    let since = std::time::Instant::now();
    for _ in 0..20 {
        let mut command = bundle.command(["exec", "--detach", &bundle.id, "true"]);
        // A stopped one would hold a pipe open.
        let null = std::process::Stdio::null;
        command.stdin(null()).stdout(null()).stderr(null());
        let _ = command.status().unwrap();
    }
    assert!(since.elapsed() < std::time::Duration::from_secs(60));
}

/// Into a container that is about to end: in there, or an error, and never on the host.
#[test]
fn a_dying_container_takes_nobody_to_the_host() {
    let bundle = Bundle::script("sleep 0.15");
    let mark = bundle.dir.path().join("mark");
    std::fs::write(&mark, "").unwrap();
    for _ in 0..6 {
        bundle.up();
        loop {
            let test = format!("test -e {} && echo OUTSIDE", mark.display());
            let output = bundle.oci(["exec", &bundle.id, "sh", "-c", &test]);
            assert!(!text(&output.stdout).contains("OUTSIDE"));
            let said = text(&output.stderr);
            if said.contains("stopped") {
                break;
            }
        }
        bundle.ok(["delete", &bundle.id]);
    }
}

/// The number of a container's init, given to another process since: that one is none of ours.
#[test]
fn another_process_with_inits_number_is_not_entered() {
    proven("init.by_pid", |side| {
        let bundle = side.bundle(&["sleep", "0.3"]);
        bundle.up();
        bundle.wait_stopped(bundle.pid());
        // The number of a process of the host, as a reused one would be.
        let mut other = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let path = bundle.state_root().join(&bundle.id).join("state.json");
        let mut state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        state["init"]["pid"] = other.id().into();
        std::fs::write(&path, state.to_string()).unwrap();
        let taken = bundle.status() != "stopped";
        // So that nothing of what follows finds it.
        state["init"] = serde_json::Value::Null;
        std::fs::write(&path, state.to_string()).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        taken
    });
}
