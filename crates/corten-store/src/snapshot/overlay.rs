//! Snapshots as overlays: `snapshots/KEY/{fs,work}` over the layers, be they folders or mounted images.

use std::fs::DirBuilder;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{RootMount, Snapshotter, Usage, attach, check_key, settle};
use crate::collect::{trash, usage};
use crate::error::{Error, Result};
use crate::layer::attributes::{self, Attributes};
use crate::layer::{Form, LayerId};
use crate::metadata::layer::{self as rows, LayerRow};
use crate::metadata::{int, now};
use crate::store::{Store, open_folder};

const NAME: &str = "overlay";

/// An overlay without a lower folder is refused, so a snapshot of no layers has an empty one.
const NO_LAYERS: &str = "lower";

/// What the kernel takes (OVL_MAX_STACK).
const MOST_LAYERS: usize = 500;

/// Snapshots as folders under the kernel's overlay filesystem. Cheap to clone.
#[derive(Clone)]
pub struct Overlay {
    pub(super) store: Store,
}

impl Overlay {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) fn folder(&self, key: &str) -> PathBuf {
        self.store.folder("snapshots").join(key)
    }

    /// Row and folder in one transaction: nobody ever sees the one without the other. A kill in its middle
    /// leaves a folder without a row, which is garbage.
    fn insert(&self, key: &str, layers: &[LayerId], stack: &[LayerRow]) -> Result<()> {
        let op = "insert a snapshot";
        self.store.db().write(op, |t| {
            if exists(t, key)? {
                return Err(Error::AlreadyExists {
                    what: "snapshot key",
                    name: key.into(),
                    by: "a snapshot".into(),
                });
            }
            t.execute(
                "INSERT INTO snapshot (key, driver, added) VALUES (?1, ?2, ?3)",
                params![key, NAME, now()],
            )
            .map_err(Error::db(op))?;
            let mut q = t
                .prepare("INSERT INTO snapshot_layer (key, position, layer) VALUES (?1, ?2, ?3)")
                .map_err(Error::db(op))?;
            for (position, layer) in layers.iter().enumerate() {
                // The layer was there a moment ago; it may have been collected since.
                if rows::get(t, layer).map_err(Error::db(op))?.is_none() {
                    return Err(rows::missing(layer));
                }
                q.execute(params![key, int(position as u64), layer.as_str()])
                    .map_err(Error::db(op))?;
            }
            // What a kill or a power cut may have left of an earlier one.
            trash::put(&self.store, &self.folder(key))?;
            let stack = rows::again(t, stack)?;
            attach::attach(&self.store, &stack)?;
            self.make(key, &stack)
        })
    }

    /// The stack, sound and mountable: what a power cut has damaged is mended, and images that this kernel cannot mount (it was replaced by
    /// an older one, say) become folders.
    fn sound(&self, layers: &[LayerId]) -> Result<Vec<LayerRow>> {
        let stack = settle::trees(&self.store, layers)?;
        if settle::mend(&self.store, &stack)? {
            return settle::trees(&self.store, layers);
        }
        Ok(stack)
    }

    /// Runs `work` on the stack; once more, if an image of it could not be mounted and can be made anew.
    fn with_stack<T>(
        &self,
        layers: &[LayerId],
        work: impl Fn(&[LayerRow]) -> Result<T>,
    ) -> Result<T> {
        let stack = self.sound(layers)?;
        match work(&stack) {
            Err(e @ Error::Mount { .. }) => match self.give_up_images(&stack)? {
                true => work(&self.sound(layers)?),
                false => Err(e),
            },
            other => other,
        }
    }

    /// Has the images of a stack made anew when they are next looked at: all, where this kernel mounts none; else those that are not what was
    /// written. `false`, and nothing was changed, where they all are, and where there is nothing to make one from: it is good again under the
    /// kernel that it was made for.
    fn give_up_images(&self, stack: &[LayerRow]) -> Result<bool> {
        let mut images = Vec::new();
        for row in stack.iter().filter(|r| r.form != Form::Folders) {
            if self.store.form() == Form::Folders || !row.prove(&self.store)? {
                images.push(row);
            }
        }
        if images.is_empty() {
            return Ok(false);
        }
        for row in &images {
            let blobs = rows::blobs(&self.store, &row.id)?;
            if !blobs.iter().any(|(b, _)| self.store.blob_path(b).exists()) {
                return Ok(false);
            }
        }
        for row in images {
            rows::distrust(&self.store, &row.id)?;
        }
        Ok(true)
    }

    fn make(&self, key: &str, stack: &[LayerRow]) -> Result<()> {
        let folder = self.folder(key);
        let root = self.root_attributes(stack)?;
        let mut names = vec!["", "fs", "work"];
        if stack.is_empty() {
            names.push(NO_LAYERS);
        }
        for path in names.iter().map(|name| folder.join(name)) {
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(Error::io("create folder", &path))?;
        }
        let path = folder.join("fs");
        let fd = open_folder(&path).map_err(Error::io("open folder", &path))?;
        attributes::set_open(&fd, &root)
            .and_then(|()| rustix::fs::futimens(&fd, &attributes::times(root.mtime)))
            .map_err(Error::io("set the attributes of", &path))
    }

    /// The root of an overlay looks as its upper folder does, so that takes the looks of the topmost layer that says any.
    fn root_attributes(&self, stack: &[LayerRow]) -> Result<Attributes> {
        let Some(layer) = stack.iter().find(|l| l.names_root) else {
            return Ok(Attributes::IMPLIED);
        };
        let root = attach::open(&self.store, layer)?;
        let path = self.store.layer_tree(&layer.id);
        Attributes::of(root.as_fd(), b"").map_err(Error::io("read the attributes of", &path))
    }

    fn recipe(&self, key: &str, stack: &[LayerRow]) -> RootMount {
        let folder = self.folder(key);
        let mut lower: Vec<String> = stack
            .iter()
            .map(|l| text(&self.store.layer_tree(&l.id)))
            .collect();
        if lower.is_empty() {
            lower.push(text(&folder.join(NO_LAYERS)));
        }
        RootMount {
            fstype: NAME.into(),
            source: NAME.into(),
            options: vec![
                format!("lowerdir={}", lower.join(":")),
                format!("upperdir={}", text(&folder.join("fs"))),
                format!("workdir={}", text(&folder.join("work"))),
            ],
        }
    }

    /// The settled layers of a snapshot, bottom first.
    pub(super) fn layers(&self, key: &str) -> Result<Vec<LayerId>> {
        check_key(key)?;
        let (known, layers) = self.store.db().read("look up a snapshot", |c| {
            let known = c
                .query_row("SELECT 1 FROM snapshot WHERE key = ?1", [key], |_| Ok(()))
                .optional()?;
            let mut q =
                c.prepare("SELECT layer FROM snapshot_layer WHERE key = ?1 ORDER BY position")?;
            let layers = q
                .query_map([key], |r| crate::metadata::parsed(r, 0))?
                .collect::<rusqlite::Result<Vec<LayerId>>>()?;
            Ok((known.is_some(), layers))
        })?;
        match known {
            true => Ok(layers),
            false => Err(missing(key)),
        }
    }
}

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        self.store.layers().name()
    }

    fn prepare(&self, key: &str, layers: &[LayerId]) -> Result<RootMount> {
        check_key(key)?;
        let (layers, _lease) = settle::settle(&self.store, layers)?;
        let stack = settle::trees(&self.store, &layers)?;
        if stack.len() > MOST_LAYERS {
            return Err(Error::Invalid {
                what: "snapshot",
                text: key.into(),
                why: "it has more than 500 layers, which is all that an overlay can have",
            });
        }
        let made = self.with_stack(&layers, |stack| {
            self.insert(key, &layers, stack)?;
            Ok(self.recipe(key, stack))
        });
        match made {
            Ok(recipe) => Ok(recipe),
            Err(e @ Error::AlreadyExists { .. }) => Err(e),
            Err(e) => {
                // The first failure is the one to tell; what this leaves has no owner, and is collected.
                let _ = trash::put(&self.store, &self.folder(key));
                Err(e)
            }
        }
    }

    fn mounts(&self, key: &str) -> Result<RootMount> {
        self.with_stack(&self.layers(key)?, |stack| {
            if !attach::is_attached(&self.store, stack)? {
                self.store.db().write("mount layers", |t| {
                    // Whoever removes the snapshot meanwhile unmounts them.
                    match exists(t, key)? {
                        true => attach::attach(&self.store, &rows::again(t, stack)?),
                        false => Err(missing(key)),
                    }
                })?;
            }
            Ok(self.recipe(key, stack))
        })
    }

    fn remove(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let op = "remove a snapshot";
        self.store.db().write(op, |t| {
            if !exists(t, key)? {
                return Err(missing(key));
            }
            let images = rows::images_of(t, key).map_err(Error::db(op))?;
            t.execute("DELETE FROM snapshot WHERE key = ?1", [key])
                .map_err(Error::db(op))?;
            attach::release(&self.store, t, &images)
        })?;
        // The row has gone first, and for good: a kill from here on leaves a folder without one, which is garbage. In a transaction of its
        // own, since somebody may have taken the key again.
        self.store.db().write(op, |t| {
            if !exists(t, key)? {
                trash::put(&self.store, &self.folder(key))?;
            }
            Ok(())
        })
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.layers(key)?;
        usage::of(&self.folder(key).join("fs"))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.store.db().read("list the snapshots", |c| {
            let mut q = c.prepare("SELECT key FROM snapshot WHERE driver = ?1 ORDER BY key")?;
            q.query_map([NAME], |r| r.get(0))?.collect()
        })
    }
}

fn exists(t: &Transaction<'_>, key: &str) -> Result<bool> {
    t.query_row("SELECT 1 FROM snapshot WHERE key = ?1", [key], |_| Ok(()))
        .optional()
        .map(|row| row.is_some())
        .map_err(Error::db("look up a snapshot"))
}

fn missing(key: &str) -> Error {
    Error::NotFound {
        what: "snapshot",
        name: key.into(),
    }
}

/// The store's root was checked to be UTF-8, and we make all names below it.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{LayerChoice, Packing};
    use crate::snapshot::conformance::{archive::Archive, layer};
    use crate::store::Options;

    /// The stack was looked up, and then another process gave a layer another form. What the row says now is what is mounted.
    #[test]
    fn a_layer_that_became_an_image_meanwhile_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            layers: LayerChoice::Erofs(Packing::Tar),
            ..Options::default()
        };
        let store = Store::open_with(&folder.path().join("root"), options).unwrap();
        let lease = store.lease("test").unwrap();
        lease.hold_snapshot("k").unwrap();
        let tar = Archive::new().folder("./").file("a", "a").finish();
        let layers = [layer(&store, &lease, &tar).unwrap()];
        let mut stack = settle::trees(&store, &layers).unwrap();
        stack[0].form = Form::Folders;
        let overlay = store.snapshotter();
        overlay.insert("k", &layers, &stack).unwrap();
        assert!(store.layer_tree(&layers[0]).join("a").exists());
        overlay.remove("k").unwrap();
    }
}
