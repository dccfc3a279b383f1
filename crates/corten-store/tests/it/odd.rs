//! Layers that are allowed and odd, on which an image and a folder once differed: in whatever form, the same is seen.

use std::fs;

use corten_store::snapshot::conformance::archive::{Archive, Item, header, sum};
use corten_store::snapshot::conformance::{layer, merged, view};
use corten_store::{Begin, Error, LayerChoice, LayerError, Packing, Snapshotter as _};

use crate::fixture::{FORMS, Sandbox, describe, gzip, names};

const SIZE: &str = "GNU.sparse.realsize";

/// A sparse file (PAX 1.0) of so many bytes, with one `x` as the last of them.
fn sparse(path: &str, size: u64) -> Item {
    let mut data = match size {
        0 => b"0\n".to_vec(),
        n => format!("1\n{}\n1\n", n - 1).into_bytes(),
    };
    data.resize(512, 0);
    if size > 0 {
        data.push(b'x');
    }
    Item::new(path, b'0')
        .data(data)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", path)
        .pax(SIZE, size.to_string())
}

/// What is seen of one layer, in every form.
fn seen(tar: &[u8]) -> Vec<String> {
    let see = |sandbox: Sandbox| {
        let store = &sandbox.store;
        merged(store, &store.snapshotter(), &[tar.to_vec()]).unwrap()
    };
    FORMS.map(Sandbox::of).into_iter().map(see).collect()
}

fn folder_of(sandbox: &Sandbox, id: &corten_store::LayerId) -> std::path::PathBuf {
    sandbox.store.root().join("layers").join(id.as_str())
}

/// The image had a file for expanded sparse files, and nothing in it: the kernel was given a device too many.
#[test]
fn a_sparse_file_of_no_bytes_is_mounted() {
    let tar = Archive::new().item(sparse("empty", 0)).file("a", "a");
    let all = seen(&tar.finish());
    assert!(
        all[0].contains(" empty 0 bytes") || all[0].contains(" empty \"\""),
        "{}",
        all[0]
    );
    assert_eq!(all[0], all[2]);
    assert_eq!(all[1], all[2]);
}

/// One chunk of an image reaches 2^31 blocks, and a device 2^32. What lay beyond was read from wherever the bytes of the next inode said.
#[test]
fn files_beyond_one_chunk_are_kept_as_folders() {
    use std::os::unix::fs::FileExt as _;
    for size in [(1 << 40) - 4096, (1 << 40) + 4096, 3 << 40] {
        let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
        let lease = sandbox.store.lease("test").unwrap();
        lease.hold_snapshot("k").unwrap();
        let tar = Archive::new()
            .item(sparse("big", size))
            .file("secret", "s")
            .finish();
        let id = layer(&sandbox.store, &lease, &tar).unwrap();
        let is_image = folder_of(&sandbox, &id).join("meta").exists();
        assert_eq!(is_image, size < 1 << 40, "{size}");
        let recipe = sandbox.store.snapshotter().prepare("k", &[id]).unwrap();
        let root = view::mount(&recipe).unwrap();
        let flags = rustix::fs::OFlags::RDONLY;
        let file = rustix::fs::openat(&root, "big", flags, rustix::fs::Mode::empty()).unwrap();
        let file = fs::File::from(file);
        let mut end = [1; 2];
        file.read_exact_at(&mut end, size - 2).unwrap();
        assert_eq!(end, [0, b'x'], "{size}");
        drop((file, root));
        sandbox.store.snapshotter().remove("k").unwrap();
    }
}

/// The symlink by which a folder was last found is replaced by another folder.
#[test]
fn a_replaced_symlink_leads_nowhere_any_more() {
    let tar = Archive::new()
        .folder("a")
        .symlink("a/s", ".")
        .file("a/s/first", "1")
        .folder("a/s/s")
        .file("a/s/second", "2")
        .finish();
    let all = seen(&tar);
    assert!(all[2].contains(" a/s/second "), "{}", all[2]);
    assert_eq!(all[0], all[2]);
    assert_eq!(all[1], all[2]);
}

/// Paths that are short as they are written, through symlinks that make them long.
#[test]
fn a_path_through_symlinks_has_a_bound_in_every_form() {
    let name = format!("{}/", "d".repeat(250));
    let mut tar = Archive::new();
    for i in 1..=10 {
        tar = tar.folder(&name.repeat(i));
    }
    tar = tar.symlink("s", &name.repeat(10));
    for i in 1..=10 {
        tar = tar.folder(&format!("s/{}", name.repeat(i)));
    }
    let tar = tar.finish();
    for sandbox in FORMS.map(Sandbox::of) {
        let lease = sandbox.store.lease("test").unwrap();
        match layer(&sandbox.store, &lease, &tar) {
            Err(Error::Layer {
                source: LayerError::Refused { why, .. },
                ..
            }) => assert!(why.contains("longer than 4095"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

/// The kernel takes no such names, and would list the first one as two.
#[test]
fn xattrs_that_no_kernel_takes_are_refused_in_every_form() {
    let long = format!("user.{}", "n".repeat(251));
    for name in ["user.a\0trusted.b", &long] {
        let tar = Archive::new()
            .item(Item::new("x", b'0').xattr(name, "v"))
            .finish();
        for sandbox in FORMS.map(Sandbox::of) {
            let lease = sandbox.store.lease("test").unwrap();
            let outcome = layer(&sandbox.store, &lease, &tar);
            assert!(
                matches!(outcome, Err(Error::Layer { .. })),
                "{name:?}: {outcome:?}"
            );
        }
    }
}

/// A program that maps a file sees zeros behind its end (mmap(2)), not what the tar has there.
#[test]
fn padding_that_is_not_zero_is_not_shown() {
    let mut file = header(&Item::new("f", b'0').data("abc"));
    sum(&mut file);
    let mut tar = Archive::new();
    tar.raw(&file);
    tar.raw(b"abc");
    tar.raw(&[b'!'; 509]);
    let tar = tar.file("g", "g").finish();
    for (form, is_image) in [(Packing::Tar, false), (Packing::Pages, true)] {
        let sandbox = Sandbox::of(LayerChoice::Erofs(form));
        let lease = sandbox.store.lease("test").unwrap();
        let id = layer(&sandbox.store, &lease, &tar).unwrap();
        let found = names(&folder_of(&sandbox, &id)).contains(&"meta".to_owned());
        assert_eq!(found, is_image, "{form:?}");
    }
    assert!(seen(&tar).windows(2).all(|w| w[0] == w[1]));
}

/// What packing it is cannot be told from so few bytes.
#[test]
fn a_cut_in_the_first_bytes_is_resumed() {
    struct Cut(Vec<u8>);
    impl std::io::Read for Cut {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.len().min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0.drain(..n);
            match n {
                0 => Err(std::io::ErrorKind::ConnectionReset.into()),
                n => Ok(n),
            }
        }
    }
    let tar = Archive::new().file("a", "a").finish();
    let packed = gzip(&tar);
    for cut in 1..6 {
        let sandbox = Sandbox::new();
        let lease = sandbox.store.lease("test").unwrap();
        let begin = || match sandbox.store.begin_layer(&lease, &describe(&packed, &tar)) {
            Ok(Begin::Ingest(ingest)) => ingest,
            _ => panic!("it is present"),
        };
        let broken = begin().run(Cut(packed[..cut].to_vec()));
        assert!(matches!(broken, Err(Error::Source { .. })), "{broken:?}");
        let again = begin();
        let offset = usize::try_from(again.offset()).unwrap();
        again.run(&packed[offset..]).unwrap();
    }
}

/// A kill between the rows and the mounts of a collection, and then a pull of the same layer that fails.
#[test]
fn a_mounted_layer_in_the_trash_goes() {
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let store = &sandbox.store;
    let lease = store.lease("test").unwrap();
    lease.hold_snapshot("k").unwrap();
    let tar = Archive::new().folder("d").file("d/a", "a").finish();
    let id = layer(store, &lease, &tar).unwrap();
    store
        .snapshotter()
        .prepare("k", std::slice::from_ref(&id))
        .unwrap();
    let place = folder_of(&sandbox, &id).join("fs");
    assert!(corten_store::is_mounted(&place).unwrap());
    let db = rusqlite::Connection::open(store.root().join("corten.db")).unwrap();
    db.execute_batch("PRAGMA foreign_keys = ON; DELETE FROM snapshot; DELETE FROM lease; DELETE FROM layer; DELETE FROM blob")
        .unwrap();
    let lease = store.lease("again").unwrap();
    let desc = describe(&tar, &tar);
    let Begin::Ingest(ingest) = store.begin_layer(&lease, &desc).unwrap() else {
        panic!("it is present");
    };
    assert!(ingest.run(std::io::empty()).is_err());
    drop(lease);
    store.collect().unwrap();
    for folder in ["ingest", "layers", "trash", "snapshots"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(store.root().to_str().unwrap()), "{mounts}");
}

/// An older kernel was booted, and the blob of a container's layer is gone with its image. The layer is not given up: the newer kernel comes back.
#[test]
fn an_image_that_cannot_become_folders_stays() {
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let store = &sandbox.store;
    let lease = store.lease("test").unwrap();
    lease.hold_snapshot("k").unwrap();
    let tar = Archive::new().file("a", "a").finish();
    let id = layer(store, &lease, &tar).unwrap();
    store
        .snapshotter()
        .prepare("k", std::slice::from_ref(&id))
        .unwrap();
    store.flush().unwrap();
    let db = rusqlite::Connection::open(store.root().join("corten.db")).unwrap();
    db.execute_batch("PRAGMA foreign_keys = ON; DELETE FROM lease_blob")
        .unwrap();
    store.collect().unwrap();
    assert_eq!(sandbox.names("blobs/sha256"), Vec::<String>::new());
    let place = folder_of(&sandbox, &id);
    rustix::mount::unmount(place.join("fs"), rustix::mount::UnmountFlags::DETACH).unwrap();
    let meta = fs::read(place.join("meta")).unwrap();
    fs::write(place.join("meta"), [0; 8192]).unwrap();
    let options = corten_store::Options {
        layers: LayerChoice::Folders,
        ..corten_store::Options::default()
    };
    let older = corten_store::Store::open_with(store.root(), options).unwrap();
    let refused = older.snapshotter().mounts("k");
    assert!(matches!(refused, Err(Error::Mount { .. })), "{refused:?}");
    fs::write(place.join("meta"), meta).unwrap();
    store.snapshotter().mounts("k").unwrap();
    store.snapshotter().remove("k").unwrap();
}

/// Two names of a file below and a third above, among more folders than descriptors; and the file is one terabyte of nothing.
#[test]
fn a_copied_file_costs_what_it_holds() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::os::unix::fs::MetadataExt as _;
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let mut tar = Archive::new()
        .item(sparse("one", 1 << 30))
        .hardlink("two", "one")
        .folder("many");
    for i in 0..600 {
        tar = tar.folder(&format!("many/{i}"));
    }
    let above = Archive::new().hardlink("three", "one").finish();
    let store = &sandbox.store;
    let lease = store.lease("test").unwrap();
    lease.hold_snapshot("k").unwrap();
    let layers = [tar.finish(), above].map(|tar| layer(store, &lease, &tar).unwrap());
    let before = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(256),
            ..before
        },
    )
    .unwrap();
    let prepared = store.snapshotter().prepare("k", &layers);
    setrlimit(Resource::Nofile, before).unwrap();
    let root = view::mount(&prepared.unwrap()).unwrap();
    let stat = |name: &str| {
        rustix::fs::stat(format!(
            "/proc/self/fd/{}/{name}",
            std::os::fd::AsRawFd::as_raw_fd(&root)
        ))
        .unwrap()
    };
    assert_eq!(stat("one").st_ino, stat("three").st_ino);
    assert_eq!(stat("two").st_nlink, 3);
    let patch = fs::read_dir(store.root().join("layers"))
        .unwrap()
        .map(|e| e.unwrap().path());
    let patch = patch
        .into_iter()
        .find(|p| p.to_string_lossy().contains("patch-"))
        .unwrap();
    let copy = fs::metadata(patch.join("fs/three")).unwrap();
    assert_eq!(copy.len(), 1 << 30);
    assert!(copy.blocks() * 512 < 1 << 24, "{} blocks", copy.blocks());
    drop(root);
    store.snapshotter().remove("k").unwrap();
}

/// A folder gave its default ACL to all that was unpacked into it: a user could read what the layer gives to root alone.
#[test]
fn acls_are_not_inherited_while_unpacking() {
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 7, 1000),
        (4, 4, u32::MAX),
        (16, 7, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(bits.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let tar = Archive::new()
        .item(Item::new("d", b'5').xattr("system.posix_acl_default", acl))
        .item(Item::new("d/file", b'0').mode(0o640))
        .folder("d/folder")
        .item(Item::new("d/fifo", b'6'))
        .file("d/implied/file", "")
        .finish();
    let all = seen(&tar);
    assert_eq!(all[2].matches("posix_acl").count(), 1, "{}", all[2]);
    assert_eq!(all[0], all[2]);
    assert_eq!(all[1], all[2]);
}

/// The link takes the name of the folder that its file was in, and so the file loses the name that it had.
#[test]
fn a_link_in_the_place_of_its_files_folder_is_made() {
    let below = Archive::new().folder("b").file("b/s", "s").file("x", "x");
    let tars = [
        below.finish(),
        Archive::new().hardlink("b", "b/s").finish(),
        Archive::new().hardlink("b", "x").finish(),
    ];
    for sandbox in FORMS.map(Sandbox::of) {
        let store = &sandbox.store;
        let two = merged(store, &store.snapshotter(), &tars[..2]).unwrap();
        assert!(two.contains(" b \"s\""), "{two}");
        let three = merged(store, &store.snapshotter(), &tars).unwrap();
        assert!(three.contains(" b \"x\""), "{three}");
        // The second link replaces the folder in which the file of the first one has its name.
        let both = Archive::new()
            .hardlink("c", "b/s")
            .hardlink("b", "x")
            .hardlink("d", "c");
        let both = [tars[0].clone(), both.finish()];
        let seen = merged(store, &store.snapshotter(), &both).unwrap();
        assert!(
            seen.contains(" b \"x\"") && seen.contains(" c \"s\""),
            "{seen}"
        );
    }
}

/// Two paths of a layer are one on what lies below it. The order in which a folder lists its names had a say in what came of it.
#[test]
fn of_two_paths_that_become_one_the_folder_wins() {
    let below = Archive::new()
        .folder("t")
        .folder("t/a")
        .symlink("t/b", "a")
        .symlink("s", "t");
    let above = Archive::new().file("s/a", "a").file("s/b/x", "x");
    let tars = [below.finish(), above.finish()];
    for sandbox in FORMS.map(Sandbox::of) {
        let store = &sandbox.store;
        let seen = merged(store, &store.snapshotter(), &tars).unwrap();
        assert!(seen.contains(" t/a/x \"x\""), "{seen}");
    }
}
