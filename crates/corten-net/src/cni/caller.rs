//! Calls the plugins of a list in their order, chains their results, and remembers what ADD
//! returned.

use std::path::PathBuf;

use super::{Attachment, CniResult, NetworkConfigList, ValidAttachment};
use crate::Error;

/// Calls plugins. Cheap to make: it opens nothing until a call.
#[derive(Clone, Debug)]
pub struct Caller {
    plugin_path: Vec<PathBuf>,
    cache_dir: PathBuf,
    bundled: bool,
}

impl Caller {
    /// `plugin_path`: folders of other plugins' executables, searched in order. `cache_dir`:
    /// where the results of ADD are kept (libcni's is `/var/lib/cni`), made if missing.
    pub fn new(plugin_path: Vec<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            plugin_path,
            cache_dir: cache_dir.into(),
            bundled: true,
        }
    }

    /// Runs executables even where we have a plugin of that name.
    pub fn without_bundled(mut self) -> Self {
        self.bundled = false;
        self
    }

    /// Attaches: runs ADD of each plugin in order. After a failure the DEL of all has run.
    pub fn add(&self, list: &NetworkConfigList, to: &Attachment) -> Result<CniResult, Error> {
        let _ = (list, to, self.bundled, &self.plugin_path, &self.cache_dir);
        unimplemented!()
    }

    /// Takes off: DEL of each plugin in reverse. Not being attached is a success; so is a
    /// namespace that has gone. Arguments left out (`capabilities`, `args`) come from the cache.
    pub fn del(&self, list: &NetworkConfigList, from: &Attachment) -> Result<(), Error> {
        let _ = (list, from);
        unimplemented!()
    }

    /// Compares what is there with what ADD returned.
    pub fn check(&self, list: &NetworkConfigList, of: &Attachment) -> Result<(), Error> {
        let _ = (list, of);
        unimplemented!()
    }

    /// Frees all that belongs to no attachment in `valid`. Must not run beside `add` or `del`
    /// on the same network.
    pub fn gc(&self, list: &NetworkConfigList, valid: &[ValidAttachment]) -> Result<(), Error> {
        let _ = (list, valid);
        unimplemented!()
    }

    /// Whether every plugin could serve an ADD now.
    pub fn status(&self, list: &NetworkConfigList) -> Result<(), Error> {
        let _ = list;
        unimplemented!()
    }
}
