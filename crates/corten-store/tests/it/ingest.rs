//! From bytes to a layer: what is checked, what is kept, and how it goes on.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use corten_spec::{Digest, media};
use corten_store::snapshot::conformance::archive::{Archive, Item};
use corten_store::{
    Begin, Error, LayerChoice, LayerDesc, LayerError, LayerIngest, Lease, Limits, Options, Packing,
    Snapshotter as _, Store,
};

use crate::fixture::{Sandbox, describe, gzip, names, noise};

/// Some files, about a megabyte and hard to compress.
pub fn tar() -> Vec<u8> {
    (0..20)
        .fold(Archive::new().folder("d"), |a, i| {
            a.item(Item::new(&format!("d/{i}"), b'0').data(noise(50_000, i)))
        })
        .finish()
}

fn begin(sandbox: &Sandbox, lease: &Lease, desc: &LayerDesc) -> LayerIngest {
    match sandbox.store.begin_layer(lease, desc).unwrap() {
        Begin::Ingest(ingest) => ingest,
        Begin::Present(id) => panic!("{id} is present"),
    }
}

fn is_clean(sandbox: &Sandbox) {
    for folder in ["ingest", "layers", "blobs/sha256", "trash"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
}

/// A reader that fails after some bytes, as a connection does.
struct Cut<'a>(&'a [u8]);

impl Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.len() {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            _ => self.0.read(buffer),
        }
    }
}

#[test]
fn gzip_zstd_and_plain_are_the_same_layer() {
    let sandbox = Sandbox::new();
    let tar = tar();
    let lease = sandbox.store.lease("test").unwrap();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let packed = [
        (gzip(&tar), media::OCI_LAYER_GZIP),
        (zstd, media::OCI_LAYER_ZSTD),
        (tar.clone(), media::DOCKER_LAYER),
        // Registries hold plain tars that say they are gzip.
        (
            [tar.clone(), vec![0; 512]].concat(),
            media::DOCKER_LAYER_GZIP,
        ),
    ];
    let mut ids = Vec::new();
    for (bytes, media_type) in &packed[..3] {
        let desc = LayerDesc {
            media_type: (*media_type).into(),
            ..describe(bytes, &tar)
        };
        ids.push(begin(&sandbox, &lease, &desc).run(&bytes[..]).unwrap());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(sandbox.names("layers").len(), 1);
    assert_eq!(sandbox.names("blobs/sha256").len(), 3);
    let (bytes, media_type) = &packed[3];
    let desc = LayerDesc {
        media_type: (*media_type).into(),
        ..describe(bytes, bytes)
    };
    begin(&sandbox, &lease, &desc).run(&bytes[..]).unwrap();
    let again = sandbox.store.begin_layer(&lease, &desc).unwrap();
    assert!(matches!(again, Begin::Present(_)));
}

#[test]
fn a_cut_is_resumed_from_what_came() {
    let sandbox = Sandbox::new();
    let tar = tar();
    let packed = gzip(&tar);
    let desc = describe(&packed, &tar);
    let lease = sandbox.store.lease("test").unwrap();
    let mut came = 0;
    for more in [4, 300_000, 1, 500_000] {
        let ingest = begin(&sandbox, &lease, &desc);
        assert_eq!(ingest.offset(), came);
        let from = usize::try_from(came).unwrap();
        let outcome = ingest.run(Cut(&packed[from..from + more]));
        came += more as u64;
        match outcome {
            Err(Error::Source { kept, source, .. }) => {
                assert_eq!(
                    (kept, source.kind()),
                    (came, io::ErrorKind::ConnectionReset)
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(
            sandbox.names("ingest").len(),
            1,
            "only the partial blob stays"
        );
    }
    // A reader that ends too early is a cut as well.
    let ingest = begin(&sandbox, &lease, &desc);
    let early = ingest.run(io::empty());
    assert!(matches!(early, Err(Error::Source { .. })), "{early:?}");
    let ingest = begin(&sandbox, &lease, &desc);
    let from = usize::try_from(ingest.offset()).unwrap();
    ingest.run(&packed[from..]).unwrap();
    assert_eq!(sandbox.names("ingest"), Vec::<String>::new());
    sandbox.store.verify_blob(&desc.digest).unwrap();
}

#[test]
fn a_partial_blob_that_was_damaged_is_found_and_dropped() {
    let sandbox = Sandbox::new();
    let tar = tar();
    let packed = gzip(&tar);
    let desc = describe(&packed, &tar);
    let lease = sandbox.store.lease("test").unwrap();
    begin(&sandbox, &lease, &desc)
        .run(Cut(&packed[..400_000]))
        .unwrap_err();
    let path = sandbox
        .store
        .root()
        .join("ingest")
        .join(&sandbox.names("ingest")[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ingest = begin(&sandbox, &lease, &desc);
    let outcome = ingest.run(&packed[400_000..]);
    assert!(
        matches!(outcome, Err(Error::Mismatch { what: "digest", .. })),
        "{outcome:?}"
    );
    is_clean(&sandbox);
}

#[test]
fn bytes_that_are_not_those_described_are_refused() {
    let sandbox = Sandbox::new();
    let tar = tar();
    let packed = gzip(&tar);
    let desc = describe(&packed, &tar);
    let lease = sandbox.store.lease("test").unwrap();
    let try_with = |desc: &LayerDesc, bytes: &[u8]| {
        let outcome = begin(&sandbox, &lease, desc).run(bytes);
        is_clean(&sandbox);
        outcome.unwrap_err()
    };
    let mismatch = |e: Error| match e {
        Error::Mismatch { what, .. } => what,
        other => panic!("{other:?}"),
    };
    // A digest is looked at before a stream is called corrupt: most often it is another blob.
    let mut flipped = packed.clone();
    flipped[100_000] ^= 1;
    assert_eq!(mismatch(try_with(&desc, &flipped)), "digest");
    assert_eq!(mismatch(try_with(&desc, &noise(packed.len(), 1))), "digest");
    let longer = [packed.clone(), vec![0]].concat();
    assert_eq!(mismatch(try_with(&desc, &longer)), "size");
    let other = LayerDesc {
        diff_id: Digest::of(b"other"),
        ..desc.clone()
    };
    assert_eq!(mismatch(try_with(&other, &packed)), "diff id");
    let layer = |e: Error| match e {
        Error::Layer { source, .. } => source,
        other => panic!("{other:?}"),
    };
    let cut = &packed[..packed.len() - 9];
    let truncated = layer(try_with(&describe(cut, &tar), cut));
    assert_eq!(truncated.to_string(), "the gzip stream is truncated");
    let trailing = [packed.clone(), b"garbage, and plenty".to_vec()].concat();
    let corrupt = layer(try_with(&describe(&trailing, &tar), &trailing));
    assert!(matches!(
        corrupt,
        LayerError::Corrupt {
            packing: "gzip",
            ..
        }
    ));
    let short = LayerDesc {
        size: desc.size - 1,
        ..desc.clone()
    };
    assert_eq!(mismatch(try_with(&short, &packed)), "size");
}

#[test]
fn what_is_no_layer_is_refused_before_a_byte() {
    let sandbox = Sandbox::new();
    let lease = sandbox.store.lease("test").unwrap();
    let desc = LayerDesc {
        media_type: "application/vnd.cncf.helm.chart.content.v1.tar+gzip".into(),
        ..describe(b"", b"")
    };
    match sandbox.store.begin_layer(&lease, &desc) {
        Err(e @ Error::Layer { .. }) => assert_eq!(e.kind(), corten_spec::Kind::Unsupported),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("begun"),
    }
    is_clean(&sandbox);
}

/// The folder is lost, or was not flushed before a power cut: the blob brings it back.
#[test]
fn a_lost_layer_is_unpacked_again() {
    let sandbox = Sandbox::of(LayerChoice::Folders);
    let tar = tar();
    let packed = gzip(&tar);
    let desc = describe(&packed, &tar);
    let lease = sandbox.store.lease("test").unwrap();
    let id = begin(&sandbox, &lease, &desc).run(&packed[..]).unwrap();
    lease.hold_snapshot("k").unwrap();
    let folder = sandbox.store.root().join("layers").join(id.as_str());
    std::fs::remove_dir_all(&folder).unwrap();
    let snapshotter = sandbox.store.snapshotter();
    snapshotter.prepare("k", std::slice::from_ref(&id)).unwrap();
    assert!(folder.join("fs/d/19").exists());

    let db = rusqlite::Connection::open(sandbox.store.root().join("corten.db")).unwrap();
    let boot = || -> Option<String> {
        db.query_row("SELECT boot FROM layer", [], |r| r.get(0))
            .unwrap()
    };
    assert!(boot().is_some());
    db.execute("UPDATE layer SET boot = 'an earlier one'", [])
        .unwrap();
    std::fs::write(folder.join("fs/d/7"), "").unwrap();
    snapshotter.mounts("k").unwrap();
    assert_eq!(
        std::fs::metadata(folder.join("fs/d/7")).unwrap().len(),
        50_000
    );
    sandbox.store.flush().unwrap();
    assert_eq!(boot(), None);
}

/// An image is proved by digests before it is unpacked again, and what is proved is flushed.
#[test]
fn an_image_that_was_not_flushed_is_read_once() {
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let tar = tar();
    let packed = gzip(&tar);
    let lease = sandbox.store.lease("test").unwrap();
    let ingest = begin(&sandbox, &lease, &describe(&packed, &tar));
    let id = ingest.run(&packed[..]).unwrap();
    lease.hold_snapshot("k").unwrap();
    let folder = sandbox.store.root().join("layers").join(id.as_str());
    let db = rusqlite::Connection::open(sandbox.store.root().join("corten.db")).unwrap();
    let forget = || {
        db.execute("UPDATE layer SET boot = 'an earlier one'", [])
            .unwrap()
    };
    let boot = || -> Option<String> {
        db.query_row("SELECT boot FROM layer", [], |r| r.get(0))
            .unwrap()
    };
    let inode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().ino();
    let snapshotter = sandbox.store.snapshotter();
    forget();
    let before = inode("data");
    snapshotter.prepare("k", std::slice::from_ref(&id)).unwrap();
    assert_eq!((boot(), inode("data")), (None, before), "sound, and kept");

    for name in ["data", "meta"] {
        forget();
        // As after a power cut: the length is right and the bytes are not.
        let file = OpenOptions::new().write(true).open(folder.join(name));
        file.unwrap().write_all_at(&[0; 600], 2048).unwrap();
        let before = inode(name);
        snapshotter.mounts("k").unwrap();
        assert_ne!(inode(name), before, "{name} was made again");
        assert!(boot().is_some());
        let file = folder.join("fs/d/7");
        assert_eq!(std::fs::metadata(file).unwrap().len(), 50_000);
    }
    sandbox.store.flush().unwrap();
    assert_eq!(boot(), None);
    snapshotter.remove("k").unwrap();
}

/// The same layer has the same bytes, whichever store made them, and however often.
#[test]
fn an_image_is_the_same_every_time() {
    let tar = tar();
    for packing in [Packing::Tar, Packing::Pages] {
        let read = || {
            let sandbox = Sandbox::of(LayerChoice::Erofs(packing));
            let lease = sandbox.store.lease("test").unwrap();
            let ingest = begin(&sandbox, &lease, &describe(&tar, &tar));
            let id = ingest.run(&tar[..]).unwrap();
            let folder = sandbox.store.root().join("layers").join(id.as_str());
            ["data", "meta"].map(|name| std::fs::read(folder.join(name)).unwrap())
        };
        let first = read();
        assert_eq!(first, read());
        assert_eq!(first[0] == tar, packing == Packing::Tar);
    }
}

/// More memory than an index may have: the layer becomes folders, in one pass over the network all the same.
#[test]
fn a_layer_that_no_image_can_hold_becomes_folders() {
    let limits = Limits {
        index: 10_000,
        ..Limits::default()
    };
    let sandbox = Sandbox::with(Options {
        limits,
        layers: LayerChoice::Erofs(Packing::Tar),
    });
    let tar = tar();
    let packed = gzip(&tar);
    let lease = sandbox.store.lease("test").unwrap();
    let ingest = begin(&sandbox, &lease, &describe(&packed, &tar));
    let id = ingest.run(&packed[..]).unwrap();
    let folder = sandbox.store.root().join("layers").join(id.as_str());
    assert_eq!(names(&folder), ["fs"]);
    assert!(folder.join("fs/d/19").exists());
    assert_eq!(sandbox.names("ingest"), Vec::<String>::new());
    assert_eq!(sandbox.names("trash"), Vec::<String>::new());
}

/// A store that came from a newer kernel: its images become folders when they are needed. And the other way round folders stay.
#[test]
fn forms_survive_another_kernel() {
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let tar = tar();
    let lease = sandbox.store.lease("test").unwrap();
    let ingest = begin(&sandbox, &lease, &describe(&tar, &tar));
    let id = ingest.run(&tar[..]).unwrap();
    lease.hold_snapshot("k").unwrap();
    let folder = sandbox.store.root().join("layers").join(id.as_str());
    let open = |layers| {
        let options = Options {
            layers,
            ..Options::default()
        };
        Store::open_with(sandbox.store.root(), options).unwrap()
    };
    // What the kernel would not take: an image of another kind.
    std::fs::write(folder.join("meta"), [0; 8192]).unwrap();
    let older = open(LayerChoice::Folders);
    older
        .snapshotter()
        .prepare("k", std::slice::from_ref(&id))
        .unwrap();
    assert!(folder.join("fs/d/19").exists());
    assert_eq!(names(&folder), ["fs"]);
    let newer = open(LayerChoice::Auto);
    newer.snapshotter().mounts("k").unwrap();
    assert_eq!(names(&folder), ["fs"]);
    newer.snapshotter().remove("k").unwrap();
}

/// One that the kernel refuses, and that is not what was written, is made again, and as an image.
#[test]
fn a_damaged_image_is_made_anew() {
    for damage in [&[0; 8192][..], &[]] {
        let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
        let tar = tar();
        let lease = sandbox.store.lease("test").unwrap();
        let ingest = begin(&sandbox, &lease, &describe(&tar, &tar));
        let id = ingest.run(&tar[..]).unwrap();
        lease.hold_snapshot("k").unwrap();
        let folder = sandbox.store.root().join("layers").join(id.as_str());
        let before = std::fs::read(folder.join("meta")).unwrap();
        std::fs::write(folder.join("meta"), damage).unwrap();
        let snapshotter = sandbox.store.snapshotter();
        snapshotter.prepare("k", std::slice::from_ref(&id)).unwrap();
        assert!(folder.join("fs/d/19").exists());
        assert!(std::fs::read(folder.join("meta")).unwrap() == before);
        snapshotter.remove("k").unwrap();
    }
}

/// The rows fail when the files have their names already.
#[test]
fn a_failed_transaction_takes_the_files_back() {
    let sandbox = Sandbox::new();
    let tar = tar();
    let packed = gzip(&tar);
    let desc = describe(&packed, &tar);
    let lease = sandbox.store.lease("test").unwrap();
    let db = rusqlite::Connection::open(sandbox.store.root().join("corten.db")).unwrap();
    let fail =
        "CREATE TRIGGER fail BEFORE INSERT ON lease_layer BEGIN SELECT RAISE(ABORT, 'test'); END";
    db.execute_batch(fail).unwrap();
    let outcome = begin(&sandbox, &lease, &desc).run(&packed[..]);
    assert!(
        matches!(outcome, Err(Error::Database { .. })),
        "{outcome:?}"
    );
    is_clean(&sandbox);
    db.execute_batch("DROP TRIGGER fail").unwrap();
    begin(&sandbox, &lease, &desc).run(&packed[..]).unwrap();
}
