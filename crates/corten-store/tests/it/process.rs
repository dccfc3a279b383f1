//! Several processes on one store, and what a kill leaves.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_store::Defect;
use corten_store::snapshot::conformance::archive::{Archive, Item};
use tempfile::TempDir;

use crate::fixture::{Sandbox, gzip, noise};

/// Three megabytes packed, forty files.
fn tar() -> Vec<u8> {
    (0..40)
        .fold(Archive::new(), |a, i| {
            a.item(Item::new(&format!("d{}/{i}", i % 7), b'0').data(noise(75_000, i)))
        })
        .finish()
}

/// A layer in files, and processes that bring it into a store.
struct Layer {
    folder: TempDir,
    packed: usize,
}

impl Layer {
    fn new() -> Self {
        let tar = tar();
        let packed = gzip(&tar);
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("tar"), &tar).unwrap();
        std::fs::write(folder.path().join("packed"), &packed).unwrap();
        Self {
            folder,
            packed: packed.len(),
        }
    }

    /// `examples/ingest.rs`, which cargo builds along with the tests: target/PROFILE/deps/it-HASH → ../examples.
    fn spawn(&self, sandbox: &Sandbox) -> Child {
        let own = std::env::current_exe().unwrap();
        let built = own.parent().and_then(Path::parent).unwrap();
        Command::new(built.join("examples/ingest"))
            .arg(sandbox.store.root())
            .args(["packed", "tar"].map(|name| self.folder.path().join(name)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// What a process says that it had to fetch.
fn fetched(child: Child) -> usize {
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let n = text.strip_prefix("fetched ").unwrap();
    n.trim().parse().unwrap()
}

#[test]
fn two_processes_share_one_layer() {
    let sandbox = Sandbox::new();
    let layer = Layer::new();
    let children = [(); 3].map(|()| layer.spawn(&sandbox));
    let mut fetched = children.map(fetched);
    fetched.sort_unstable();
    assert_eq!(fetched[..2], [0, 0], "only one of them fetched anything");
    assert_eq!(fetched[2], layer.packed);
    assert_eq!(sandbox.names("layers").len(), 1);
}

/// Killed at some thirty moments of an ingest, it goes on from where it was, and leaves what can be named.
#[test]
fn a_kill_leaves_what_the_next_one_takes_up() {
    let sandbox = Sandbox::new();
    let layer = Layer::new();
    let mut resumed = 0;
    for round in 0..30u64 {
        let mut child = layer.spawn(&sandbox);
        // From before its first system call to past its end.
        let moment = noise(8, round)[0];
        std::thread::sleep(Duration::from_micros(20_000 + u64::from(moment) * 1000));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = sandbox.store.check(false).unwrap();
        let expected = [
            Defect::Interrupted,
            Defect::DeadLease,
            Defect::Trash,
            Defect::OrphanBlob,
            Defect::OrphanLayer,
        ];
        assert!(left.iter().all(|f| expected.contains(&f.what)), "{left:?}");
        resumed += usize::from(left.iter().any(|f| f.what == Defect::Interrupted));
        if round % 5 == 4 {
            let named = sandbox.store.check(true).unwrap();
            assert!(named.iter().all(|f| f.repaired), "{named:?}");
            assert_eq!(sandbox.store.check(false).unwrap(), []);
        }
        if round % 7 == 6 {
            // What no lease holds goes, the finished layer of a lucky round included.
            sandbox.store.collect().unwrap();
            assert_eq!(sandbox.names("layers"), Vec::<String>::new());
        }
    }
    assert!(
        resumed > 3,
        "the kills came too early or too late: {resumed}"
    );
    fetched(layer.spawn(&sandbox));
    sandbox.store.collect().unwrap();
    assert_eq!(sandbox.store.check(false).unwrap(), []);
    for folder in ["ingest", "layers", "blobs/sha256", "trash"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
}
