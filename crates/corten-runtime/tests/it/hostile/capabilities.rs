//! Rights that nobody asked for.

use std::process::Command;

use serde_json::json;

use super::{Side, proven};
use crate::harness::{Bundle, text};

/// What `run` and what `exec` say to a script.
fn both(side: Side, script: &str, prepare: impl Fn(&mut Bundle)) -> [String; 2] {
    let mut run = side.script(script);
    prepare(&mut run);
    let output = run.run();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut exec = side.bundle(&["sleep", "100"]);
    prepare(&mut exec);
    exec.up();
    let added = exec.oci(["exec", &exec.id, "sh", "-c", script]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    [text(&output.stdout), text(&added.stdout)]
}

const SETS: &str =
    "while read name set; do case $name in Cap*) echo $name$set;; esac; done < /proc/self/status";
const ZERO: &str = "0000000000000000";

/// CVE-2022-29162, CVE-2022-27650, CVE-2022-24769: inheritable capabilities are empty.
#[test]
fn no_capability_is_inheritable_unasked() {
    for at in 0..2 {
        proven("caps.inherit", |side| {
            let said = &both(side, SETS, |_| {})[at];
            !said.contains(&format!("CapInh:{ZERO}"))
        });
    }
}

/// Ambient ones would survive into programs that ought to have none.
#[test]
fn no_capability_is_ambient_unasked() {
    for at in 0..2 {
        proven("caps.inherit,caps.ambient", |side| {
            let said = &both(side, SETS, |_| {})[at];
            !said.contains(&format!("CapAmb:{ZERO}"))
        });
    }
}

/// What is not in the bounding set cannot come back by a set-user-id program.
#[test]
fn the_bounding_set_is_what_was_asked_for() {
    for at in 0..2 {
        proven("caps.bounding", |side| {
            let said = &both(side, SETS, |bundle| {
                let none = json!([]);
                bundle.set(
                    "/process/capabilities",
                    json!({"bounding": none, "permitted": none, "effective": none}),
                );
            })[at];
            !said.contains(&format!("CapBnd:{ZERO}"))
        });
    }
}

/// A container's process has the groups that its spec says, not those of who started the runtime.
#[test]
fn the_callers_groups_are_not_kept() {
    for user in [0, 33] {
        proven("groups.keep", |side| {
            let mut bundle = side.bundle(&["id", "-G"]);
            bundle.set("/process/user", json!({"uid": user, "gid": user}));
            bundle.write();
            let folder = bundle.dir.path().to_str().unwrap();
            let output = with_group(&bundle, &["run", "--bundle", folder, &bundle.id]);
            output.contains("4242")
        });
        proven("groups.keep", |side| {
            let mut bundle = side.bundle(&["sleep", "100"]);
            bundle.set("/process/user", json!({"uid": user, "gid": user}));
            bundle.up();
            with_group(&bundle, &["exec", &bundle.id, "id", "-G"]).contains("4242")
        });
    }
}

/// The runtime, called by somebody with a group more.
fn with_group(bundle: &Bundle, args: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--groups", "0,4242", "--"]);
    let inner = bundle.command(args);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}
