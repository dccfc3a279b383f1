//! A store in a folder of its own.

use std::path::Path;

use corten_store::Store;
use tempfile::TempDir;

/// A store that goes with the value.
pub struct Sandbox {
    pub store: Store,
    folder: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("root")).unwrap();
        Self { store, folder }
    }

    /// A folder beside the store's.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
