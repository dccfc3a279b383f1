//! A full disk: told as such, and nothing of the attempt stays on it.
//!
//! Each test is run once more as a child in a mount namespace of its own, with a small tmpfs as the store's disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use corten_store::snapshot::conformance::archive::{Archive, Item};
use corten_store::snapshot::conformance::layer;
use corten_store::{Begin, Error, Lease, Store};

use crate::fixture::{describe, gzip, names, noise, run};

const DISK: &str = "CORTEN_SMALL_DISK";

/// Runs `test` with a tmpfs of these options at the path that it gets.
fn on_small_disk(name: &str, options: &str, test: impl FnOnce(&Path)) {
    if let Some(disk) = std::env::var_os(DISK) {
        return test(&PathBuf::from(disk));
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o {options} tmpfs \"${DISK}\" && exec \"$0\" --exact disk::{name} --nocapture"
    );
    run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(DISK, folder.path()));
}

fn free(disk: &Path) -> (u64, u64) {
    let s = rustix::fs::statvfs(disk).unwrap();
    (s.f_bfree * s.f_bsize, s.f_ffree)
}

/// Expects the layer not to fit, and the disk to be as before; returns how much was wanted in one piece.
fn does_not_fit(disk: &Path, tar: &[u8]) -> Option<u64> {
    let store = Store::open(&disk.join("root")).unwrap();
    let lease = store.lease("test").unwrap();
    let small = Archive::new().file("a", "a").finish();
    layer(&store, &lease, &small).unwrap();
    let before = free(disk);
    let outcome = ingest(&store, &lease, &gzip(tar), tar);
    let after = free(disk);
    // The log of the database may have grown.
    assert!(before.0.abs_diff(after.0) < 100_000, "{before:?} {after:?}");
    assert_eq!(before.1, after.1);
    for folder in ["ingest", "trash"] {
        assert_eq!(names(&store.root().join(folder)), Vec::<String>::new());
    }
    let again = Archive::new().file("b", "b").finish();
    layer(&store, &lease, &again).unwrap();
    match outcome {
        Err(Error::NoSpace { needed, .. }) => needed,
        other => panic!("{other:?}"),
    }
}

fn ingest(store: &Store, lease: &Lease, packed: &[u8], tar: &[u8]) -> Result<(), Error> {
    match store.begin_layer(lease, &describe(packed, tar))? {
        Begin::Ingest(ingest) => ingest.run(packed).map(|_| ()),
        Begin::Present(id) => panic!("{id} is present"),
    }
}

#[test]
fn one_file_too_big_is_told_before_it_is_written() {
    on_small_disk(
        "one_file_too_big_is_told_before_it_is_written",
        "size=8m",
        |disk| {
            let big = Archive::new().item(Item::new("big", b'0').data(vec![0; 9 << 20]));
            assert_eq!(does_not_fit(disk, &big.finish()), Some(9 << 20));
        },
    );
}

#[test]
fn many_small_files_fill_the_disk() {
    on_small_disk("many_small_files_fill_the_disk", "size=8m", |disk| {
        let many = (0..400).fold(Archive::new(), |a, i| {
            a.item(Item::new(&format!("d{}/{i}", i % 9), b'0').data(vec![0; 30_000]))
        });
        assert_eq!(does_not_fit(disk, &many.finish()), None);
    });
}

#[test]
fn the_blob_alone_fills_the_disk() {
    on_small_disk("the_blob_alone_fills_the_disk", "size=4m", |disk| {
        let store = Store::open(&disk.join("root")).unwrap();
        let lease = store.lease("test").unwrap();
        let bytes = noise(6 << 20, 1);
        let outcome = ingest(&store, &lease, &bytes, &bytes);
        assert!(matches!(outcome, Err(Error::NoSpace { .. })), "{outcome:?}");
        assert_eq!(names(&store.root().join("ingest")), Vec::<String>::new());
    });
}

#[test]
fn inodes_run_out() {
    on_small_disk("inodes_run_out", "nr_inodes=100", |disk| {
        let many = (0..200).fold(Archive::new(), |a, i| a.file(&i.to_string(), ""));
        assert_eq!(does_not_fit(disk, &many.finish()), None);
    });
}
