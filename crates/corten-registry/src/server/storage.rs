//! Repositories on disk. Blocking; callers bring their own thread.
//!
//! ```text
//!  lock                                       held while a server runs
//!  uploads/ID                                 what is not yet anything; emptied at start
//!  blobs/ALGORITHM/HEX                        content, of blobs and manifests, once for all repositories
//!  repositories/NAME/_blobs/ALGORITHM/HEX     NAME has this blob (empty file)
//!                   /_manifests/ALGORITHM/HEX NAME has this manifest; holds its media type
//!                   /_tags/TAG                holds a digest
//!                   /_referrers/A/HEX/A:HEX   the first manifest is the subject of the second; holds a descriptor
//! ```
//!
//! A repository's components start with a letter or digit, so the `_` names are free. Everything is
//! written to `uploads/`, synced and renamed, content before what names it: after a crash each name is
//! there whole, or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use corten_spec::Digest;
use corten_spec::reference::is_repository;

use super::ServerError;

/// What a repository's link is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Blob,
    Manifest,
}

impl Of {
    fn folder(self) -> &'static str {
        match self {
            Self::Blob => "_blobs",
            Self::Manifest => "_manifests",
        }
    }
}

pub(super) struct Storage {
    root: PathBuf,
    /// Taken while links are made or removed, so that content is not unlinked between the check that nothing needs it and a new link to it.
    links: Mutex<()>,
    /// The lock ends with the descriptor, and so with the process.
    _lock: File,
}

type Result<T> = std::result::Result<T, ServerError>;

fn at<T>(doing: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| ServerError::Storage {
        doing,
        path: path.to_owned(),
        source,
    })
}

/// `None` where nothing is there.
fn optional<T>(doing: &'static str, path: &Path, result: io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => at(doing, path, Err(e)),
    }
}

impl Storage {
    pub fn open(root: &Path) -> Result<Self> {
        for folder in ["uploads", "blobs", "repositories"] {
            let path = root.join(folder);
            at("create", &path, fs::create_dir_all(&path))?;
        }
        let path = root.join("lock");
        let lock = at(
            "open",
            &path,
            File::options().create(true).append(true).open(&path),
        )?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(ServerError::InUse {
                    root: root.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(e)) => return at("lock", &path, Err(e)),
        }
        let uploads = root.join("uploads");
        for entry in at("read", &uploads, fs::read_dir(&uploads))? {
            let path = at("read", &uploads, entry)?.path();
            at("remove", &path, fs::remove_file(&path))?;
        }
        Ok(Self {
            root: root.to_owned(),
            links: Mutex::new(()),
            _lock: lock,
        })
    }

    pub fn upload(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(id)
    }

    pub fn content(&self, digest: &Digest) -> PathBuf {
        let algorithm = digest.algorithm().as_str();
        self.root.join("blobs").join(algorithm).join(digest.hex())
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.root.join("repositories").join(name)
    }

    fn link_path(&self, name: &str, of: Of, digest: &Digest) -> PathBuf {
        let folder = self.repository(name).join(of.folder());
        folder.join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// It guards nothing but an order, so a panic under it leaves nothing broken.
    fn links(&self) -> MutexGuard<'_, ()> {
        self.links.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Makes a synced upload the content of `digest`, which it was checked against, and links it into the repository.
    pub fn commit(
        &self,
        upload: &Path,
        name: &str,
        of: Of,
        digest: &Digest,
        link: &[u8],
    ) -> Result<()> {
        let _order = self.links();
        let content = self.content(digest);
        self.make_folder(&content)?;
        at("rename", upload, fs::rename(upload, &content))?;
        sync_folder_of(&content)?;
        self.place(&self.link_path(name, of, digest), link)
    }

    /// Links content that is there already; `false` where it is not (any more).
    pub fn link(&self, name: &str, digest: &Digest) -> Result<bool> {
        let _order = self.links();
        if self.size(digest)?.is_none() {
            return Ok(false);
        }
        self.place(&self.link_path(name, Of::Blob, digest), b"")?;
        Ok(true)
    }

    /// What the repository's link holds, if it has this blob or manifest.
    pub fn linked(&self, name: &str, of: Of, digest: &Digest) -> Result<Option<String>> {
        let path = self.link_path(name, of, digest);
        optional("read", &path, fs::read_to_string(&path))
    }

    /// The size of content, in bytes.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.content(digest);
        Ok(optional("look at", &path, fs::metadata(&path))?.map(|m| m.len()))
    }

    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.content(digest);
        optional("read", &path, fs::read(&path))
    }

    /// Takes a blob or manifest from a repository, and the content with its last user. `false`: it was not there.
    pub fn unlink(&self, name: &str, of: Of, digest: &Digest) -> Result<bool> {
        let _order = self.links();
        let path = self.link_path(name, of, digest);
        if optional("remove", &path, fs::remove_file(&path))?.is_none() {
            return Ok(false);
        }
        sync_folder_of(&path)?;
        for other in self.repositories()? {
            let used = |of| self.link_path(&other, of, digest).exists();
            if used(Of::Blob) || used(Of::Manifest) {
                return Ok(true);
            }
        }
        let content = self.content(digest);
        optional("remove", &content, fs::remove_file(&content))?;
        Ok(true)
    }

    pub fn set_tag(&self, name: &str, tag: &str, digest: &Digest) -> Result<()> {
        let path = self.repository(name).join("_tags").join(tag);
        self.place(&path, digest.to_string().as_bytes())
    }

    pub fn tag(&self, name: &str, tag: &str) -> Result<Option<Digest>> {
        let path = self.repository(name).join("_tags").join(tag);
        let Some(text) = optional("read", &path, fs::read_to_string(&path))? else {
            return Ok(None);
        };
        let parsed = text
            .trim()
            .parse()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        at("understand", &path, parsed).map(Some)
    }

    pub fn remove_tag(&self, name: &str, tag: &str) -> Result<bool> {
        let path = self.repository(name).join("_tags").join(tag);
        let removed = optional("remove", &path, fs::remove_file(&path))?.is_some();
        if removed {
            sync_folder_of(&path)?;
        }
        Ok(removed)
    }

    /// The repository's tags, sorted; `None` where there is no such repository.
    pub fn tags(&self, name: &str) -> Result<Option<Vec<String>>> {
        let folder = self.repository(name);
        if !is_kept(&folder) {
            return Ok(None);
        }
        Ok(Some(names(&folder.join("_tags"))?))
    }

    pub fn add_referrer(
        &self,
        name: &str,
        subject: &Digest,
        by: &Digest,
        descriptor: &[u8],
    ) -> Result<()> {
        self.place(
            &self.referrers_of(name, subject).join(by.to_string()),
            descriptor,
        )
    }

    pub fn remove_referrer(&self, name: &str, subject: &Digest, by: &Digest) -> Result<()> {
        let path = self.referrers_of(name, subject).join(by.to_string());
        optional("remove", &path, fs::remove_file(&path)).map(drop)
    }

    /// The descriptors of what refers to a manifest.
    pub fn referrers(&self, name: &str, subject: &Digest) -> Result<Vec<Vec<u8>>> {
        let folder = self.referrers_of(name, subject);
        let mut out = Vec::new();
        for file in names(&folder)? {
            let path = folder.join(file);
            out.extend(optional("read", &path, fs::read(&path))?);
        }
        Ok(out)
    }

    fn referrers_of(&self, name: &str, subject: &Digest) -> PathBuf {
        let folder = self.repository(name).join("_referrers");
        folder
            .join(subject.algorithm().as_str())
            .join(subject.hex())
    }

    /// All repositories that hold anything, sorted.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let top = self.root.join("repositories");
        let mut out = Vec::new();
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            let folder = top.join(&prefix);
            for name in names(&folder)? {
                let full = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}/{name}")
                };
                if !is_repository(&full) {
                    continue;
                }
                if is_kept(&top.join(&full)) {
                    out.push(full.clone());
                }
                open.push(full);
            }
        }
        out.sort();
        Ok(out)
    }

    /// Writes a small file whole or not at all.
    fn place(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if fs::read(path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        self.make_folder(path)?;
        let temporary = self.upload(&format!("place-{}", super::upload::random_id()));
        let written = File::create_new(&temporary).and_then(|mut f| {
            f.write_all(bytes)?;
            f.sync_all()
        });
        at("write", &temporary, written)?;
        at("rename", &temporary, fs::rename(&temporary, path))?;
        sync_folder_of(path)
    }

    /// Makes the folder that `path` is to lie in; each new name on the way is synced.
    fn make_folder(&self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|p| !p.exists())
            .collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return at("create", folder, Err(e));
                }
                _ => sync_folder_of(folder)?,
            }
        }
        Ok(())
    }
}

fn is_kept(folder: &Path) -> bool {
    ["_manifests", "_blobs"]
        .iter()
        .any(|l| folder.join(l).is_dir())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let Some(entries) = optional("read", folder, fs::read_dir(folder))? else {
        return Ok(Vec::new());
    };
    let mut out = Vec::new();
    for entry in entries {
        // A name of ours is ASCII; what is not ours is left alone.
        out.extend(at("read", folder, entry)?.file_name().into_string());
    }
    out.sort();
    Ok(out)
}

/// A rename is durable once its folder is (fsync(2)).
fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    at(
        "sync",
        folder,
        File::open(folder).and_then(|f| f.sync_all()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(s: &Storage, name: &str, of: Of, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = s.upload("x");
        fs::write(&path, bytes).unwrap();
        s.commit(&path, name, of, &digest, b"type").unwrap();
        digest
    }

    #[test]
    fn content_goes_with_its_last_user() {
        let dir = tempfile::tempdir().unwrap();
        let s = Storage::open(dir.path()).unwrap();
        let d = put(&s, "a", Of::Blob, b"hello");
        assert!(s.link("b/c", &d).unwrap());
        assert_eq!(s.repositories().unwrap(), ["a", "b/c"]);
        assert!(s.unlink("a", Of::Blob, &d).unwrap());
        assert_eq!(s.size(&d).unwrap(), Some(5));
        assert!(s.unlink("b/c", Of::Blob, &d).unwrap());
        assert_eq!(s.size(&d).unwrap(), None);
        assert!(!s.unlink("b/c", Of::Blob, &d).unwrap());
        assert!(!s.link("b/c", &d).unwrap());
    }

    #[test]
    fn a_crash_leaves_only_uploads_which_go_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let d = {
            let s = Storage::open(dir.path()).unwrap();
            fs::write(s.upload("half"), "x").unwrap();
            let d = put(&s, "a", Of::Manifest, b"m");
            s.set_tag("a", "v1", &d).unwrap();
            assert!(matches!(
                Storage::open(dir.path()),
                Err(ServerError::InUse { .. })
            ));
            d
        };
        let s = Storage::open(dir.path()).unwrap();
        assert!(!s.upload("half").exists());
        assert_eq!(s.tag("a", "v1").unwrap(), Some(d.clone()));
        assert_eq!(
            s.linked("a", Of::Manifest, &d).unwrap().as_deref(),
            Some("type")
        );
        assert_eq!(s.linked("a", Of::Blob, &d).unwrap(), None);
        assert_eq!(s.tags("none").unwrap(), None);
    }
}
