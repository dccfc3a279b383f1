//! A store in a folder of its own.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use corten_spec::{Digest, media};
use corten_store::{LayerChoice, LayerDesc, Options, Packing, Store};
use rustix::mount::MountPropagationFlags;
use tempfile::TempDir;

/// A store that goes with the value.
pub struct Sandbox {
    pub store: Store,
    pub folder: TempDir,
}

/// Every form that a layer can have.
pub const FORMS: [LayerChoice; 3] = [
    LayerChoice::Erofs(Packing::Tar),
    LayerChoice::Erofs(Packing::Pages),
    LayerChoice::Folders,
];

impl Sandbox {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// New layers get this form.
    pub fn of(layers: LayerChoice) -> Self {
        Self::with(Options {
            layers,
            ..Options::default()
        })
    }

    pub fn with(options: Options) -> Self {
        own_mounts();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_with(&folder.path().join("root"), options).unwrap();
        Self { store, folder }
    }

    /// A folder beside the store's.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The names in one of the store's own folders.
    pub fn names(&self, folder: &str) -> Vec<String> {
        names(&self.store.root().join(folder))
    }
}

/// What this test mounts, nobody else sees, and it goes with the test.
fn own_mounts() {
    corten_sys::namespace::unshare(corten_sys::namespace::Namespaces::MOUNT).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn run(command: &mut Command) {
    let out = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {stderr}");
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

/// The descriptor of a packed layer.
pub fn describe(packed: &[u8], tar: &[u8]) -> LayerDesc {
    LayerDesc {
        digest: Digest::of(packed),
        size: packed.len() as u64,
        media_type: media::OCI_LAYER_GZIP.into(),
        diff_id: Digest::of(tar),
    }
}

/// Bytes that do not compress well, the same for the same seed.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        // splitmix64
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(length);
    out
}
