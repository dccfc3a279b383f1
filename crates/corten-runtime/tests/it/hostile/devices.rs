//! Devices that are none, or not the ones that they seem.

use std::os::unix::fs::{MetadataExt as _, symlink};

use serde_json::json;

use super::{own_dev, proven, proven_in_depth};
use crate::harness::{ours, text};

/// CVE-2025-31133: `/dev/null` of the image leads to what should be masked.
#[test]
fn a_false_null_device_masks_nothing() {
    proven_in_depth("null.unchecked,devices.unchecked", |side| {
        let mut bundle = side.script("cat /secret.txt");
        own_dev(&mut bundle);
        std::fs::write(bundle.root().join("secret.txt"), "secret").unwrap();
        std::fs::create_dir(bundle.root().join("dev")).unwrap();
        symlink("/secret.txt", bundle.root().join("dev/null")).unwrap();
        bundle.set("/linux/maskedPaths", json!(["/secret.txt"]));
        let output = bundle.run();
        text(&output.stdout).contains("secret")
    });
}

/// Device nodes of the image are no devices of ours.
#[test]
fn a_false_device_is_not_taken_for_ours() {
    if !ours() {
        return;
    }
    proven("devices.unchecked", |side| {
        let mut bundle = side.bundle(&["true"]);
        own_dev(&mut bundle);
        std::fs::create_dir(bundle.root().join("dev")).unwrap();
        std::fs::write(bundle.root().join("dev/zero"), "no device").unwrap();
        let output = bundle.run();
        if side.is_up() {
            assert!(text(&output.stderr).contains("dev/zero"));
        }
        output.status.success()
    });
}

/// CVE-2026-88265: a file of the host as stdio is not given to the container's user, by `run` or by `exec`.
#[test]
fn a_file_of_the_host_as_stdio_keeps_its_owner() {
    for exec in [false, true] {
        proven("stdio.chown_any", |side| {
            let mut bundle = side.bundle(&["sleep", "100"]);
            let path = bundle.dir.path().join("log");
            let log = std::fs::File::create(&path).unwrap();
            bundle.set("/process/user", json!({"uid": 33, "gid": 33}));
            let command = match exec {
                true => {
                    bundle.up();
                    bundle.command(["exec", &bundle.id, "true"])
                }
                false => {
                    bundle.set("/process/args", json!(["true"]));
                    bundle.write();
                    let folder = bundle.dir.path().to_str().unwrap();
                    bundle.command(["run", "--bundle", folder, &bundle.id])
                }
            };
            let mut command = command;
            let status = command.stdout(log).status().unwrap();
            assert!(status.success());
            path.metadata().unwrap().uid() != 0
        });
    }
}
