//! Roots as containerd's snapshotters describe them beyond one plain overlay: with other owners, and of several mounts.
//! All of them are attached nowhere, so the machine sees nothing.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use corten_runtime::rootfs::{Mount, assemble, stack};
use corten_testkit::{IdMaps, need};

fn folder(at: &Path, files: &[&str]) -> String {
    for file in files {
        let path = at.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    at.display().to_string()
}

fn mount(fstype: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        fstype: fstype.into(),
        source: source.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    }
}

/// Of a file inside: owner, group, and whether it is there.
fn owner(root: &OwnedFd, path: &str) -> Option<(u32, u32)> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = corten_sys::rooted::open(root, path, flags).ok()?;
    let found = std::fs::File::from(file).metadata().unwrap();
    Some((found.uid(), found.gid()))
}

/// `TMPFS_MAGIC`
const TMPFS: u64 = 0x0102_1994;
const MAPS: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

#[test]
fn an_overlay_with_maps_shows_other_owners() {
    if !need::kernel(5, 19) {
        return;
    }
    let disk = IdMaps::find().unwrap();
    let dir = tempfile::tempdir_in(disk.folder()).unwrap();
    let lower = [
        folder(&dir.path().join("a"), &["one", "both"]),
        folder(&dir.path().join("b"), &["two", "both"]),
    ];
    let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
    std::fs::create_dir_all(&work).unwrap();
    folder(&upper, &["fresh"]);
    std::os::unix::fs::chown(upper.join("fresh"), Some(100_007), Some(200_007)).unwrap();
    let layers = format!("lowerdir={}", lower.join(":"));
    let (upper, work) = (
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    );
    let options = [MAPS[0], MAPS[1], &layers, &upper, &work];
    let root = assemble(&[mount("overlay", "overlay", &options)]).unwrap();
    for file in ["one", "two", "both"] {
        assert_eq!(owner(&root, file), Some((100_000, 200_000)), "{file}");
    }
    // The upper folder has the owners that it has.
    assert_eq!(owner(&root, "fresh"), Some((100_007, 200_007)));

    // A word that no overlay knows is not taken for a kernel's refusal of mapped layers.
    let strange = [MAPS[0], MAPS[1], &layers, "nonsense=1"];
    let error = assemble(&[mount("overlay", "overlay", &strange)]).unwrap_err();
    if need::kernel(6, 5) {
        assert!(error.to_string().contains("nonsense"), "{error}");
    }
}

#[test]
fn a_bind_with_maps_shows_other_owners() {
    let dir = tempfile::tempdir().unwrap();
    // Each file system has learned it in its own time, tmpfs late.
    let kind = rustix::fs::statfs(dir.path()).unwrap().f_type;
    let (major, minor) = if kind as u64 == TMPFS {
        (6, 3)
    } else {
        (5, 12)
    };
    if !need::kernel(major, minor) {
        return;
    }
    let source = folder(dir.path(), &["file"]);
    let options = ["rbind", "ro", MAPS[0], MAPS[1]];
    let root = assemble(&[mount("bind", &source, &options)]).unwrap();
    assert_eq!(owner(&root, "file"), Some((100_000, 200_000)));
    assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().uid(), 0);
}

#[test]
fn mounts_with_targets_lie_inside() {
    if !need::kernel(6, 15) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hidden = folder(&dir.path().join("hidden"), &["hidden"]);
    let base = folder(&dir.path().join("base"), &["base", "in/side/old"]);
    let extra = folder(&dir.path().join("extra"), &["new"]);
    let escape = dir.path().join("base/link");
    std::os::unix::fs::symlink("/in/side", escape).unwrap();
    let bind = |source: &str| mount("bind", source, &["rbind"]);
    for target in ["in/side", "/in/side", "link"] {
        let root = stack(&[
            (PathBuf::new(), bind(&hidden)),
            (PathBuf::new(), bind(&base)),
            (target.into(), bind(&extra)),
        ])
        .unwrap();
        assert!(owner(&root, "base").is_some() && owner(&root, "hidden").is_none());
        assert!(owner(&root, "in/side/new").is_some(), "{target}");
        assert!(owner(&root, "in/side/old").is_none(), "{target}");
    }
    let missing = stack(&[
        (PathBuf::new(), bind(&base)),
        ("not/there".into(), bind(&extra)),
    ]);
    let error = missing.unwrap_err().to_string();
    assert!(error.contains("not/there"), "{error}");
    let nothing_below = stack(&[("in".into(), bind(&extra))])
        .unwrap_err()
        .to_string();
    assert!(nothing_below.contains("targets only"), "{nothing_below}");
}

#[test]
fn words_for_containerd_are_refused_by_name() {
    for (fstype, option) in [
        ("overlay", "X-containerd.mkdir.path=/x:0755"),
        ("overlay", "lowerdir={{ mount 0 }}"),
        ("format/overlay", "ro"),
        ("ext4", "loop"),
    ] {
        let error = assemble(&[mount(fstype, "x", &[option])]).unwrap_err();
        assert_eq!(error.kind(), corten_spec::Kind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains(option) || text.contains(fstype), "{text}");
    }
}
