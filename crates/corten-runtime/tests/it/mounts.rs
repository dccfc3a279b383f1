//! The file system, the namespaces, and what is hidden.

use corten_testkit::need;
use serde_json::json;

use crate::harness::{Bundle, error, ours, stdout};

#[test]
fn the_root_can_be_read_only() {
    let mut bundle = Bundle::script("touch /x || echo no; touch /dev/shm/x && echo yes");
    bundle.set("/root/readonly", json!(true));
    for folder in ["proc", "dev", "sys"] {
        std::fs::create_dir(bundle.root().join(folder)).unwrap();
    }
    assert_eq!(stdout(&bundle), "no\nyes\n");
}

#[test]
fn what_is_masked_is_empty_and_what_is_read_only_stays() {
    let mut bundle = Bundle::script(
        "cat /secret/file /secret.txt | wc -c; ls /proc/acpi /sys/firmware | grep -v : | grep -v '^$' | wc -l; \
         touch /secret/new || echo ro; echo 1 > /proc/sys/kernel/shmmni || echo ro; touch /kept/x || echo ro; cat /kept/file",
    );
    for folder in ["secret", "kept"] {
        std::fs::create_dir(bundle.root().join(folder)).unwrap();
        std::fs::write(bundle.root().join(folder).join("file"), "content\n").unwrap();
    }
    std::fs::write(bundle.root().join("secret.txt"), "content").unwrap();
    let config = &mut bundle.config["linux"];
    for path in ["/secret", "/secret.txt", "/no/such"] {
        config["maskedPaths"]
            .as_array_mut()
            .unwrap()
            .push(json!(path));
    }
    for path in ["/kept", "/none"] {
        config["readonlyPaths"]
            .as_array_mut()
            .unwrap()
            .push(json!(path));
    }
    assert_eq!(stdout(&bundle), "0\n0\nro\nro\nro\ncontent\n");
}

#[test]
fn bind_mounts_with_their_options() {
    let mut bundle = Bundle::script(
        "cat /a/f; touch /a/x || echo ro; touch /b/y && echo rw; cat /deep/er/file; grep ' /b ' /proc/self/mountinfo",
    );
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "data\n").unwrap();
    bundle
        .mount(json!({"destination": "/a", "type": "bind", "source": volume, "options": ["rbind", "ro"]}))
        .mount(json!({"destination": "/b", "type": "none", "source": volume, "options": ["bind", "nosuid", "nodev", "noexec", "rprivate"]}))
        .mount(json!({"destination": "/deep/er/file", "type": "bind", "source": volume.join("f"), "options": ["bind"]}));
    let out = stdout(&bundle);
    assert!(out.starts_with("data\nro\nrw\ndata\n"), "{out}");
    assert!(out.contains("nosuid,nodev,noexec"), "{out}");
    assert!(volume.join("y").exists() && !volume.join("x").exists());
}

#[test]
fn nothing_of_ours_reaches_the_host() {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    assert_eq!(
        std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
        before
    );
}

#[test]
fn every_propagation_of_the_root_keeps_the_host_clean() {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for kind in [
        "private", "rprivate", "slave", "rslave", "shared", "rshared",
    ] {
        let mut bundle = Bundle::script("grep ' / / ' /proc/self/mountinfo");
        let volume = bundle.dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        bundle.set("/linux/rootfsPropagation", json!(kind)).mount(
            json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rshared"]}),
        );
        let output = bundle.run();
        if ours() {
            assert!(
                output.status.code() == Some(0) || output.status.code() == Some(1),
                "{kind}"
            );
        }
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            before,
            "{kind}"
        );
    }
}

#[test]
fn a_tmpfs_takes_over_mode_and_content() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script(
        "stat -c %a /odd; cat /copied/sub/f; readlink /copied/l; stat -c %a:%u /copied/sub; touch /copied/new && echo rw",
    );
    let root = bundle.root();
    std::fs::create_dir_all(root.join("copied/sub")).unwrap();
    std::fs::create_dir(root.join("odd")).unwrap();
    std::fs::write(root.join("copied/sub/f"), "below\n").unwrap();
    std::os::unix::fs::symlink("sub/f", root.join("copied/l")).unwrap();
    std::os::unix::fs::chown(root.join("copied/sub"), Some(12), None).unwrap();
    let mode = |path, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(root.join(path), permissions).unwrap();
    };
    mode("odd", 0o1751);
    mode("copied/sub", 0o2710);
    bundle
        .mount(json!({"destination": "/odd", "type": "tmpfs", "source": "tmpfs"}))
        .mount(json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}));
    assert_eq!(stdout(&bundle), "1751\nbelow\nsub/f\n2710:12\nrw\n");
    assert!(!root.join("copied/new").exists());
}

#[test]
fn devices_are_made() {
    let mut bundle = Bundle::script(
        "stat -c %F:%t:%T:%a:%u /dev/null /dev/net/thing /dev/fifo /mine; readlink /dev/fd; readlink /dev/ptmx; echo x > /dev/null && echo ok",
    );
    bundle.set(
        "/linux/devices",
        json!([
            {"path": "/dev/net/thing", "type": "c", "major": 10, "minor": 200, "fileMode": 0o600, "uid": 5, "gid": 0},
            {"path": "/dev/fifo", "type": "p", "major": 0, "minor": 0, "fileMode": 0o640},
            {"path": "/mine", "type": "c", "major": 1, "minor": 5},
        ]),
    );
    let out = stdout(&bundle);
    for line in [
        "character special file:1:3:666:0",
        "character special file:a:c8:600:5",
        "fifo:0:0:640:0",
        "character special file:1:5:666:0",
        "/proc/self/fd",
        "pts/ptmx",
        "ok",
    ] {
        assert!(out.lines().any(|l| l == line), "{line}: {out}");
    }
}

#[test]
fn a_root_without_dev_mount_gets_devices_too() {
    let mut bundle = Bundle::script("stat -c %F:%t:%T /dev/zero; readlink /dev/stdin");
    bundle
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    assert_eq!(
        stdout(&bundle),
        "character special file:1:5\n/proc/self/fd/0\n"
    );
}

#[test]
fn devices_that_are_not_allowed_cannot_be_opened() {
    let mut bundle =
        Bundle::script("head -c1 /dev/zero | wc -c; head -c1 /dev/kmsg || echo denied");
    bundle.set(
        "/linux/devices",
        json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]),
    );
    assert_eq!(stdout(&bundle), "1\ndenied\n");
}

#[test]
fn names_and_settings_of_the_containers_own() {
    let mut bundle = Bundle::script(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced",
    );
    bundle.set("/hostname", json!("inside")).set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}),
    );
    if ours() {
        bundle.set("/domainname", json!("example"));
        assert_eq!(stdout(&bundle), "inside\nexample\n1\n1\n");
    } else {
        assert!(stdout(&bundle).starts_with("inside\n"));
    }
}

#[test]
fn settings_of_the_host_are_refused() {
    for name in [
        "kernel.core_pattern",
        "vm.swappiness",
        "kernel/../vm/swappiness",
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.set("/linux/sysctl", json!({name: "1"}));
        assert!(error(&bundle, 1).contains("sysctl"), "{name}");
    }
    let mut shared = Bundle::new(&["true"]);
    shared.namespaces(|n| n.retain(|n| n["type"] != "network"));
    shared.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert!(error(&shared, 1).contains("net.ipv4.ip_forward"));
}

#[test]
fn a_user_namespace_makes_root_somebody_else() {
    let mut bundle = Bundle::script(
        "id -u; cat /proc/self/uid_map; stat -c %u /dev /dev/null /dev/pts /dev/shm /dev/mqueue; \
         touch /made && stat -c %u /made; echo x > /dev/null && echo null; hostname",
    );
    let map = json!([{"containerID": 0, "hostID": 200000, "size": 65536}]);
    bundle.namespaces(|n| n.push(json!({"type": "user"})));
    bundle
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    std::os::unix::fs::chown(bundle.root(), Some(200_000), Some(200_000)).unwrap();
    // The temporary folder is private to us; the container's root is somebody else.
    let open = |path: &std::path::Path| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    open(bundle.dir.path());
    let out = stdout(&bundle);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "0");
    assert!(
        lines[1].split_whitespace().eq(["0", "200000", "65536"]),
        "{out}"
    );
    // runc binds the host's nodes, so theirs is nobody.
    let node = if ours() { "0" } else { "65534" };
    assert_eq!(
        lines[2..],
        ["0", node, "0", "0", "0", "0", "null", "corten"],
        "{out}"
    );
    let made = std::fs::metadata(bundle.root().join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 200_000);
}

#[test]
fn namespaces_are_joined_by_path() {
    let first = Bundle::new(&["sleep", "100"]);
    first.up();
    let pid = first.pid();
    let of = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let mut second = Bundle::script("for n in net ipc pid; do readlink /proc/self/ns/$n; done");
    second.unmount("/dev/mqueue");
    second.namespaces(|namespaces| {
        for namespace in namespaces {
            for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("pid", "pid")] {
                if namespace["type"] == kind {
                    namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
                }
            }
        }
    });
    let out = stdout(&second);
    let expected: Vec<String> = ["net", "ipc", "pid"]
        .map(|kind| of(kind).display().to_string())
        .into();
    assert_eq!(out.lines().take(3).collect::<Vec<_>>(), expected);
}

#[test]
fn a_user_namespace_is_joined_with_new_others() {
    let mut first = Bundle::new(&["sleep", "100"]);
    let map = json!([{"containerID": 0, "hostID": 200000, "size": 65536}]);
    first.namespaces(|n| n.push(json!({"type": "user"})));
    first
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map.clone());
    let give = |bundle: &Bundle| {
        std::os::unix::fs::chown(bundle.root(), Some(200_000), Some(200_000)).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bundle.dir.path(), permissions).unwrap();
    };
    give(&first);
    first.up();
    let pid = first.pid();
    let user = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let mut second = Bundle::script("readlink /proc/self/ns/user; echo $$; id -u; hostname");
    second.namespaces(|n| n.push(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")})));
    if !ours() {
        second
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map);
    }
    give(&second);
    let out = stdout(&second);
    assert_eq!(out, format!("{}\n1\n0\ncorten\n", user.display()));
}

#[test]
fn a_time_namespace_has_its_offsets() {
    if !ours() {
        return;
    }
    if !need::file("/proc/self/ns/time") {
        return;
    }
    let mut bundle = Bundle::script("cat /proc/uptime");
    bundle.namespaces(|n| n.push(json!({"type": "time"})));
    bundle.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1_000_000_000, "nanosecs": 0}}),
    );
    let out = stdout(&bundle);
    let uptime: f64 = out.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e9, "{out}");
    let own = std::fs::read_to_string("/proc/uptime").unwrap();
    assert!(own.split(' ').next().unwrap().parse::<f64>().unwrap() < 1e9);
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    if !ours() {
        return;
    }
    let mut cases: Vec<(&str, Bundle)> = Vec::new();
    let mut case = |named, pointer: &str, value| {
        let mut bundle = Bundle::new(&["true"]);
        bundle.set(pointer, value);
        cases.push((named, bundle));
    };
    case("linux.intelRdt", "/linux/intelRdt", json!({"closID": "x"}));
    case("linux.mountLabel", "/linux/mountLabel", json!("x"));
    case("AppArmor", "/process/apparmorProfile", json!("x"));
    case("SELinux", "/process/selinuxLabel", json!("x"));
    case("systemd", "/linux/cgroupsPath", json!("a.slice:b:c"));
    case("ociVersion", "/ociVersion", json!("2.0.0"));
    case("process.args", "/process/args", json!([]));
    case("process.cwd", "/process/cwd", json!("relative"));
    case("process.terminal", "/process/terminal", json!(true));
    case("linux.cgroupsPath", "/linux/cgroupsPath", json!("/a/../b"));
    case("linux.maskedPaths", "/linux/maskedPaths", json!(["x"]));
    case("idmap", "/mounts/0/options", json!(["idmap"]));
    case(
        "rootfsPropagation",
        "/linux/rootfsPropagation",
        json!("sideways"),
    );
    case("nonsense", "/mounts/0/options", json!(["nonsense=1"]));
    for (named, bundle) in cases {
        bundle.write();
        let output = bundle.oci([
            "run",
            "--detach",
            "-b",
            bundle.dir.path().to_str().unwrap(),
            &bundle.id,
        ]);
        let message = crate::harness::text(&output.stderr);
        assert!(!output.status.success(), "{named}");
        if named != "process.terminal" {
            assert!(message.contains(named), "{named}: {message}");
        }
    }
}
