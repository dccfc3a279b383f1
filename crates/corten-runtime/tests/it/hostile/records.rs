//! State that somebody else has written.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::proven;
use crate::harness::{Bundle, text};

/// What lies in a state folder is for its owner's eyes.
#[test]
fn records_are_nobody_elses_to_read() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let folder = bundle.state_root().join(&bundle.id);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&folder), 0o700);
    for file in ["state.json", "config.json"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
}

/// A folder that another user made, or could write to, holds no containers of ours.
#[test]
fn a_folder_of_somebody_else_holds_no_containers() {
    for (mode, owner) in [(0o700, 33), (0o777, 0), (0o770, 33)] {
        proven("state.trusting", |side| {
            let bundle = side.bundle(&["sleep", "100"]);
            bundle.up();
            let folder = bundle.state_root().join(&bundle.id);
            let set = |mode, owner| {
                std::os::unix::fs::chown(&folder, Some(owner), None).unwrap();
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(&folder, mode).unwrap();
            };
            set(mode, owner);
            let output = bundle.oci(["state", &bundle.id]);
            set(0o700, 0);
            output.status.success()
        });
    }
}

/// A link in place of a container's folder or of a file in it.
#[test]
fn links_among_the_records_are_not_followed() {
    for name in ["", "state.json"] {
        proven("state.trusting", |side| {
            let bundle = side.bundle(&["sleep", "100"]);
            bundle.up();
            let folder = bundle.state_root().join(&bundle.id);
            let path = if name.is_empty() {
                folder.clone()
            } else {
                folder.join(name)
            };
            let away = bundle.dir.path().join("away");
            std::fs::rename(&path, &away).unwrap();
            symlink(&away, &path).unwrap();
            let output = bundle.oci(["state", &bundle.id]);
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(&away, &path).unwrap();
            if side.is_up() {
                assert!(!text(&output.stderr).is_empty());
            }
            output.status.success()
        });
    }
}
