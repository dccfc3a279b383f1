//! What each layer of an image adds, changes and takes away, read off its tar: nothing is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};

use corten_spec::Digest;
use corten_store::ImageRecord;

use super::ImageError;
use super::copy::files::unpack;
use super::tar::Kind;
use super::tar::read::{Forward, Member, Members, TarError};
use crate::Engine;
use crate::error::Error;

/// Entries of one layer; the store has the same bound.
const ENTRIES_MAX: usize = 8_000_000;
/// Bytes of all paths of an image, which are in memory at once.
const PATHS_MAX: usize = 1 << 30;

/// What happened to a path, in docker's letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Changed,
    Deleted,
}

impl Change {
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// One layer and what it did.
#[derive(Clone, Debug)]
pub struct LayerChanges {
    pub digest: Digest,
    pub diff_id: Digest,
    /// By path, which begins with a slash. Bytes of a file's content; none for others.
    pub changes: Vec<(Change, Vec<u8>, u64)>,
}

impl Engine {
    /// The changes of each layer, bottom first. A folder that is merely named again counts as changed, for what it
    /// looks like may be.
    pub fn image_changes(&self, record: &ImageRecord) -> Result<Vec<LayerChanges>, Error> {
        // Nobody removes the blobs while they are read.
        let lease = self.store.lease("diff")?;
        let mut tree = Tree::default();
        let mut found = Vec::new();
        for layer in &record.layers {
            lease.hold_blob(&layer.digest)?;
            let path = self.store.blob_path(&layer.digest);
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            let name = layer.digest.to_string();
            let stream = unpack(BufReader::with_capacity(128 << 10, file));
            let stream = stream.map_err(Error::io("unpack", &path))?;
            let changes = tree.apply(stream).map_err(|e| match e {
                TarError::Read(source) => Error::io("read", &path)(source),
                form => ImageError::Archive {
                    archive: name,
                    why: form.to_string(),
                }
                .into(),
            })?;
            found.push(LayerChanges {
                digest: layer.digest.clone(),
                diff_id: layer.diff_id.clone(),
                changes,
            });
        }
        Ok(found)
    }
}

/// The paths that the layers so far have left.
#[derive(Default)]
struct Tree {
    paths: BTreeSet<Vec<u8>>,
    /// Of the paths of all layers so far.
    bytes: usize,
}

impl Tree {
    fn apply(&mut self, tar: impl Read) -> Result<Vec<(Change, Vec<u8>, u64)>, TarError> {
        let mut members = Members::new(Forward(tar));
        let mut new: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut hidden = Vec::new();
        while let Some(member) = members.next()? {
            self.bytes += member.path.len();
            if new.len() + hidden.len() > ENTRIES_MAX || self.bytes > PATHS_MAX {
                return Err(TarError::Form {
                    offset: member.offset,
                    why: "there are more entries than can be compared",
                });
            }
            match meaning(&member) {
                Meaning::Makes(path) => {
                    new.insert(path, member.size);
                }
                Meaning::Hides(path) => hidden.push((path, true)),
                Meaning::HidesContents(path) => hidden.push((path, false)),
                Meaning::Nothing => {}
            }
        }
        let mut changes = Vec::new();
        for (path, itself) in hidden {
            // A path that the same layer brings again has changed; what was below it went, each for itself.
            let gone = self.remove(&path, itself && !new.contains_key(&path));
            let gone = gone.into_iter().filter(|p| !new.contains_key(p));
            changes.extend(gone.map(|p| (Change::Deleted, p, 0)));
        }
        for (path, size) in new {
            let change = match self.paths.insert(path.clone()) {
                true => Change::Added,
                false => Change::Changed,
            };
            changes.push((change, path, size));
        }
        changes.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(changes)
    }

    /// Takes a path away, or only what is below it. What is told is the top of what went.
    fn remove(&mut self, path: &[u8], itself: bool) -> Vec<Vec<u8>> {
        let prefix = match path {
            b"/" => path.to_vec(),
            _ => [path, b"/"].concat(),
        };
        let from = prefix.clone();
        let below = self
            .paths
            .range(from..)
            .take_while(|p| p.starts_with(&prefix));
        let below: Vec<Vec<u8>> = below.cloned().collect();
        for p in &below {
            self.paths.remove(p);
        }
        if itself {
            self.paths.remove(path);
            return vec![path.to_vec()];
        }
        let depth = |p: &[u8]| p[prefix.len()..].contains(&b'/');
        below.into_iter().filter(|p| !depth(p)).collect()
    }
}

enum Meaning {
    Makes(Vec<u8>),
    Hides(Vec<u8>),
    HidesContents(Vec<u8>),
    Nothing,
}

/// As the OCI Image Specification has it, "Whiteouts".
fn meaning(member: &Member) -> Meaning {
    let path = clean(&member.path);
    let cut = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    let (folder, name) = (&path[..cut.max(1)], &path[cut + 1..]);
    if name == b".wh..wh..opq" {
        return Meaning::HidesContents(folder.to_vec());
    }
    if path
        .split(|&b| b == b'/')
        .any(|p| p.starts_with(b".wh..wh."))
        || path == b"/"
    {
        return Meaning::Nothing;
    }
    match name.strip_prefix(b".wh.") {
        Some(hidden) if cut == 0 => Meaning::Hides([b"/", hidden].concat()),
        Some(hidden) => Meaning::Hides([folder, b"/", hidden].concat()),
        None if member.kind == Kind::Char && member.is_null_device => Meaning::Hides(path),
        None => Meaning::Makes(path),
    }
}

/// With a slash before, and none doubled or behind.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path
        .split(|&b| b == b'/')
        .filter(|p| !matches!(*p, b"" | b"."));
    let mut out = Vec::new();
    for part in parts {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    match out.is_empty() {
        true => b"/".to_vec(),
        false => out,
    }
}

/// A stranger's bytes as two layers, and their members in an archive that can be sought.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut tree = Tree::default();
    let first = tree.apply(bytes);
    let second = tree.apply(bytes);
    assert_eq!(first.is_ok(), second.is_ok());
    let mut members = Members::new(std::io::Cursor::new(bytes));
    let mut at = 0;
    while let Ok(Some(member)) = members.next() {
        assert!(member.offset > at, "it goes on");
        at = member.offset;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tar::write::{Entry, Writer};
    use super::*;

    fn layer(paths: &[&str]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for path in paths {
            let entry = Entry {
                kind: if path.ends_with('/') {
                    Kind::Folder
                } else {
                    Kind::File
                },
                ..Entry::file(path.as_bytes(), 0)
            };
            writer.entry(&entry, &mut [].as_slice()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[track_caller]
    fn step(tree: &mut Tree, paths: &[&str]) -> String {
        let changes = tree.apply(layer(paths).as_slice()).unwrap();
        let line = |(c, p, _): &(Change, Vec<u8>, u64)| {
            format!("{} {}", c.letter(), String::from_utf8_lossy(p))
        };
        changes.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn layers_build_on_each_other() {
        let mut tree = Tree::default();
        assert_eq!(
            step(&mut tree, &["./", "a/", "a/x", "a/y", "b"]),
            "A /a, A /a/x, A /a/y, A /b"
        );
        assert_eq!(
            step(&mut tree, &["a/x", "a/.wh.y", "c"]),
            "C /a/x, D /a/y, A /c"
        );
        assert_eq!(step(&mut tree, &["a/y"]), "A /a/y");
        assert_eq!(
            step(&mut tree, &["a/", "a/.wh..wh..opq", "a/z"]),
            "C /a, D /a/x, D /a/y, A /a/z"
        );
        assert_eq!(step(&mut tree, &[".wh.a", "b"]), "D /a, C /b");
        assert_eq!(step(&mut tree, &["a/z", ".wh.c", "c"]), "A /a/z, C /c");
    }
}
