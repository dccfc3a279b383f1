//! Images on a file system with fs-verity. Few kernels of test machines have it, so these run in an emulated machine too
//! (`cargo xtask test --guest=qemu -- verity`), on a disk of their own.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use corten_store::snapshot::conformance::archive::Archive;
use corten_store::snapshot::conformance::layer;
use corten_store::{Error, LayerChoice, Options, Packing, Snapshotter as _, Store};
use corten_testkit::{Disk, need};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::fixture::run;

/// A file system with fs-verity, mounted; `None`, with the reason told, where that cannot be.
struct Mounted {
    folder: TempDir,
    _disk: Disk,
}

impl Mounted {
    fn new() -> Option<Self> {
        let disk = Disk::take().unwrap()?;
        let device = disk.device().to_owned();
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-O", "verity"])
            .arg(&device));
        let folder = tempfile::tempdir().unwrap();
        let flags = MountFlags::empty();
        match rustix::mount::mount(&*device, folder.path(), "ext4", flags, None) {
            Ok(()) => Self {
                folder,
                _disk: disk,
            }
            .tried(),
            Err(e) => {
                need::skip(format!("this kernel mounts no ext4 with verity: {e}"));
                None
            }
        }
    }

    /// Some kernels mount such a file system and can seal nothing on it.
    fn tried(self) -> Option<Self> {
        let path = self.root().join("try");
        fs::write(&path, "some bytes").unwrap();
        let file = fs::File::open(&path).unwrap();
        let sealed = corten_sys::verity::enable(&file).unwrap();
        need::that(sealed, "this kernel has no fs-verity").then_some(self)
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn verity_seals_what_is_flushed() {
    let Some(disk) = Mounted::new() else { return };
    let options = Options {
        layers: LayerChoice::Erofs(Packing::Tar),
        ..Options::default()
    };
    let store = Store::open_with(&disk.root().join("root"), options).unwrap();
    let lease = store.lease("test").unwrap();
    lease.hold_snapshot("k").unwrap();
    let tar = Archive::new().file("a", &"a".repeat(100_000)).finish();
    let id = layer(&store, &lease, &tar).unwrap();
    let folder = store.root().join("layers").join(id.as_str());
    let measure = |name: &str| {
        corten_sys::verity::measure(fs::File::open(folder.join(name)).unwrap()).unwrap()
    };
    assert_eq!(measure("data"), None);
    // While somebody can write to a file, it is not sealed; the next flush is not too late.
    let meta = folder.join("meta");
    let writer = OpenOptions::new().write(true).open(&meta).unwrap();
    store.flush().unwrap();
    assert_eq!(measure("meta"), None);
    drop(writer);
    store.flush().unwrap();
    for name in ["data", "meta"] {
        assert_eq!(measure(name).unwrap().len(), 32, "{name}");
        let refused = OpenOptions::new().write(true).open(folder.join(name));
        assert_eq!(
            refused.unwrap_err().raw_os_error(),
            Some(1),
            "{name} can no longer be written"
        );
    }
    // Sealed again it stays as it was.
    let before = measure("data");
    store.flush().unwrap();
    assert_eq!(measure("data"), before);

    // The same bytes in another file are not the file that was sealed.
    fs::copy(folder.join("data"), folder.join("copy")).unwrap();
    fs::rename(folder.join("copy"), folder.join("data")).unwrap();
    match store.snapshotter().prepare("k", &[id]) {
        Err(Error::Damaged { why, .. }) => assert!(why.contains("data"), "{why}"),
        other => panic!("{other:?}"),
    }
}
