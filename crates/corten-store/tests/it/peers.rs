//! What others make of the same layers: umoci unpacks in order into one folder, GNU tar writes archives of its own.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use corten_store::snapshot::conformance::{self, view};
use corten_store::{LayerChoice, Snapshotter as _};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::fixture::{FORMS, Sandbox, run};

/// Unpacks layers with umoci; returns the root folder.
pub fn umoci(folder: &Path, layers: &[Vec<u8>]) -> PathBuf {
    let layout = folder.join("layout");
    let image = format!("{}:t", layout.display());
    let umoci = || Command::new("umoci");
    run(umoci().args(["init", "--layout"]).arg(&layout));
    run(umoci().args(["new", "--image", &image]));
    for (i, tar) in layers.iter().enumerate() {
        let path = folder.join(format!("{i}.tar"));
        fs::write(&path, tar).unwrap();
        run(umoci()
            .args(["raw", "add-layer", "--image", &image])
            .arg(&path));
    }
    let root = folder.join("umoci");
    run(umoci()
        .args(["raw", "unpack", "--image", &image])
        .arg(&root));
    root
}

pub fn view_of(path: &Path) -> String {
    view::of(&OwnedFd::from(File::open(path).unwrap())).unwrap()
}

/// The texts of the conformance suite, which the overlay is held to, are umoci's too.
#[test]
fn umoci_sees_what_the_suite_expects() {
    let mut differ = Vec::new();
    for case in conformance::cases() {
        let folder = tempfile::tempdir().unwrap();
        let seen = view_of(&umoci(folder.path(), &case.layers));
        match case.in_order {
            "" => assert_eq!(seen, case.expected, "case {:?}", case.name),
            _ => differ.push((case.name, seen != case.expected)),
        }
    }
    // Where they are said to differ they do, and it is rare.
    assert!(differ.iter().all(|(_, differs)| *differs), "{differ:?}");
    assert_eq!(differ.len(), 3);
}

/// A tree with what archivers find hard. `rich`: what only the PAX format can say.
fn awkward_tree(root: &Path, rich: bool) {
    let path = |name: &str| root.join(name);
    let deep = ["d".repeat(120), "e".repeat(255), "f".repeat(90)].join("/");
    fs::create_dir_all(path(&deep)).unwrap();
    fs::write(path(&format!("{deep}/{}", "n".repeat(200))), "deep").unwrap();
    symlink("t/".repeat(150), path("long link")).unwrap();
    fs::write(path("one"), vec![b'1'; 5000]).unwrap();
    fs::hard_link(path("one"), path(&format!("{deep}/two"))).unwrap();
    fs::write(path("set id"), "#!").unwrap();
    rustix::fs::chown(path("set id"), uid(3_000_000), gid(70_000)).unwrap();
    rustix::fs::chmod(path("set id"), Mode::from_raw_mode(0o6711)).unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, path(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 5));
    sparse(
        &path("sparse"),
        &[(0, 4096), (1 << 20, 100), (8 << 20, 5000)],
        20 << 20,
    );
    let many: Vec<(u64, usize)> = (1..60).map(|i| (i * 65_536, 700)).collect();
    sparse(&path("many holes"), &many, 60 * 65_536);
    sparse(&path("only a hole"), &[], 3 << 20);
    if rich {
        fs::write(path("na\u{ef}ve \n name"), "").unwrap();
        let set = |name: &str, xattr: &str, value: &[u8]| {
            rustix::fs::setxattr(path(name), xattr, value, XattrFlags::empty()).unwrap();
        };
        set("one", "user.binary", b"\0\n=\xff");
        set(
            "set id",
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        );
        set(&deep, "trusted.x", b"");
    }
    let nanos = if rich { 123_456_789 } else { 0 };
    for (i, name) in [deep.as_str(), "one", "sparse", "fifo", "long link", "."]
        .iter()
        .enumerate()
    {
        let time = rustix::fs::Timespec {
            tv_sec: 1_500_000_000 + i as i64,
            tv_nsec: nanos,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, path(name), &times, nofollow).unwrap();
    }
}

fn uid(n: u32) -> Option<rustix::fs::Uid> {
    Some(rustix::fs::Uid::from_raw(n))
}

fn gid(n: u32) -> Option<rustix::fs::Gid> {
    Some(rustix::fs::Gid::from_raw(n))
}

fn sparse(path: &Path, runs: &[(u64, usize)], size: u64) {
    let file = File::create(path).unwrap();
    for (offset, length) in runs {
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![b's'; *length], *offset).unwrap();
    }
    file.set_len(size).unwrap();
}

/// Whole seconds, for the formats that know no others.
fn seconds_only(view: &str) -> String {
    let cut = |line: &str| match (line.find('.'), line.find(':')) {
        (Some(dot), Some(colon)) if dot > colon => {
            let end = dot + 10;
            format!("{}{}\n", &line[..dot], &line[end..])
        }
        _ => format!("{line}\n"),
    };
    view.lines().map(cut).collect()
}

#[test]
fn what_gnu_tar_packs_comes_out_as_it_went_in() {
    let formats: [(&str, &[&str], bool); 6] = [
        ("pax", &["--format=posix"], true),
        (
            "sparse 0.0",
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
            true,
        ),
        (
            "sparse 0.1",
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
            true,
        ),
        (
            "sparse 1.0",
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
            true,
        ),
        ("gnu", &["--format=gnu"], false),
        ("gnu sparse", &["--format=gnu", "--sparse"], false),
    ];
    let all = formats
        .into_iter()
        .flat_map(|f| FORMS.map(|form| (f, form)));
    for ((name, options, rich), form) in all {
        let sandbox = Sandbox::of(form);
        let source = sandbox.path().join("source");
        fs::create_dir(&source).unwrap();
        awkward_tree(&source, rich);
        let tar = sandbox.path().join("layer.tar");
        run(Command::new("tar")
            .args(options)
            .args(["--xattrs", "--xattrs-include=*", "--sort=name", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(&source)
            .arg("."));
        let snapshotter = sandbox.store.snapshotter();
        let tars = [fs::read(&tar).unwrap()];
        let seen = conformance::merged(&sandbox.store, &snapshotter, &tars).unwrap();
        let expected = view_of(&source);
        match rich {
            true => assert_eq!(seen, expected, "{name}, {form:?}"),
            false => assert_eq!(
                seconds_only(&seen),
                seconds_only(&expected),
                "{name}, {form:?}"
            ),
        }
        if options.contains(&"--sparse") {
            let lease = sandbox.store.lease("test").unwrap();
            let id = conformance::layer(&sandbox.store, &lease, &tars[0]).unwrap();
            lease.hold_snapshot("holes").unwrap();
            let mount = snapshotter.prepare("holes", &[id]).unwrap();
            let lower = Path::new(mount.options[0].strip_prefix("lowerdir=").unwrap());
            // A file of the tree, or that of an image for all three sparse ones.
            let holes = match form {
                LayerChoice::Folders => lower.join("sparse"),
                _ => lower.with_file_name("sparse"),
            };
            let meta = fs::metadata(holes).unwrap();
            assert!(meta.len() > 19 << 20);
            assert!(
                meta.blocks() * 512 < 400_000,
                "{name}: {} blocks",
                meta.blocks()
            );
            snapshotter.remove("holes").unwrap();
        }
    }
}
