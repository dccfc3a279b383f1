//! Several processes on one store, and what a kill leaves.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_store::snapshot::conformance::archive::{Archive, Item};
use corten_store::{Begin, Defect, Store};

use crate::fixture::{Sandbox, describe, gzip, noise};

const ROOT: &str = "CORTEN_TEST_ROOT";

/// Three megabytes packed, forty files.
fn tar() -> Vec<u8> {
    (0..40)
        .fold(Archive::new(), |a, i| {
            a.item(Item::new(&format!("d{}/{i}", i % 7), b'0').data(noise(75_000, i)))
        })
        .finish()
}

/// Gives small pieces with pauses between, and counts them.
struct Slow<'a> {
    rest: &'a [u8],
    given: usize,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_micros(300));
        let n = buffer.len().min(16 << 10);
        let n = self.rest.read(&mut buffer[..n])?;
        self.given += n;
        Ok(n)
    }
}

/// What a child does: brings the layer in, and prints how many bytes it had to fetch. Run by the other tests only.
#[test]
#[ignore = "a child process of the others"]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let store = Store::open(&PathBuf::from(root)).unwrap();
    println!("fetched {}", fetch(&store));
}

fn fetch(store: &Store) -> usize {
    let tar = tar();
    let packed = gzip(&tar);
    let lease = store.lease("child").unwrap();
    match store.begin_layer(&lease, &describe(&packed, &tar)).unwrap() {
        Begin::Present(_) => 0,
        Begin::Ingest(ingest) => {
            let rest = &packed[usize::try_from(ingest.offset()).unwrap()..];
            let mut slow = Slow { rest, given: 0 };
            ingest.run(&mut slow).unwrap();
            slow.given
        }
    }
}

fn spawn(sandbox: &Sandbox) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::child", "--ignored", "--nocapture"])
        .env(ROOT, sandbox.store.root())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn two_processes_share_one_layer() {
    let sandbox = Sandbox::new();
    let children = [spawn(&sandbox), spawn(&sandbox), spawn(&sandbox)];
    let mut fetched: Vec<usize> = children
        .into_iter()
        .map(|c| {
            let out = c.wait_with_output().unwrap();
            assert!(out.status.success());
            let text = String::from_utf8(out.stdout).unwrap();
            let n = text.split("fetched ").nth(1).unwrap();
            n.split_whitespace().next().unwrap().parse().unwrap()
        })
        .collect();
    fetched.sort_unstable();
    assert_eq!(fetched[..2], [0, 0], "only one of them fetched anything");
    assert_eq!(fetched[2], gzip(&tar()).len());
    assert_eq!(sandbox.names("layers").len(), 1);
}

/// Killed at some thirty moments of an ingest, it goes on from where it was, and leaves what can be named.
#[test]
fn a_kill_leaves_what_the_next_one_takes_up() {
    let sandbox = Sandbox::new();
    let mut resumed = 0;
    for round in 0..30u64 {
        let mut child = spawn(&sandbox);
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
    fetch(&sandbox.store);
    sandbox.store.collect().unwrap();
    assert_eq!(sandbox.store.check(false).unwrap(), []);
    for folder in ["ingest", "layers", "blobs/sha256", "trash"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
}
