//! What the words of mount(8) and the fields of `mounts` do (config.md, "Mounts").

use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, error, ours, stdout, text};

fn folder(bundle: &Bundle, name: &str) -> PathBuf {
    let path = bundle.dir.path().join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A file `f` of this user and group, in a new folder.
fn owned(bundle: &Bundle, name: &str, id: u32) -> PathBuf {
    let path = folder(bundle, name);
    std::fs::write(path.join("f"), "x").unwrap();
    chown(path.join("f"), Some(id), Some(id)).unwrap();
    path
}

fn ids(inside: u32, outside: u32, size: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": size}])
}

#[test]
fn the_mount_table_has_the_specs_order() {
    let mut bundle = Bundle::script("cat /proc/self/mountinfo");
    let volume = folder(&bundle, "volume");
    bundle
        .mount(json!({"destination": "/a", "type": "tmpfs", "source": "tmpfs"}))
        .mount(json!({"destination": "/b", "source": volume, "options": ["bind"]}))
        .mount(json!({"destination": "/c", "type": "tmpfs", "source": "tmpfs"}));
    let wanted: Vec<String> = bundle.config["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap().to_owned())
        .filter(|d| !d.contains("cgroup"))
        .collect();
    let out = stdout(&bundle);
    let all: Vec<&str> = out
        .lines()
        .map(|l| l.split(' ').nth(4).unwrap())
        .filter(|target| wanted.iter().any(|w| w == target))
        .collect();
    // The first time that each is seen: masks and read-only paths come after.
    let mut seen: Vec<&str> = Vec::new();
    for target in all {
        if !seen.contains(&target) {
            seen.push(target);
        }
    }
    assert_eq!(seen, wanted);
}

#[test]
fn mounts_map_ids_as_they_say() {
    if !corten_testkit::need::kernel(6, 3) {
        return;
    }
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script("stat -c %u:%g /given/f /plain/f /tmpfs; touch /given/new");
    let given = owned(&bundle, "given", 1000);
    chown(&given, Some(7), Some(8)).unwrap();
    bundle
        .mount(json!({"destination": "/given", "source": given, "options": ["bind", "idmap"],
            "uidMappings": [{"containerID": 1000, "hostID": 2000, "size": 5}, {"containerID": 7, "hostID": 0, "size": 1}],
            "gidMappings": [{"containerID": 1000, "hostID": 3000, "size": 5}, {"containerID": 8, "hostID": 0, "size": 1}]}))
        .mount(json!({"destination": "/plain", "source": given, "options": ["bind"]}))
        .mount(json!({"destination": "/tmpfs", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"],
            "uidMappings": ids(0, 9, 1), "gidMappings": ids(0, 9, 1)}));
    assert_eq!(stdout(&bundle), "2000:3000\n1000:1000\n9:9\n");
    let made = std::fs::metadata(given.join("new")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((made.uid(), made.gid()), (7, 8));
}

#[test]
fn mapped_mounts_below_take_the_word_for_it() {
    if !corten_testkit::need::kernel(6, 3) {
        return;
    }
    if !ours() {
        return;
    }
    for (word, below) in [("idmap", "5:5"), ("ridmap", "6:6")] {
        let mut bundle = Bundle::script("stat -c %u:%g /v/f /v/below/f");
        let volume = owned(&bundle, "volume", 5);
        folder(&bundle, "volume/below");
        let mounted = owned(&bundle, "mounted", 5);
        bundle.mount(
            json!({"destination": "/v", "source": volume, "options": ["rbind", word],
            "uidMappings": ids(5, 6, 1), "gidMappings": ids(5, 6, 1)}),
        );
        let script = format!(
            "mount --bind {} {}/below",
            mounted.display(),
            volume.display()
        );
        let output = bundle.run_apart("-m", &script);
        assert_eq!(
            text(&output.stdout),
            format!("6:6\n{below}\n"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn without_mappings_the_containers_user_namespace_maps() {
    if !corten_testkit::need::kernel(6, 3) {
        return;
    }
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script("stat -c %u:%g /v/f");
    let volume = owned(&bundle, "volume", 3);
    bundle.mount(json!({"destination": "/v", "source": volume, "options": ["bind", "idmap"]}));
    let message = error(&bundle, 1);
    assert!(
        message.contains("no user namespace of the container"),
        "{message}"
    );
    bundle.namespaces(|n| n.push(json!({"type": "user"})));
    bundle
        .set("/linux/uidMappings", ids(0, 200_000, 65_536))
        .set("/linux/gidMappings", ids(0, 200_000, 65_536));
    chown(bundle.root(), Some(200_000), Some(200_000)).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.dir.path(), open).unwrap();
    assert_eq!(stdout(&bundle), "3:3\n");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["uidMappings"] = ids(0, 1, 1);
    assert!(error(&bundle, 1).contains("uidMappings or gidMappings"));
}

#[test]
fn a_remount_changes_what_it_names() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script(
        "grep -E ' /(t|b) ' /proc/self/mountinfo; touch /t/x || echo ro; cat /t/file; touch /b/x || echo ro; grep -c x /b/f",
    );
    let volume = owned(&bundle, "volume", 0);
    bundle
        .mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]}))
        .mount(json!({"destination": "/t/file", "source": volume.join("f"), "options": ["bind"]}))
        .mount(json!({"destination": "/t", "options": ["remount", "ro", "size=2m"]}))
        .mount(json!({"destination": "/b", "source": volume, "options": ["bind", "noexec"]}))
        .mount(json!({"destination": "/b", "options": ["remount", "bind", "ro"]}));
    let out = stdout(&bundle);
    let line = |target: &str| {
        let found = out.lines().find(|l| l.contains(target));
        found.unwrap_or_else(|| panic!("{out}")).to_owned()
    };
    assert!(
        line(" /t ").contains("ro,nosuid") && line(" /t ").contains("size=2048k"),
        "{out}"
    );
    assert!(line(" /b ").contains("ro,noexec"), "{out}");
    assert!(out.ends_with("ro\nxro\n1\n"), "{out}");
    // The host's file system is not ours to change.
    let last = bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap();
    last["options"] = json!(["remount", "sync"]);
    let message = error(&bundle, 1);
    assert!(message.contains("remount with sync"), "{message}");
    let last = bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap();
    *last = json!({"destination": "/tmp", "options": ["remount", "ro"]});
    assert!(error(&bundle, 1).contains("set the mount's attributes on \"tmp\""));
}

#[test]
fn words_of_the_superblock_reach_it() {
    let mut bundle = Bundle::script("grep ' /t ' /proc/self/mountinfo");
    let options = [
        "sync",
        "dirsync",
        "lazytime",
        "iversion",
        "silent",
        "noatime",
        "nodiratime",
    ];
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}),
    );
    let out = stdout(&bundle);
    for word in ["sync", "dirsync", "lazytime", "noatime", "nodiratime"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    if !ours() {
        return;
    }
    let volume = folder(&bundle, "volume");
    for word in ["sync", "dirsync", "lazytime", "iversion"] {
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        *mounts.last_mut().unwrap() =
            json!({"destination": "/t", "source": volume, "options": ["bind", word]});
        assert!(error(&bundle, 1).contains(&format!("holds {word}, which a bind mount")));
    }
    for word in ["mand", "loop", "user", "group"] {
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.last_mut().unwrap()["options"] = json!(["bind", word]);
        assert!(error(&bundle, 1).contains(&format!("mount option {word:?}")));
    }
}

#[test]
fn recursive_attributes_reach_below() {
    for (word, shown) in [
        ("rro", "ro,"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        let mut bundle = Bundle::script("grep ' /v/below ' /proc/self/mountinfo");
        let volume = folder(&bundle, "volume");
        folder(&bundle, "volume/below");
        bundle.mount(json!({"destination": "/v", "source": volume, "options": ["rbind", word]}));
        let output = bundle.run_apart(
            "-m",
            &format!("mount -t tmpfs x {}/below", volume.display()),
        );
        let out = text(&output.stdout);
        assert!(out.contains(shown), "{word}: {out}{}", text(&output.stderr));
    }
}

#[test]
fn data_for_a_bind_mount_is_a_warning() {
    let mut bundle = Bundle::script("cat /v/f");
    let volume = owned(&bundle, "volume", 0);
    bundle.mount(json!({"destination": "/v", "source": volume, "options": ["bind", "size=1k"]}));
    let output = bundle.run();
    assert_eq!(text(&output.stdout), "x");
    if ours() {
        let warned = text(&output.stderr);
        assert!(
            warned.contains("size=1k") && warned.contains("/v"),
            "{warned}"
        );
    }
}

#[test]
fn links_are_copied_bound_or_covered() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script(
        "readlink /copied; cat /made; readlink /bound; cat /covered; cat /followed; ls /untouched",
    );
    let volume = folder(&bundle, "volume");
    std::fs::write(volume.join("file"), "host").unwrap();
    symlink("/etc/there", volume.join("link")).unwrap();
    symlink("file", volume.join("to-file")).unwrap();
    let root = bundle.root();
    std::fs::write(root.join("etc/there"), "inside\n").unwrap();
    std::fs::create_dir(root.join("untouched")).unwrap();
    std::fs::write(root.join("bound"), "").unwrap();
    symlink("/untouched/never", root.join("covered")).unwrap();
    let link = volume.join("link");
    let file = volume.join("to-file");
    bundle
        .mount(json!({"destination": "/copied", "source": link, "options": ["bind", "copy-symlink"]}))
        .mount(json!({"destination": "/made", "source": link, "options": ["bind", "copy-symlink"]}))
        .mount(json!({"destination": "/bound", "source": link, "options": ["bind", "src-nofollow"]}))
        .mount(json!({"destination": "/covered", "source": volume.join("file"), "options": ["bind", "dest-nofollow"]}))
        .mount(json!({"destination": "/followed", "source": file, "options": ["bind"]}));
    assert_eq!(stdout(&bundle), "/etc/there\ninside\n/etc/there\nhosthost");
}

#[test]
fn paths_may_be_relative_and_lead_through_links() {
    let mut bundle = Bundle::script("cat /rel/f /real/deep/f; test -L /link && echo link");
    owned(&bundle, "volume", 0);
    std::fs::create_dir(bundle.root().join("real")).unwrap();
    symlink("/real", bundle.root().join("link")).unwrap();
    bundle
        .mount(json!({"destination": "rel", "source": "volume", "options": ["bind"]}))
        .mount(json!({"destination": "/link/deep", "source": "volume", "options": ["rbind"]}));
    if ours() {
        assert_eq!(stdout(&bundle), "xxlink\n");
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.mount(json!({"destination": "/v", "source": "not-there", "options": ["bind"]}));
    let output = bundle.run();
    assert_ne!(output.status.code(), Some(0));
    assert!(
        text(&output.stderr).contains("not-there"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn an_overlay_may_have_long_paths() {
    if !ours() {
        return;
    }
    for user in [false, true] {
        let mut bundle = Bundle::script("cat /o/a /o/b; touch /o/new; ls /o");
        let long = |n: usize| format!("{n}{}", "x".repeat(150));
        let lower: Vec<PathBuf> = (0..2).map(|n| folder(&bundle, &long(n))).collect();
        std::fs::write(lower[0].join("a"), "a").unwrap();
        std::fs::write(lower[1].join("b"), "b").unwrap();
        let (upper, work) = (folder(&bundle, "upper"), folder(&bundle, "work"));
        let options = [
            format!("lowerdir={}:{}", lower[0].display(), lower[1].display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        bundle.mount(json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": options}));
        if user {
            bundle.namespaces(|n| n.push(json!({"type": "user"})));
            bundle
                .set("/linux/uidMappings", ids(0, 200_000, 65_536))
                .set("/linux/gidMappings", ids(0, 200_000, 65_536));
            for path in [&bundle.root(), &upper] {
                chown(path, Some(200_000), Some(200_000)).unwrap();
            }
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(bundle.dir.path(), open).unwrap();
        }
        assert_eq!(stdout(&bundle), "aba\nb\nnew\n");
        assert!(upper.join("new").exists());
    }
}

#[test]
fn the_unified_hierarchy_can_be_mounted_alone() {
    if !ours()
        || std::path::Path::new("/sys/fs/cgroup/pids").exists()
            == PathBuf::from("/sys/fs/cgroup/cgroup.procs").exists()
    {
        return;
    }
    let mut bundle = Bundle::script(
        "stat -f -c %t /sys/fs/cgroup; grep ' /sys/fs/cgroup' /proc/self/mountinfo | wc -l",
    );
    bundle.unmount("/sys/fs/cgroup").mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup2", "options": ["ro"]}),
    );
    // CGROUP2_SUPER_MAGIC
    assert_eq!(stdout(&bundle), "63677270\n1\n");
}

#[test]
fn images_are_mounted_by_their_type() {
    if !corten_testkit::need::kernel(6, 12) {
        return;
    }
    let image_maker = std::process::Command::new("mkfs.erofs")
        .arg("--help")
        .output();
    if !ours() || image_maker.is_err() {
        return;
    }
    for user in [false, true] {
        let mut bundle = Bundle::script("cat /image/f; touch /image/x || echo ro");
        let folder = owned(&bundle, "folder", 0);
        let image = bundle.dir.path().join("image");
        let made = std::process::Command::new("mkfs.erofs")
            .args([&image, &folder])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        bundle.mount(json!({"destination": "/image", "type": "erofs", "source": image, "options": ["ro", "nosuid"]}));
        if user {
            bundle.namespaces(|n| n.push(json!({"type": "user"})));
            bundle
                .set("/linux/uidMappings", ids(0, 200_000, 65_536))
                .set("/linux/gidMappings", ids(0, 200_000, 65_536));
            chown(bundle.root(), Some(200_000), Some(200_000)).unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(bundle.dir.path(), open).unwrap();
        }
        let output = bundle.run();
        let message = text(&output.stderr);
        // Linux 6.12 is the first that mounts a plain file.
        if message.contains("block device required") {
            return;
        }
        assert_eq!(text(&output.stdout), "xro\n", "{message}");
    }
}
