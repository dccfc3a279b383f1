//! What is on disk and has no row.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rusqlite::{OptionalExtension as _, Transaction};

use super::trash;
use crate::content::partial::Partial;
use crate::error::{Error, Result};
use crate::snapshot::attach;
use crate::store::Store;

/// Something without an owner.
pub(crate) struct Orphan {
    pub sort: Sort,
    pub path: PathBuf,
    /// Keeps others from taking up a partial blob that is about to go.
    lock: Option<Rc<Partial>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Blob,
    Layer,
    Snapshot,
    /// A partial blob or a half-written tree whose writer is gone.
    Partial,
}

impl Orphan {
    /// Moves it to the trash.
    pub fn remove(self, store: &Store) -> Result<()> {
        if self.sort == Sort::Layer {
            attach::detach(&self.path)?;
        }
        let moved = trash::put(store, &self.path);
        drop(self.lock);
        moved.map(|_| ())
    }
}

/// All of them. The transaction keeps others from publishing meanwhile.
pub(crate) fn orphans(store: &Store, t: &Transaction<'_>) -> Result<Vec<Orphan>> {
    let mut out = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        let folder = store.folder("blobs").join(algorithm);
        unowned(
            t,
            "SELECT 1 FROM blob WHERE digest = ?1",
            &folder,
            |hex| format!("{algorithm}:{hex}"),
            Sort::Blob,
            &mut out,
        )?;
    }
    let layer = "SELECT 1 FROM layer WHERE id = ?1";
    let layers = store.folder("layers");
    unowned(t, layer, &layers, str::to_owned, Sort::Layer, &mut out)?;
    out.extend(lost_snapshots(store, t)?);
    abandoned(&store.folder("ingest"), &mut out)?;
    Ok(out)
}

/// Of these, the folders of snapshots.
pub(crate) fn lost_snapshots(store: &Store, t: &Transaction<'_>) -> Result<Vec<Orphan>> {
    let mut out = Vec::new();
    let snapshot = "SELECT 1 FROM snapshot WHERE key = ?1";
    let snapshots = store.folder("snapshots");
    unowned(
        t,
        snapshot,
        &snapshots,
        str::to_owned,
        Sort::Snapshot,
        &mut out,
    )?;
    Ok(out)
}

fn unowned(
    t: &Transaction<'_>,
    sql: &str,
    folder: &Path,
    key: impl Fn(&str) -> String,
    sort: Sort,
    out: &mut Vec<Orphan>,
) -> Result<()> {
    let mut q = t.prepare(sql).map_err(Error::db("look up an owner"))?;
    for path in list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owned = q
            .query_row([key(&name)], |_| Ok(()))
            .optional()
            .map_err(Error::db("look up an owner"))?;
        if owned.is_none() {
            let lock = None;
            out.push(Orphan { sort, path, lock });
        }
    }
    Ok(())
}

/// A partial blob is at work as long as somebody has its lock, and its tree as long as it is.
fn abandoned(folder: &Path, out: &mut Vec<Orphan>) -> Result<()> {
    let mut groups: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in list(folder)? {
        groups
            .entry(path.with_extension(""))
            .or_default()
            .push(path);
    }
    for (bytes, paths) in groups {
        let lock = Partial::try_lock(&bytes)?.map(Rc::new);
        if lock.is_none() && bytes.exists() {
            continue;
        }
        out.extend(paths.into_iter().map(|path| Orphan {
            sort: Sort::Partial,
            path,
            lock: lock.clone(),
        }));
    }
    Ok(())
}

/// Folders of layers whose image is mounted though no snapshot has it.
pub(crate) fn stray_mounts(store: &Store, t: &Transaction<'_>) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in list(&store.folder("layers"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if attach::is_mounted(&path.join("fs"))?
            && !attach::is_used(t, &name).map_err(Error::db("look up the users of a layer"))?
        {
            out.push(path);
        }
    }
    Ok(out)
}

/// What is in a folder; nothing, if it is not there.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", folder))?,
    };
    let mut out = entries
        .map(|e| e.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::io("list", folder))?;
    out.sort();
    Ok(out)
}
