//! Terminals that are bound, opened or handed over where the image says.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::{own_dev, proven, touched, victim};
use crate::harness::{Bundle, text};

/// CVE-2025-52565, CVE-2026-88264: `/dev/console` of the image is a link.
#[test]
fn a_console_link_is_not_followed() {
    proven("console.by_path", |side| {
        let mut bundle = side.bundle(&["true"]);
        let victim = victim(&bundle);
        for target in ["/dev", "/dev/shm", "/dev/mqueue"] {
            bundle.unmount(target);
        }
        std::fs::create_dir_all(bundle.root().join("dev/pts")).unwrap();
        symlink(victim.join("new"), bundle.root().join("dev/console")).unwrap();
        bundle.set("/process/terminal", json!(true));
        let _ = bundle.run();
        touched(&victim)
    });
}

/// What is there already is not bound over, changed or given away.
#[test]
fn a_console_link_to_a_file_of_the_host_leaves_it() {
    let mut bundle = Bundle::new(&["true"]);
    let victim = victim(&bundle);
    let file = bundle.dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    own_dev(&mut bundle);
    std::fs::create_dir_all(bundle.root().join("dev/pts")).unwrap();
    symlink(&file, bundle.root().join("dev/console")).unwrap();
    symlink(victim.join("new"), bundle.root().join("dev/tty")).unwrap();
    bundle.set("/process/terminal", json!(true));
    let _ = bundle.run();
    assert!(!touched(&victim));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

/// CVE-2025-52565, by `exec`: the container has put something of its own where its terminals come from.
#[test]
fn a_false_ptmx_gives_no_terminal() {
    for script in [
        "rm -f /dev/ptmx; mkdir /tmp/pts; touch /tmp/pts/ptmx; mount -o bind /tmp/pts /dev/pts",
        "mount -t tmpfs tmpfs /dev/pts; ln -s /dev/zero /dev/pts/ptmx",
        "mount -t tmpfs tmpfs /dev/pts; mkfifo /dev/pts/ptmx",
        "mount -t tmpfs tmpfs /dev/pts; mknod /dev/pts/ptmx c 5 2",
    ] {
        let mut bundle = Bundle::script(&format!("{script}; touch /tmp/ready; sleep 100"));
        let all = json!(["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
        bundle.set(
            "/process/capabilities",
            json!({"bounding": all, "permitted": all, "effective": all}),
        );
        for applet in ["rm", "ln", "mkfifo", "mknod"] {
            symlink("busybox", bundle.root().join("bin").join(applet)).unwrap();
        }
        bundle.up();
        for _ in 0..200 {
            if bundle.root().join("tmp/ready").exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let output = bundle.oci(["exec", "--tty", &bundle.id, "true"]);
        assert!(!output.status.success(), "{script}");
        let said = text(&output.stderr);
        assert!(said.contains("/dev/pts"), "{script}: {said}");
    }
}
