//! Archives that are whole, and archives that somebody has made up.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use corten_spec::{ContainerId, Kind, Platform};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::image::build::ImportOptions;
use crate::image::tar::write::{Entry, Writer};
use crate::pod::{ContainerAsk, Pod, Record, Run};
use crate::{Error, Paths};

const BASE: &str = "docker.io/library/base:1";

struct Rig {
    folder: tempfile::TempDir,
    engine: Engine,
}

/// A tar of files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, content) in files {
        let entry = Entry::file(path.as_bytes(), content.len() as u64);
        writer.entry(&entry, &mut &**content).unwrap();
    }
    writer.finish().unwrap()
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let paths = Paths::new(at("root"), at("run"), at("etc"));
        let engine = Engine::open(paths).unwrap();
        Self { folder, engine }
    }

    /// The image below, and its id.
    fn base(&self) -> String {
        let options = ImportOptions {
            platform: Platform::host(),
            message: String::new(),
            changes: Vec::new(),
            name: Some(BASE.into()),
        };
        let layer = tar(&[("etc/old", b"old")]);
        let id = self.engine.import(layer.as_slice(), &options).unwrap();
        id.to_string()
    }

    fn archive(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("a.tar");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn open(&self, bytes: &[u8]) -> Result<Archived, Error> {
        self.engine.open_checkpoint(&self.archive(bytes))
    }

    fn pod(&self) -> Pod {
        let id: ContainerId = "a".repeat(64).parse().unwrap();
        let pod = Pod {
            id,
            name: "pod".into(),
            created_at: 1,
            record: Record {
                run: Some(Run::default()),
                ..Record::default()
            },
        };
        self.engine
            .store
            .pods()
            .insert(&pod.row().unwrap())
            .unwrap();
        pod
    }
}

fn config(id: &str) -> Vec<u8> {
    json!({"id": "4f", "name": "n", "rootfsImageName": BASE, "rootfsImageRef": id})
        .to_string()
        .into_bytes()
}

/// A text of an error and all its causes.
fn text(error: &Error) -> String {
    corten_spec::chain(error)
}

#[test]
fn a_draft_gets_what_the_archive_has() {
    let rig = Rig::new();
    let id = rig.base();
    let changes = tar(&[("etc/new", b"new"), ("etc/.wh.old", b"")]);
    let config = config(&id);
    let files: &[(&str, &[u8])] = &[
        ("config.dump", &config),
        ("./checkpoint/inventory.img", b"inventory"),
        ("checkpoint/pages-1.img", b"memory"),
        ("rootfs-diff.tar", &changes),
    ];
    let archived = rig.open(&tar(files)).unwrap();
    let image = rig.engine.checkpoint_base(&archived).unwrap();
    assert_eq!(image.config.to_string(), id);
    let pod = rig.pod();
    let ask = ContainerAsk {
        name: "c".into(),
        image: &image,
    };
    let mut draft = rig.engine.draft(&pod, &ask).unwrap();
    let folder = draft.restore(&archived).unwrap();
    assert_eq!(fs::read(folder.join("pages-1.img")).unwrap(), b"memory");
    let mode = folder.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let upper = rig
        .folder
        .path()
        .join("root/snapshots")
        .join(draft.id().as_str());
    assert_eq!(fs::read(upper.join("fs/etc/new")).unwrap(), b"new");
    // What the draft shows of the root is what will be there.
    let root = draft.root().unwrap();
    let seen = fs::read_dir(crate::rootfs::by_fd(std::os::fd::AsFd::as_fd(root)).join("etc"));
    let names: Vec<_> = seen.unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["new"]);
    drop(draft);
    assert!(!folder.exists());
}

#[test]
fn packed_archives_are_unpacked() {
    let rig = Rig::new();
    let config = config("");
    let plain = tar(&[("config.dump", &config), ("checkpoint/inventory.img", b"i")]);
    let level = flate2::Compression::fast();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), level);
    packed.write_all(&plain).unwrap();
    let archived = rig.open(&packed.finish().unwrap()).unwrap();
    assert_eq!(archived.config.rootfs_image_name, BASE);
}

#[test]
fn an_image_holds_an_archive() {
    let rig = Rig::new();
    let id = rig.base();
    let config = config(&id);
    let files: &[(&str, &[u8])] = &[("config.dump", &config), ("checkpoint/inventory.img", b"i")];
    let label = format!("LABEL {}=web", ANNOTATIONS[1]);
    let options = ImportOptions {
        platform: Platform::host(),
        message: String::new(),
        changes: vec![label.parse().unwrap()],
        name: Some("docker.io/library/web:checkpoint".into()),
    };
    rig.engine.import(tar(files).as_slice(), &options).unwrap();
    let image = rig.engine.image("web:checkpoint").unwrap();
    assert!(rig.engine.holds_checkpoint(&image).unwrap());
    let archived = rig.engine.open_checkpoint_image(&image).unwrap();
    let base = rig.engine.checkpoint_base(&archived).unwrap();
    assert_eq!(base.config.to_string(), id);
    // Another image is none, whatever is asked of it.
    assert!(!rig.engine.holds_checkpoint(&base).unwrap());
    let error = rig.engine.open_checkpoint_image(&base).unwrap_err();
    assert!(text(&error).contains("no config.dump"), "{}", text(&error));
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let rig = Rig::new();
    let good = config("");
    let big = vec![b' '; 2 << 20];
    let inventory: (&str, &[u8]) = ("checkpoint/inventory.img", b"i");
    for (files, why) in [
        (vec![inventory], "it has no config.dump"),
        (
            vec![("config.dump", good.as_slice())],
            "no checkpoint/inventory.img",
        ),
        (
            vec![("config.dump", b"{".as_slice()), inventory],
            "config.dump of",
        ),
        (
            vec![("config.dump", big.as_slice()), inventory],
            "larger than",
        ),
        // A file elsewhere is not one of criu's.
        (
            vec![
                ("config.dump", good.as_slice()),
                ("checkpoint/a/inventory.img", b"i"),
            ],
            "no checkpoint/inventory.img",
        ),
    ] {
        let error = rig.open(&tar(&files)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
        assert!(text(&error).contains(why), "{why}: {}", text(&error));
    }
    let error = rig.open(b"no tar at all").unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
}

#[test]
fn archives_that_others_may_write_are_refused() {
    let rig = Rig::new();
    let path = rig.archive(b"");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
    let error = rig.engine.open_checkpoint(&path).unwrap_err();
    assert!(
        text(&error).contains("others than root"),
        "{}",
        text(&error)
    );
    let link = rig.folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(rig.engine.open_checkpoint(&link).is_err());
    let error = rig.engine.open_checkpoint(rig.folder.path()).unwrap_err();
    assert!(text(&error).contains("no plain file"), "{}", text(&error));
    let error = rig
        .engine
        .open_checkpoint(Path::new("/nowhere/x"))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}

#[test]
fn another_image_of_the_same_name_will_not_do() {
    let rig = Rig::new();
    rig.base();
    let other = "7".repeat(64);
    let config = config(&format!("sha256:{other}"));
    let files: &[(&str, &[u8])] = &[("config.dump", &config), ("checkpoint/inventory.img", b"i")];
    let archived = rig.open(&tar(files)).unwrap();
    let error = rig.engine.checkpoint_base(&archived).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    let text = text(&error);
    assert!(text.contains(BASE) && text.contains(&other), "{text}");
}

#[test]
fn nothing_of_a_hostile_archive_gets_out() {
    let rig = Rig::new();
    let id = rig.base();
    let config = config(&id);
    let changes = tar(&[("../../../../../../out", b"x")]);
    let files: &[(&str, &[u8])] = &[
        ("config.dump", &config),
        ("checkpoint/inventory.img", b"i"),
        ("checkpoint/../../../out", b"x"),
        ("rootfs-diff.tar", &changes),
    ];
    let archived = rig.open(&tar(files)).unwrap();
    let image = rig.engine.checkpoint_base(&archived).unwrap();
    let pod = rig.pod();
    let ask = ContainerAsk {
        name: "c".into(),
        image: &image,
    };
    let mut draft = rig.engine.draft(&pod, &ask).unwrap();
    let snapshot = rig
        .folder
        .path()
        .join("root/snapshots")
        .join(draft.id().as_str());
    let error = draft.restore(&archived).unwrap_err();
    assert!(text(&error).contains("has .. in"), "{}", text(&error));
    drop(draft);
    assert!(!snapshot.exists());
    for entry in fs::read_dir(rig.folder.path()).unwrap() {
        assert_ne!(entry.unwrap().file_name(), "out");
    }
}

#[test]
fn images_that_hold_checkpoints_say_so() {
    let with = json!({"annotations": {"org.criu.checkpoint.container.name": "web"}});
    assert!(says_so(with.to_string().as_bytes(), "/annotations"));
    let labels = json!({"config": {"Labels": {ANNOTATIONS[0]: "web"}}});
    assert!(says_so(labels.to_string().as_bytes(), "/config/Labels"));
    for other in [
        "{}",
        "{\"annotations\": [1]}",
        "{\"annotations\": {\"a\": \"b\"}}",
        "[",
    ] {
        assert!(!says_so(other.as_bytes(), "/annotations"), "{other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_damage_is_survived(at in 0usize..4000, byte: u8, cut in 1usize..4000) {
        let rig = Rig::new();
        let config = config("");
        let files: &[(&str, &[u8])] =
            &[("config.dump", &config), ("checkpoint/inventory.img", b"i")];
        let mut bytes = tar(files);
        let n = bytes.len();
        bytes[at % n] = byte;
        bytes.truncate(cut);
        if let Ok(archived) = rig.open(&bytes) {
            let _ = rig.engine.checkpoint_base(&archived);
        }
    }
}
