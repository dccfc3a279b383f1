//! From bytes to a layer: what is checked, what is kept, and how it goes on.

use std::io::{self, Read};

use corten_spec::{Digest, media};
use corten_store::snapshot::conformance::archive::{Archive, Item};
use corten_store::{Begin, Error, LayerDesc, LayerError, LayerIngest, Lease, Snapshotter as _};

use crate::fixture::{Sandbox, describe, gzip, noise};

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
    for more in [1, 300_000, 1, 500_000] {
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
    let sandbox = Sandbox::new();
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
