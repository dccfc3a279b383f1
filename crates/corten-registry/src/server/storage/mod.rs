//! Repositories on disk. Blocking; callers bring their own thread.
//!
//! ```text
//!  lock                                       held while a server runs
//!  order                                      held while links are made or removed, by a server or a collector
//!  uploads/ID, ID.of                          what is not yet anything, and the repository that it is for
//!  blobs/ALGORITHM/HEX                        content, of blobs and manifests, once for all repositories
//!  repositories/NAME/_blobs/ALGORITHM/HEX     NAME has this blob (empty file)
//!                   /_manifests/ALGORITHM/HEX NAME has this manifest; holds its media type
//!                   /_tags/TAG                holds a digest
//!                   /_referrers/A/HEX/A:HEX   the first manifest is the subject of the second; holds a descriptor
//! ```
//!
//! A repository's components start with a letter or digit, so the `_` names are free. Everything is
//! written to `uploads/`, synced and renamed, content before what names it: after a crash each name is
//! there whole, or not at all. Links change only with the [`Order`] in hand, so what nothing links to may go: by a
//! deletion, or by a collector in this process or another one.

mod names;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use corten_spec::Digest;

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
    /// The file for other processes, the mutex for our own threads.
    order: Mutex<File>,
    /// The lock ends with the descriptor, and so with the process. A collector beside a server has none.
    _lock: Option<File>,
}

/// The right to make and remove links. Content is not unlinked between the check that nothing needs it
/// and a new link to it.
pub(super) struct Order<'a>(MutexGuard<'a, File>);

impl Drop for Order<'_> {
    fn drop(&mut self) {
        // Fails for no file that could be locked; the process's end lets go in any case.
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "cannot let go of the order of links");
        }
    }
}

/// Which of two uses of a link counts as the same one: it is not written down more often.
const USED_AGAIN: Duration = Duration::from_secs(60);

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
    /// For a server: nobody else may serve the folder. Clears what a crash left of its writing.
    pub fn open(root: &Path) -> Result<Self> {
        not_an_engines(root)?;
        make_folders(root)?;
        let path = root.join("lock");
        let lock = lock_file(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(ServerError::InUse {
                    root: root.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(e)) => return at("lock", &path, Err(e)),
        }
        let storage = Self {
            _lock: Some(lock),
            ..Self::join(root)?
        };
        storage.clear_temporaries()?;
        Ok(storage)
    }

    /// For a collector: beside a server, or alone.
    pub fn join(root: &Path) -> Result<Self> {
        not_an_engines(root)?;
        let blobs = root.join("blobs");
        at("look at", &blobs, fs::metadata(&blobs))?;
        Ok(Self {
            root: root.to_owned(),
            order: Mutex::new(lock_file(&root.join("order"))?),
            _lock: None,
        })
    }

    /// What is no upload that could be continued: files that were being placed.
    fn clear_temporaries(&self) -> Result<()> {
        let uploads = self.root.join("uploads");
        for name in names(&uploads)? {
            let id = name.strip_suffix(".of").unwrap_or(&name);
            if !is_upload_id(id) || !uploads.join(id).exists() {
                let path = uploads.join(&name);
                at("remove", &path, fs::remove_file(&path))?;
            }
        }
        Ok(())
    }

    /// Waits for the right to change links.
    pub fn order(&self) -> Result<Order<'_>> {
        // It guards nothing but an order, so a panic under it leaves nothing broken.
        let file = self.order.lock().unwrap_or_else(|p| p.into_inner());
        at("lock", &self.root.join("order"), file.lock())?;
        Ok(Order(file))
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

    /// Makes a synced upload the content of `digest`, which it was checked against, and links it into the repository.
    pub fn commit(
        &self,
        _: &Order<'_>,
        upload: &Path,
        name: &str,
        of: Of,
        digest: &Digest,
        link: &[u8],
    ) -> Result<()> {
        let content = self.content(digest);
        self.make_folder(&content)?;
        at("rename", upload, fs::rename(upload, &content))?;
        sync_folder_of(&content)?;
        let path = self.link_path(name, of, digest);
        self.place(&path, link)?;
        self.use_now(&path)
    }

    /// Links content that is there already; `false` where it is not (any more).
    pub fn link(&self, _: &Order<'_>, name: &str, digest: &Digest) -> Result<bool> {
        if self.size(digest)?.is_none() {
            return Ok(false);
        }
        let path = self.link_path(name, Of::Blob, digest);
        self.place(&path, b"")?;
        self.use_now(&path)?;
        Ok(true)
    }

    /// [`linked`](Self::linked), and written down as used now: who has been told that something is there may build on
    /// it for as long as a collector's grace.
    pub fn used(&self, name: &str, of: Of, digest: &Digest) -> Result<Option<String>> {
        let path = self.link_path(name, of, digest);
        match self.idle(&path)? {
            None => return Ok(None),
            Some(idle) if idle < USED_AGAIN => {}
            // A collector may be about to remove it: whether it has is known once we have the order.
            Some(_) => {
                let _order = self.order()?;
                if self.idle(&path)?.is_some() {
                    self.use_now(&path)?;
                }
            }
        }
        self.linked(name, of, digest)
    }

    fn use_now(&self, link: &Path) -> Result<()> {
        let now = fs::FileTimes::new().set_modified(SystemTime::now());
        let touched = File::options()
            .append(true)
            .open(link)
            .and_then(|f| f.set_times(now));
        at("touch", link, touched)
    }

    /// How long ago a file was written or a link used; `None` where there is none.
    pub fn idle(&self, path: &Path) -> Result<Option<Duration>> {
        let metadata = optional("look at", path, fs::symlink_metadata(path))?;
        Ok(metadata.map(|m| {
            let at = m.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            // In the future, by a clock that was set back: now.
            at.elapsed().unwrap_or_default()
        }))
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

    /// Content to be read, and its size.
    pub fn open_content(&self, digest: &Digest) -> Result<Option<(File, u64)>> {
        let path = self.content(digest);
        let opened = File::open(&path).and_then(|f| Ok((f.metadata()?.len(), f)));
        Ok(optional("open", &path, opened)?.map(|(size, file)| (file, size)))
    }

    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.content(digest);
        optional("read", &path, fs::read(&path))
    }

    /// Takes a blob or manifest from a repository, and the content with its last user. `false`: it was not there.
    pub fn unlink(&self, order: &Order<'_>, name: &str, of: Of, digest: &Digest) -> Result<bool> {
        let gone = self.drop_link(order, name, of, digest)?;
        if gone {
            self.drop_unused(order, digest)?;
        }
        Ok(gone)
    }

    /// Takes a link alone; its content is for [`drop_unused`](Self::drop_unused).
    pub fn drop_link(&self, _: &Order<'_>, name: &str, of: Of, digest: &Digest) -> Result<bool> {
        let path = self.link_path(name, of, digest);
        if optional("remove", &path, fs::remove_file(&path))?.is_none() {
            return Ok(false);
        }
        sync_folder_of(&path)?;
        Ok(true)
    }

    /// Removes content that nothing links to; its size if it went.
    pub fn drop_unused(&self, _: &Order<'_>, digest: &Digest) -> Result<Option<u64>> {
        for name in self.repositories()? {
            let used = |of| self.link_path(&name, of, digest).exists();
            if used(Of::Blob) || used(Of::Manifest) {
                return Ok(None);
            }
        }
        let size = self.size(digest)?;
        let content = self.content(digest);
        optional("remove", &content, fs::remove_file(&content))?;
        Ok(size)
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

/// The engine's blobs lie in a folder of the same form, and no repository of ours names them.
fn not_an_engines(root: &Path) -> Result<()> {
    match root.join("corten.db").exists() {
        true => Err(ServerError::Foreign {
            root: root.to_owned(),
        }),
        false => Ok(()),
    }
}

fn make_folders(root: &Path) -> Result<()> {
    for folder in ["uploads", "blobs", "repositories"] {
        let path = root.join(folder);
        at("create", &path, fs::create_dir_all(&path))?;
    }
    Ok(())
}

fn lock_file(path: &Path) -> Result<File> {
    let opened = File::options().create(true).append(true).open(path);
    at("open", path, opened)
}

/// An upload's id, as we make them.
pub(super) fn is_upload_id(id: &str) -> bool {
    id.len() == 32
        && id
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
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
        let order = s.order().unwrap();
        s.commit(&order, &path, name, of, &digest, b"type").unwrap();
        digest
    }

    #[test]
    fn content_goes_with_its_last_user() {
        let dir = tempfile::tempdir().unwrap();
        let s = Storage::open(dir.path()).unwrap();
        let d = put(&s, "a", Of::Blob, b"hello");
        let order = s.order().unwrap();
        assert!(s.link(&order, "b/c", &d).unwrap());
        assert_eq!(s.repositories().unwrap(), ["a", "b/c"]);
        assert!(s.unlink(&order, "a", Of::Blob, &d).unwrap());
        assert_eq!(s.size(&d).unwrap(), Some(5));
        assert!(s.unlink(&order, "b/c", Of::Blob, &d).unwrap());
        assert_eq!(s.size(&d).unwrap(), None);
        assert!(!s.unlink(&order, "b/c", Of::Blob, &d).unwrap());
        assert!(!s.link(&order, "b/c", &d).unwrap());
    }

    #[test]
    fn a_crash_leaves_only_uploads_of_which_some_can_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef0123456789abcdef";
        let d = {
            let s = Storage::open(dir.path()).unwrap();
            fs::write(s.upload("place-1"), "x").unwrap();
            fs::write(s.upload(id), "half").unwrap();
            fs::write(s.upload(&format!("{id}.of")), "a").unwrap();
            fs::write(s.upload("ffffffffffffffffffffffffffffffff.of"), "a").unwrap();
            let d = put(&s, "a", Of::Manifest, b"m");
            s.set_tag(&s.order().unwrap(), "a", "v1", &d).unwrap();
            assert!(matches!(
                Storage::open(dir.path()),
                Err(ServerError::InUse { .. })
            ));
            // A collector may look in at any time.
            Storage::join(dir.path()).unwrap();
            d
        };
        let s = Storage::open(dir.path()).unwrap();
        let left = names(&dir.path().join("uploads")).unwrap();
        assert_eq!(left, [id.to_owned(), format!("{id}.of")]);
        assert_eq!(s.tag("a", "v1").unwrap(), Some(d.clone()));
        assert_eq!(
            s.linked("a", Of::Manifest, &d).unwrap().as_deref(),
            Some("type")
        );
        assert_eq!(s.linked("a", Of::Blob, &d).unwrap(), None);
        assert_eq!(s.tags("none").unwrap(), None);
    }

    #[test]
    fn the_order_holds_between_processes_too() {
        let dir = tempfile::tempdir().unwrap();
        let server = Storage::open(dir.path()).unwrap();
        let other = Storage::join(dir.path()).unwrap();
        let order = server.order().unwrap();
        let waiting = std::thread::spawn(move || other.order().map(drop).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(order);
        waiting.join().unwrap();
    }

    #[test]
    fn an_engines_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        fs::write(dir.path().join("corten.db"), "").unwrap();
        for refused in [Storage::open(dir.path()), Storage::join(dir.path())] {
            assert!(matches!(refused, Err(ServerError::Foreign { .. })));
        }
    }

    #[test]
    fn a_folder_without_a_registry_is_not_made_one_by_a_collector() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Storage::join(dir.path()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
