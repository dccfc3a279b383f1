//! Holds a snapshotter to the contract of [`Snapshotter`], on the running kernel. Needs root; mounts
//! nothing that others could see, and leaves nothing behind.
//!
//! A case is some layers and what must be seen of them merged, as [`view::of`] writes it. The texts were
//! compared with what umoci unpacks from the same layers (`tests/it/peers.rs`), so they are not merely what we do.

pub mod archive;
mod cases;
pub mod view;

pub use cases::{Case, cases};

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use corten_spec::{Digest, media};
use rustix::fs::{Mode, OFlags};

use crate::layer::{Begin, LayerDesc, LayerId};
use crate::metadata::Lease;
use crate::snapshot::Snapshotter;
use crate::store::Store;
use crate::{Error, Result};

/// Puts a plain tar into the store as a layer.
pub fn layer(store: &Store, lease: &Lease, tar: &[u8]) -> Result<LayerId> {
    let desc = describe(tar);
    match store.begin_layer(lease, &desc)? {
        Begin::Present(id) => Ok(id),
        Begin::Ingest(ingest) => {
            let offset = usize::try_from(ingest.offset()).unwrap_or(tar.len());
            ingest.run(&tar[offset..])
        }
    }
}

/// The descriptor of a plain tar.
pub fn describe(tar: &[u8]) -> LayerDesc {
    LayerDesc {
        digest: Digest::of(tar),
        size: tar.len() as u64,
        media_type: media::OCI_LAYER.into(),
        diff_id: Digest::of(tar),
    }
}

/// The merged view of `tars`, bottom first.
pub fn merged(store: &Store, snapshotter: &dyn Snapshotter, tars: &[Vec<u8>]) -> Result<String> {
    let key = format!("conformance-{}", Digest::of(&tars.concat()).short());
    let lease = store.lease("conformance")?;
    lease.hold_snapshot(&key)?;
    let layers = tars
        .iter()
        .map(|t| layer(store, &lease, t))
        .collect::<Result<Vec<_>>>()?;
    let mount = snapshotter.prepare(&key, &layers)?;
    let seen = view::mount(&mount)
        .and_then(|root| view::of(&root))
        .map_err(Error::io("mount a snapshot of", store.root()))?;
    snapshotter.remove(&key)?;
    Ok(seen)
}

/// Runs everything.
///
/// # Panics
/// At the first thing that is not as the contract says: this is a test.
pub fn run(store: &Store, snapshotter: &dyn Snapshotter) {
    for case in cases() {
        match merged(store, snapshotter, &case.layers) {
            Ok(seen) => assert_eq!(seen, case.expected, "case {:?}", case.name),
            Err(e) => panic!("case {:?}: {e:?}", case.name),
        }
    }
    let suite = Suite { store, snapshotter };
    suite.keys().unwrap();
    suite.life().unwrap();
    suite.independence().unwrap();
    suite.many_layers().unwrap();
    assert_eq!(snapshotter.list().unwrap(), Vec::<String>::new());
}

struct Suite<'a> {
    store: &'a Store,
    snapshotter: &'a dyn Snapshotter,
}

impl Suite<'_> {
    fn keys(&self) -> Result<()> {
        for key in ["", ".", "..", "a/b", ".hidden", "a b", &"k".repeat(201)] {
            let refused = self.snapshotter.prepare(key, &[]);
            assert!(
                matches!(refused, Err(Error::Invalid { .. })),
                "{key:?}: {refused:?}"
            );
        }
        let lease = self.store.lease("conformance")?;
        lease.hold_snapshot("k")?;
        let nowhere: LayerId = "sha256-00".parse().unwrap();
        let missing = self.snapshotter.prepare("k", &[nowhere]);
        assert!(matches!(
            missing,
            Err(Error::NotFound { what: "layer", .. })
        ));
        for gone in [
            self.snapshotter.remove("k"),
            self.snapshotter.mounts("k").map(|_| ()),
            self.snapshotter.usage("k").map(|_| ()),
        ] {
            assert!(matches!(
                gone,
                Err(Error::NotFound {
                    what: "snapshot",
                    ..
                })
            ));
        }
        Ok(())
    }

    fn life(&self) -> Result<()> {
        let lease = self.store.lease("conformance")?;
        lease.hold_snapshot("life")?;
        let tar = archive::Archive::new().file("a", "a").finish();
        let layers = [layer(self.store, &lease, &tar)?];
        let mount = self.snapshotter.prepare("life", &layers)?;
        assert_eq!(self.snapshotter.mounts("life")?, mount);
        assert_eq!(self.snapshotter.list()?, ["life"]);
        let again = self.snapshotter.prepare("life", &layers);
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        let before = self.snapshotter.usage("life")?;
        write(&view::mount(&mount).unwrap(), "b", &[1; 100_000]);
        let after = self.snapshotter.usage("life")?;
        assert_eq!(after.inodes, before.inodes + 1);
        assert!(after.bytes >= before.bytes + 100_000);
        // What was written stays for the next mount, and goes with the snapshot.
        let seen = view::of(&view::mount(&self.snapshotter.mounts("life")?).unwrap()).unwrap();
        assert!(seen.contains(" b 100000 bytes"), "{seen}");
        self.snapshotter.remove("life")?;
        let mount = self.snapshotter.prepare("life", &layers)?;
        let seen = view::of(&view::mount(&mount).unwrap()).unwrap();
        assert!(!seen.contains(" b "), "{seen}");
        self.snapshotter.remove("life")
    }

    /// Two snapshots of one layer, and the layer itself, are three things. A collection in between takes nothing away.
    fn independence(&self) -> Result<()> {
        let lease = self.store.lease("conformance")?;
        let tar = archive::Archive::new().file("shared", "old").finish();
        let layers = [layer(self.store, &lease, &tar)?];
        let keys = ["one", "two"];
        for key in keys {
            lease.hold_snapshot(key)?;
        }
        let one = view::mount(&self.snapshotter.prepare("one", &layers)?).unwrap();
        let two = view::mount(&self.snapshotter.prepare("two", &layers)?).unwrap();
        write(&one, "shared", b"new");
        self.store.collect()?;
        assert!(view::of(&one).unwrap().contains("shared \"new\""));
        assert!(view::of(&two).unwrap().contains("shared \"old\""));
        for key in keys {
            self.snapshotter.remove(key)?;
        }
        Ok(())
    }

    /// More than fit into the 4096 bytes of mount(2)'s options, and one of them twice.
    fn many_layers(&self) -> Result<()> {
        let mut tars: Vec<Vec<u8>> = (0..120)
            .map(|i| {
                archive::Archive::new()
                    .file(&format!("f{i:03}"), "")
                    .file("last", &i.to_string())
                    .finish()
            })
            .collect();
        tars.push(tars[7].clone());
        let seen = merged(self.store, self.snapshotter, &tars)?;
        assert_eq!(seen.lines().count(), 122);
        assert!(seen.contains(" last \"7\""), "{seen}");
        Ok(())
    }
}

fn write(root: &OwnedFd, name: &str, bytes: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, name, flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(fd).write_all(bytes).unwrap();
}
