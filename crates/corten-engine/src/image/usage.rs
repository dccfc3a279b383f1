//! What images and the writable parts of containers occupy on disk, measured often and cheaply.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use corten_spec::Kind;
use corten_store::Usage;

use crate::Engine;
use crate::error::Error;

/// Disk blocks in bytes, and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Blobs, layers, and rests of pulls.
    pub images: Usage,
    /// What containers have written.
    pub containers: Usage,
}

/// Measures, and remembers what cannot change: a layer, once it has its name, stays as it is.
#[derive(Debug, Default)]
pub struct Gauge {
    layers: HashMap<OsString, Usage>,
}

impl Gauge {
    /// Looks at every file but those of layers that it knows. Containers may write meanwhile.
    pub fn measure(&mut self, engine: &Engine) -> Result<Occupied, Error> {
        let root = engine.paths().root();
        let mut images = self.layers(&root.join("layers"))?;
        for folder in ["blobs", "ingest"] {
            images = sum(images, folder_usage(&root.join(folder))?);
        }
        let containers = folder_usage(&root.join("snapshots"))?;
        Ok(Occupied { images, containers })
    }

    fn layers(&mut self, folder: &Path) -> Result<Usage, Error> {
        let mut known = HashMap::new();
        let mut total = Usage::default();
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name();
            let usage = match self.layers.get(&name) {
                Some(usage) => *usage,
                None => folder_usage(&entry.path())?,
            };
            total = sum(total, usage);
            known.insert(name, usage);
        }
        self.layers = known;
        Ok(total)
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        bytes: a.bytes.saturating_add(b.bytes),
        inodes: a.inodes.saturating_add(b.inodes),
    }
}

/// What went while we came occupies nothing.
fn folder_usage(path: &Path) -> Result<Usage, Error> {
    match Usage::of(path) {
        Ok(usage) => Ok(usage),
        Err(corten_store::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(Usage::default())
        }
        Err(e) if e.kind() == Kind::NotFound => Ok(Usage::default()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Paths;

    #[test]
    fn layers_are_measured_once_and_what_containers_write_always() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let paths = Paths::new(at("root"), at("run"), at("etc"));
        let engine = Engine::open(paths).unwrap();
        let write = |path: &str, bytes: usize| {
            let path = at("root").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; bytes]).unwrap();
        };
        let mut gauge = Gauge::default();
        let empty = gauge.measure(&engine).unwrap();
        write("layers/a/data", 100_000);
        write("blobs/sha256/b", 50_000);
        write("snapshots/c/fs/d", 30_000);
        let first = gauge.measure(&engine).unwrap();
        let grown = |a: Usage, b: Usage| (b.bytes - a.bytes) / 1000;
        assert!(
            (150..200).contains(&grown(empty.images, first.images)),
            "{first:?}"
        );
        assert!(
            (30..60).contains(&grown(empty.containers, first.containers)),
            "{first:?}"
        );
        assert!(first.images.inodes >= empty.images.inodes + 3, "{first:?}");

        write("layers/a/data", 900_000);
        write("snapshots/c/fs/d", 300_000);
        let second = gauge.measure(&engine).unwrap();
        assert_eq!(
            second.images, first.images,
            "a layer is not looked at again"
        );
        assert!(
            grown(first.containers, second.containers) > 200,
            "{second:?}"
        );

        fs::remove_dir_all(at("root/layers/a")).unwrap();
        let third = gauge.measure(&engine).unwrap();
        assert!(grown(third.images, second.images) >= 100, "{third:?}");
        // Another of that name is another one.
        write("layers/a/data", 400_000);
        let fourth = gauge.measure(&engine).unwrap();
        assert!(grown(third.images, fourth.images) >= 400, "{fourth:?}");
    }
}
