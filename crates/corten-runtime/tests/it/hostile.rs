//! Images and volumes that want out. One test for each lesson that another runtime has paid for.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{Bundle, ours, runtime, stdout, text};

/// A folder of the host that nothing may be written to.
fn victim(bundle: &Bundle) -> std::path::PathBuf {
    let path = bundle.dir.path().join("victim");
    std::fs::create_dir(&path).unwrap();
    path
}

fn untouched(victim: &Path) {
    assert_eq!(
        std::fs::read_dir(victim).unwrap().count(),
        0,
        "the host was written to"
    );
}

/// CVE-2026-41579, CVE-2019-19921: a link in place of `/dev`, `/proc` or `/sys`.
#[test]
fn a_link_for_dev_proc_or_sys_is_refused_or_stays_inside() {
    if !ours() {
        return; // Known to write to the host with runc 1.1.
    }
    for folder in ["dev", "proc", "sys"] {
        for target in ["/victim", "../victim", "../../../../victim"] {
            let bundle = Bundle::new(&["true"]);
            let victim = victim(&bundle);
            symlink(target, bundle.root().join(folder)).unwrap();
            let output = bundle.run();
            untouched(&victim);
            assert!(!output.status.success(), "{folder} -> {target}");
        }
    }
}

#[test]
fn a_link_for_dev_without_a_mount_on_it_is_refused() {
    if !ours() {
        return; // Known to write to the host with runc 1.1.
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    let victim = victim(&bundle);
    symlink(&victim, bundle.root().join("dev")).unwrap();
    let output = bundle.run();
    untouched(&victim);
    assert!(!output.status.success());
}

/// CVE-2025-31133: `/dev/null` of the image leads to what should be masked.
#[test]
fn a_false_null_device_masks_nothing() {
    let mut bundle = Bundle::script("cat /secret.txt");
    bundle
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    std::fs::write(bundle.root().join("secret.txt"), "secret").unwrap();
    std::fs::create_dir(bundle.root().join("dev")).unwrap();
    symlink("/secret.txt", bundle.root().join("dev/null")).unwrap();
    bundle.set("/linux/maskedPaths", json!(["/secret.txt"]));
    let output = bundle.run();
    assert!(!text(&output.stdout).contains("secret"));
    if ours() {
        assert!(!output.status.success());
    }
}

/// CVE-2021-30465, CVE-2024-45310: mount points behind links.
#[test]
fn mount_points_stay_inside() {
    let mut bundle = Bundle::script("cat /abs/f /up/f /a/b/f; grep -c volume /proc/self/mountinfo");
    let victim = victim(&bundle);
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "v\n").unwrap();
    symlink(&victim, bundle.root().join("abs")).unwrap();
    symlink("../../../../../..", bundle.root().join("up")).unwrap();
    for target in ["/abs/new", "/up/tmp", "/a/b", "/../../c"] {
        bundle.mount(
            json!({"destination": target, "type": "bind", "source": volume, "options": ["bind"]}),
        );
    }
    let _ = bundle.run();
    untouched(&victim);
}

#[test]
fn mount_points_are_not_raced_out_of_the_root() {
    let mut bundle = Bundle::new(&["true"]);
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
                    let _ = std::fs::rename(root.join("swap"), root.join(name));
                }
            }
        }
    });
    for _ in 0..40 {
        let _ = bundle.run();
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    untouched(&victim);
}

/// CVE-2019-5736: the entrypoint is, or has as its interpreter, the runtime's own executable.
#[test]
fn the_runtimes_executable_is_out_of_reach() {
    let own = std::fs::read(runtime()).unwrap();
    let bundle = Bundle::new(&["/entry", "--version"]);
    symlink("/proc/self/exe", bundle.root().join("entry")).unwrap();
    let output = bundle.run();
    if ours() {
        // Not even executed: what the link leads to is the trampoline.
        assert!(
            !text(&output.stdout).contains("corten-oci version"),
            "{}",
            text(&output.stdout)
        );
    }
    let script = Bundle::new(&["/entry"]);
    std::fs::write(script.root().join("entry"), "#!/proc/self/exe --version\n").unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(script.root().join("entry"), permissions).unwrap();
    let output = script.run();
    if ours() {
        assert!(
            !text(&output.stdout).contains("corten-oci version"),
            "{}",
            text(&output.stdout)
        );
    }
    assert!(std::fs::read(runtime()).unwrap() == own);
}

/// The same by exec, with a container that tries to write all the while.
#[test]
fn exec_does_not_show_the_runtimes_executable() {
    let bundle = Bundle::script(
        "while :; do for p in /proc/[0-9]*; do readlink $p/exe >> /tmp/seen; done; done",
    );
    symlink("/proc/self/exe", bundle.root().join("entry")).unwrap();
    bundle.up();
    for _ in 0..20 {
        bundle.oci(["exec", &bundle.id, "true"]);
        let output = bundle.oci(["exec", &bundle.id, "/entry", "--version"]);
        if ours() {
            assert!(!text(&output.stdout).contains("corten-oci version"));
        }
    }
    let seen = std::fs::read_to_string(bundle.root().join("tmp/seen")).unwrap();
    let name = runtime().file_name().unwrap().to_str().unwrap().to_owned();
    if ours() {
        assert!(!seen.contains(&name), "the container saw {name}");
    }
}

/// CVE-2024-21626: the working directory is a leaked descriptor of the host.
#[test]
fn the_working_directory_is_inside() {
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/10"] {
        let mut bundle = Bundle::script("ls; cat ./etc/hostname");
        bundle.set("/process/cwd", json!(cwd));
        bundle.write();
        // With a folder of the host open at every number that could be meant.
        let line = format!(
            "for n in 3 4 5 6 7 8 9; do eval \"exec $n</\"; done; exec {} --root {} run -b {} {}",
            runtime().display(),
            bundle.state_root().display(),
            bundle.dir.path().display(),
            bundle.id
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &line])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{cwd}: {}", text(&output.stdout));
        assert!(
            !text(&output.stdout).contains("home"),
            "{cwd}: {}",
            text(&output.stdout)
        );
    }
}

/// CVE-2025-52565, CVE-2026-88264: a terminal bound where the image says.
#[test]
fn a_console_link_is_not_followed() {
    let mut bundle = Bundle::new(&["true"]);
    let victim = victim(&bundle);
    let file = bundle.dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    bundle
        .unmount("/dev")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    std::fs::create_dir_all(bundle.root().join("dev/pts")).unwrap();
    symlink(&file, bundle.root().join("dev/console")).unwrap();
    symlink(victim.join("new"), bundle.root().join("dev/tty")).unwrap();
    bundle.set("/process/terminal", json!(true));
    let _ = bundle.run();
    untouched(&victim);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

/// CVE-2025-52881, CVE-2019-16884: `/proc` of the container is not what writes go through.
#[test]
fn settings_do_not_go_through_a_false_proc() {
    let mut bundle = Bundle::script("cat /proc/sys/net/ipv4/ip_forward");
    let fake = bundle.dir.path().join("fake");
    std::fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
    std::fs::write(fake.join("sys/net/ipv4/ip_forward"), "fake\n").unwrap();
    bundle.unmount("/proc");
    bundle
        .mount(json!({"destination": "/proc", "type": "bind", "source": fake, "options": ["bind"]}))
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    let output = bundle.run();
    // Refused, or written to the true one: never to the false.
    let left = std::fs::read_to_string(fake.join("sys/net/ipv4/ip_forward")).unwrap();
    assert_eq!(left, "fake\n", "{}", text(&output.stderr));
}

/// Device nodes of the image are no devices of ours.
#[test]
fn a_false_device_is_not_taken_for_ours() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    std::fs::create_dir(bundle.root().join("dev")).unwrap();
    std::fs::write(bundle.root().join("dev/zero"), "no device").unwrap();
    assert!(crate::harness::error(&bundle, 1).contains("dev/zero"));
}

/// A masked path that is a link to elsewhere hides what it leads to, not only its name.
#[test]
fn a_masked_link_masks_its_target() {
    let mut bundle = Bundle::script("cat /link /real | wc -c");
    std::fs::write(bundle.root().join("real"), "secret").unwrap();
    symlink("real", bundle.root().join("link")).unwrap();
    bundle.set("/linux/maskedPaths", json!(["/link"]));
    assert_eq!(stdout(&bundle), "0\n");
}
