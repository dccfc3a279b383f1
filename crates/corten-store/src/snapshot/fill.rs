//! What a container of another time had written goes into a new snapshot's writable part: a layer's tar, unpacked on top of the
//! snapshot's layers instead of becoming one of them.
//!
//! So it counts as the container's own, and is in the next such tar. The tar is a stranger's: the same reader and writer as for layers
//! keep it inside and within the store's limits.

use std::io::{BufReader, Read};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::merged::{Folders, Merged, Node};
use super::{Overlay, attach, settle};
use crate::collect::trash;
use crate::error::{Error, Result};
use crate::layer::attributes::{self, Attributes};
use crate::layer::{EntryPath, LayerError, Pending, apply_all};
use crate::store::open_folder;

impl Overlay {
    /// Unpacks a layer's tar, plain, into a snapshot that nobody has mounted or written to. If it fails, the snapshot is spoiled: whoever
    /// prepared it removes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if something is in the snapshot already, or if the tar cannot be unpacked, which its cause explains.
    pub fn fill(&self, key: &str, tar: impl Read) -> Result<()> {
        let layers = self.layers(key)?;
        let folder = self.folder(key);
        let path = folder.join("fs");
        let root = open_folder(&path).map_err(Error::io("open folder", &path))?;
        let names = trash::names(&root).map_err(Error::io("list", &path))?;
        if !names.is_empty() {
            return Err(Error::Invalid {
                what: "snapshot",
                text: key.into(),
                why: "it was written to already",
            });
        }
        let tree = rustix::io::fcntl_dupfd_cloexec(&root, 0);
        let tree = tree.map_err(Error::io("open folder", &path))?;
        let aside = folder.join("replaced");
        let tar = BufReader::with_capacity(128 << 10, tar);
        let done = apply_all(tar, tree, &aside, self.store.limits());
        let done = done.map_err(|e| self.spoiled(key, e))?;
        self.store.remove_tree(&aside)?;
        if done.opaque_root {
            let why = "the changes of a container cannot hide its whole image";
            return Err(self.spoiled(key, LayerError::refused(b"./", why)));
        }
        let stack = settle::trees(&self.store, &layers)?;
        let below = stack.iter().map(|l| attach::open(&self.store, l));
        let below = Merged::new(below.collect::<Result<Folders>>()?);
        settle_in(&root, &below, &done.pending).map_err(|e| self.spoiled(key, e))
    }

    fn spoiled(&self, key: &str, source: LayerError) -> Error {
        if source.is_full() {
            let needed = source.needed();
            return Error::NoSpace {
                path: self.store.root().into(),
                needed,
            };
        }
        Error::Changes {
            key: key.into(),
            source,
        }
    }
}

/// Folders that the tar implies look as they do below; links to what only lies below are none that a writable part can have.
fn settle_in(
    root: &OwnedFd,
    below: &Merged,
    pending: &Pending,
) -> std::result::Result<(), LayerError> {
    if let Some((link, _)) = pending.links().first() {
        let why = "it is a hard link to a file that is not among the changes";
        return Err(LayerError::refused(link, why));
    }
    for path in pending.folders() {
        let failed = |op| {
            move |e: rustix::io::Errno| LayerError::Write {
                op,
                entry: EntryPath(path.clone()),
                source: e.into(),
            }
        };
        let folder = match below.get(path).map_err(failed("look below"))? {
            None => continue,
            Some(Node::Folder(folders)) => folders,
            Some(Node::Other { .. }) => {
                return Err(LayerError::refused(path, "it is no folder in the image"));
            }
        };
        let Some(top) = folder.first() else {
            continue;
        };
        let looks = Attributes::of(top.as_fd(), b"").map_err(failed("read the attributes"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(root, path.as_slice(), flags, Mode::empty(), resolve)
            .and_then(|fd| attributes::set_open(&fd, &looks))
            .map_err(failed("set the attributes"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::Snapshotter as _;
    use crate::snapshot::conformance::{archive::Archive, layer, view};
    use crate::store::Store;

    /// A snapshot on one layer, filled.
    fn filled(base: &[u8], changes: &[u8]) -> (tempfile::TempDir, Store, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("root")).unwrap();
        let lease = store.lease("test").unwrap();
        lease.hold_snapshot("k").unwrap();
        let layers = [layer(&store, &lease, base).unwrap()];
        store.snapshotter().prepare("k", &layers).unwrap();
        let done = store.snapshotter().fill("k", changes);
        (folder, store, done)
    }

    #[test]
    fn changes_lie_on_the_layers() {
        let base = Archive::new().folder("./").folder("d/").file("d/a", "1");
        let base = base.file("gone", "2").finish();
        let changes = Archive::new().folder("./").folder("d/").file("d/b", "3");
        let changes = changes.file(".wh.gone", "").finish();
        let (_folder, store, done) = filled(&base, &changes);
        done.unwrap();
        let root = view::mount(&store.snapshotter().mounts("k").unwrap()).unwrap();
        let seen = view::of(&root).unwrap();
        assert!(seen.contains("d/a") && seen.contains("d/b"), "{seen}");
        assert!(!seen.contains("gone"), "{seen}");
        // It is the snapshot's own.
        assert!(store.snapshotter().usage("k").unwrap().inodes >= 3);
        let again = store.snapshotter().fill("k", changes.as_slice());
        assert!(matches!(again, Err(Error::Invalid { .. })), "{again:?}");
        drop(root);
        store.snapshotter().remove("k").unwrap();
    }

    #[test]
    fn implied_folders_look_as_below() {
        let base = Archive::new().folder("./").folder("d/").finish();
        let (folder, store, done) = filled(&base, &Archive::new().file("d/x", "1").finish());
        done.unwrap();
        let at = |name: &str| folder.path().join("root").join(name);
        let below = store.snapshotter().mounts("k").unwrap();
        let root = view::mount(&below).unwrap();
        drop(root);
        let upper = at("snapshots/k/fs/d").metadata().unwrap();
        assert_eq!(upper.permissions().mode() & 0o7777, 0o755);
        assert_eq!((upper.uid(), upper.gid()), (0, 0));
        store.snapshotter().remove("k").unwrap();
    }

    #[test]
    fn hostile_changes_stay_inside() {
        let base = Archive::new().folder("./").file("f", "1").finish();
        for (changes, why) in [
            (
                Archive::new().file("../../../out", "x").finish(),
                "has .. in",
            ),
            (Archive::new().hardlink("l", "f").finish(), "hard link"),
            (Archive::new().file("f/x", "x").finish(), "no folder"),
            (Archive::new().file(".wh..wh..opq", "").finish(), "hide"),
            (b"x".repeat(512), ""),
        ] {
            let (folder, store, done) = filled(&base, &changes);
            let error = done.unwrap_err();
            assert_eq!(error.kind(), corten_spec::Kind::Invalid, "{error:?}");
            assert!(format!("{error:?}").contains(why), "{why}: {error:?}");
            assert!(!folder.path().join("out").exists());
            store.snapshotter().remove("k").unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn damaged_changes_are_survived(at in 0usize..3000, byte: u8, cut in 1usize..3000) {
            let base = Archive::new().folder("./").finish();
            let mut changes = Archive::new().folder("d/").file("d/a", "1").finish();
            let n = changes.len();
            changes[at % n] = byte;
            changes.truncate(cut);
            let (_folder, store, _) = filled(&base, &changes);
            store.snapshotter().remove("k").unwrap();
        }
    }
}
