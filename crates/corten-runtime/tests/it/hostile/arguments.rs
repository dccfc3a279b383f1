//! Names, users and files that a caller passes on from somebody else.

use std::os::unix::fs::symlink;

use super::proven;
use crate::harness::{Bundle, text};

/// An id becomes a path, a control group and a socket.
#[test]
fn an_id_is_no_path() {
    let long = "a".repeat(1025);
    for id in [
        "", ".", "..", "a/b", "../a", "/a", "a\nb", "a b", "\u{e4}", &long,
    ] {
        let bundle = Bundle::new(&["true"]);
        bundle.write();
        let folder = bundle.dir.path().to_str().unwrap();
        for command in [
            &["create", "--bundle", folder][..],
            &["run", "--bundle", folder],
        ] {
            let output = bundle.oci(command.iter().copied().chain([id]));
            assert!(!output.status.success(), "{command:?} {id:?}");
            assert!(text(&output.stderr).contains("container id"), "{id:?}");
        }
        for command in [
            &["delete", "--force"][..],
            &["state"],
            &["kill"],
            &["exec"],
            &["start"],
        ] {
            let output = bundle.oci(command.iter().copied().chain([id]));
            assert!(!output.status.success(), "{command:?} {id:?}");
        }
    }
}

/// `delete --force` of such an id would remove a folder of somebody else.
#[test]
fn an_id_removes_no_folder_of_others() {
    proven("ids.unchecked", |side| {
        let bundle = side.bundle(&["true"]);
        let other = bundle.dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::create_dir(bundle.state_root()).unwrap();
        std::fs::write(other.join("state.json"), "damaged").unwrap();
        bundle.write();
        std::fs::rename(
            bundle.dir.path().join("config.json"),
            other.join("config.json"),
        )
        .unwrap();
        let _ = bundle.oci(["delete", "--force", "../other"]);
        !other.exists()
    });
}

/// CVE-2026-30892: what is no user id is an error, and not root.
#[test]
fn what_is_no_user_is_not_root() {
    for user in [
        "web",
        "33x",
        "0x21",
        "+33",
        " 33",
        "33:",
        ":33",
        "4294967295",
        "99999999999",
    ] {
        proven("user.lenient", |side| {
            let bundle = side.bundle(&["sleep", "100"]);
            bundle.up();
            let output = bundle.oci(["exec", "--user", user, &bundle.id, "id", "-u"]);
            output.status.success()
        });
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let said = bundle.ok(["exec", "--user", "33:44", &bundle.id, "id"]);
    assert!(said.contains("uid=33") && said.contains("gid=44"), "{said}");
}

/// A pid file in a folder that others may write to: a link there is not what is written to.
#[test]
fn a_pid_file_is_not_written_through_a_link() {
    proven("pidfile.follow", |side| {
        let bundle = side.bundle(&["true"]);
        let file = bundle.dir.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        let pid = bundle.dir.path().join("pid");
        for name in ["pid", "pid.new", ".pid.new"] {
            symlink(&file, bundle.dir.path().join(name)).unwrap();
        }
        bundle.write();
        let folder = bundle.dir.path().to_str().unwrap();
        let mut command = bundle.command(["run", "--bundle", folder, "--pid-file"]);
        let _ = command.arg(&pid).arg(&bundle.id).output().unwrap();
        std::fs::read_to_string(&file).unwrap() != "mine"
    });
}
