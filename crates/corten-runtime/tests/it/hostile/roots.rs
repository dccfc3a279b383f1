//! Links and races in the image: nothing is made, mounted or masked outside of the root.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{own_dev, proven, touched, victim};
use crate::harness::{Bundle, ours, text};

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2026-41579, CVE-2026-47766: a link in place of `/dev`,
/// `/proc` or `/sys`.
#[test]
fn a_link_for_dev_proc_or_sys_is_not_followed() {
    if !ours() {
        return; // Known to write to the host with runc 1.1.
    }
    for folder in ["dev", "proc", "sys"] {
        proven("rooted.follow", |side| {
            let mut bundle = side.bundle(&["true"]);
            let victim = victim(&bundle);
            symlink(&victim, bundle.root().join(folder)).unwrap();
            // So that nothing but the link is in the way.
            bundle.unmount("/sys/fs/cgroup");
            bundle.set("/linux/maskedPaths", json!([]));
            bundle.set("/linux/readonlyPaths", json!([]));
            let output = bundle.run();
            output.status.success() || touched(&victim)
        });
    }
    for target in ["../victim", "../../../../victim", "/bin", "loop"] {
        let bundle = Bundle::new(&["true"]);
        let victim = victim(&bundle);
        symlink(target, bundle.root().join("dev")).unwrap();
        assert!(!bundle.run().status.success(), "{target}");
        assert!(!touched(&victim), "{target}");
    }
}

/// CVE-2026-41579, CVE-2026-47766: the same without a mount on it, where nodes and links are made in the image's folder.
#[test]
fn a_link_for_dev_without_a_mount_on_it_is_refused() {
    if !ours() {
        return; // Known to write to the host with runc 1.1.
    }
    proven("rooted.follow", |side| {
        let mut bundle = side.bundle(&["true"]);
        own_dev(&mut bundle);
        let victim = victim(&bundle);
        symlink(&victim, bundle.root().join("dev")).unwrap();
        let output = bundle.run();
        output.status.success() || touched(&victim)
    });
}

/// CVE-2021-30465, CVE-2024-45310: mount points behind links.
#[test]
fn mount_points_stay_inside() {
    proven("rooted.no_in_root", |side| {
        let mut bundle = side.script("cat /abs/f /up/f /a/b/f");
        let victim = victim(&bundle);
        let volume = bundle.dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("f"), "v\n").unwrap();
        symlink(&victim, bundle.root().join("abs")).unwrap();
        let up = format!("../../../../../..{}", victim.display());
        symlink(up, bundle.root().join("up")).unwrap();
        for target in ["/abs/new", "/up/tmp", "/a/b", "/../../c"] {
            bundle.mount(
                json!({"destination": target, "type": "bind", "source": volume, "options": ["bind"]}),
            );
        }
        let _ = bundle.run();
        touched(&victim)
    });
}

/// CVE-2021-30465, CVE-2024-45310: a folder on the way to a mount point becomes a link between look and use.
#[test]
fn mount_points_are_not_raced_out_of_the_root() {
    proven("targets.by_path", |side| {
        let mut bundle = side.bundle(&["true"]);
        let victim = victim(&bundle);
        let root = bundle.root();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink(&victim, root.join("evil")).unwrap();
        bundle.mount(json!({"destination": "/swap/deep/er", "type": "tmpfs", "source": "tmpfs"}));
        bundle.write();
        let stop = Arc::new(AtomicBool::new(false));
        let racer = std::thread::spawn({
            let stop = stop.clone();
            let root = root.clone();
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for name in ["real", "evil"] {
                        let _ = std::fs::rename(root.join(name), root.join("swap"));
                        std::thread::sleep(std::time::Duration::from_micros(300));
                        let _ = std::fs::rename(root.join("swap"), root.join(name));
                    }
                }
            }
        });
        let tries = if side.is_up() { 40 } else { 200 };
        let seen = (0..tries).any(|_| {
            let _ = bundle.run();
            touched(&victim)
        });
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap();
        seen
    });
}

/// A masked path that is a link to elsewhere hides what it leads to, not only its name.
#[test]
fn a_masked_link_masks_its_target() {
    proven("masks.by_name", |side| {
        let mut bundle = side.script("cat /link /real");
        std::fs::write(bundle.root().join("real"), "secret").unwrap();
        symlink("real", bundle.root().join("link")).unwrap();
        bundle.set("/linux/maskedPaths", json!(["/link"]));
        let output = bundle.run();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).contains("secret")
    });
}
