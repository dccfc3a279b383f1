//! Containers, images and networks of one host: the engine as a library.
//!
//! [`Engine::open`] takes the folders and gives the [`Engine`]; everything else is a method on it, in
//! the file of its noun. The engine runs in the caller's process and needs no daemon: what must
//! outlive a call is on disk ([`paths::Paths`]) or held by a container's supervisor.
//!
//! It never prints, never reads the terminal, and never parses what a person is meant to read.

#![forbid(unsafe_code)]

mod clock;
pub mod config;
pub mod container;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod image;
pub mod network;
pub mod paths;
pub mod pod;
pub mod recovery;
mod rootfs;
pub mod runtime;
pub mod system;
mod volume;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use corten_store::Store;

pub use config::Config;
pub use error::{Error, Is};
pub use paths::Paths;

/// One engine: its folders, its settings, its store.
pub struct Engine {
    paths: Paths,
    config: Config,
    store: Store,
}

impl Engine {
    /// Opens the state folder, and makes it where it is absent.
    pub fn open(paths: Paths) -> Result<Self, Error> {
        let config = Config::load(&paths)?;
        for folder in [paths.root(), paths.run()] {
            make_private(folder)?;
        }
        let store = Store::open_with(paths.root(), config.store.options())?;
        Ok(Self {
            paths,
            config,
            store,
        })
    }

    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// A folder that only root may enter: what is inside belongs to containers.
fn make_private(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(Error::io("make folder", path))
}

/// Removes a tree; one that is not there is removed already. Another process may put a file in meanwhile (a
/// container's lock, by who looks whether it is held), and then it is done again.
fn remove_tree(path: &Path) -> Result<(), Error> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    for _ in 0..100 {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == DirectoryNotEmpty => {}
            Err(e) if e.kind() != NotFound => return Err(Error::io("remove", path)(e)),
            _ => return Ok(()),
        }
    }
    fs::remove_dir_all(path).map_err(Error::io("remove", path))
}
