//! The store's handle: its folder, its database, and where things lie in it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use corten_spec::Digest;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::layer::erofs::Budget;
use crate::layer::{Chosen, Form, LayerChoice, LayerId, Limits};
use crate::metadata::{Containers, Db, Lease, Networks, Pods};
use crate::snapshot::Overlay;

const FOLDERS: [&str; 6] = [
    "blobs/sha256",
    "blobs/sha512",
    "ingest",
    "layers",
    "snapshots",
    "trash",
];

/// A store. Cheap to clone; clones share one database connection, and may be used from several threads.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: PathBuf,
    db: Db,
    options: Options,
    budget: Budget,
    chosen: OnceLock<Chosen>,
}

/// What can be set about a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub limits: Limits,
    pub layers: LayerChoice,
}

impl Store {
    /// Opens the store in `root`, making it if it is not there. A later open costs a few system calls and no fsync.
    ///
    /// # Errors
    /// [`Error::Root`] where the path cannot serve: the kernel's overlay takes lower folders as one text
    /// with `:` between them, and mount options have `,`.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Options::default())
    }

    /// As [`Store::open`], with other bounds on what a layer may be, or another form for new ones.
    pub fn open_with(root: &Path, options: Options) -> Result<Self> {
        let root = std::path::absolute(root).map_err(Error::io("resolve", root))?;
        check_root(&root)?;
        let folder = match open_folder(&root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                create_folder(&root).map_err(Error::io("create folder", &root))?;
                open_folder(&root)
            }
            other => other,
        }
        .map_err(Error::io("open folder", &root))?;
        let path = root.join("corten.db");
        if !path.exists() {
            for name in FOLDERS {
                let path = root.join(name);
                create_folder(&path).map_err(Error::io("create folder", &path))?;
            }
        }
        let db = Db::open(path, &folder)?;
        Ok(Self(Arc::new(Inner {
            root,
            db,
            options,
            budget: Budget::default(),
            chosen: OnceLock::new(),
        })))
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Claims what work in flight will need. `purpose` is for people: `pull docker.io/library/busybox:latest`.
    pub fn lease(&self, purpose: &str) -> Result<Lease> {
        Lease::take(self, purpose)
    }

    /// The container rows.
    pub fn containers(&self) -> Containers<'_> {
        Containers::new(self)
    }

    /// The network rows.
    pub fn networks(&self) -> Networks<'_> {
        Networks::new(self)
    }

    /// The rows of pods and their containers.
    pub fn pods(&self) -> Pods<'_> {
        Pods::new(self)
    }

    /// The snapshotter that fits this host.
    pub fn snapshotter(&self) -> Overlay {
        Overlay::new(self.clone())
    }

    /// Where a blob lies, or would.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.folder("blobs");
        path.push(digest.algorithm().as_str());
        path.push(digest.hex());
        path
    }

    pub(crate) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.options.limits
    }

    /// How new layers are kept here, and why so. Found out once, by mounting a small image.
    pub fn layers(&self) -> &Chosen {
        self.0
            .chosen
            .get_or_init(|| Chosen::new(self.0.options.layers, &self.folder("ingest")))
    }

    /// The memory that indexes of layers share.
    pub(crate) fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub(crate) fn form(&self) -> Form {
        self.layers().form
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.0.root.join(name)
    }

    pub(crate) fn layer_path(&self, id: &LayerId) -> PathBuf {
        self.folder("layers").join(id.as_str())
    }

    /// The tree itself, or where an image is mounted: a `lowerdir`.
    pub(crate) fn layer_tree(&self, id: &LayerId) -> PathBuf {
        self.layer_path(id).join("fs")
    }
}

fn check_root(root: &Path) -> Result<()> {
    let bad = |why| {
        Err(Error::Root {
            path: root.into(),
            why,
        })
    };
    let bytes = root.as_os_str().as_bytes();
    if bytes.iter().any(|b| b":,\\\"".contains(b)) {
        return bad(
            "its path has one of : , \\ \" which the options of an overlay mount cannot carry",
        );
    }
    if std::str::from_utf8(bytes).is_err() {
        return bad("its path is not UTF-8");
    }
    if root.components().any(|c| c.as_os_str() == OsStr::new("..")) {
        return bad("its path has ..");
    }
    Ok(())
}

/// Private: its trees hold other users' setuid programs.
fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(crate) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Makes a rename or a new name in `path` survive a power cut.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let sync = || rustix::fs::fsync(open_folder(path)?).map_err(io::Error::from);
    sync().map_err(Error::io("sync folder", path))
}

pub(crate) fn sync_file(path: &Path) -> Result<()> {
    let sync = || fs::File::open(path)?.sync_all();
    sync().map_err(Error::io("sync", path))
}

/// Reads a file through the algorithm of `like`.
pub(crate) fn digest_of(path: &Path, like: &Digest) -> Result<Digest> {
    let mut hasher = like.hasher();
    let read = || -> io::Result<()> {
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match io::Read::read(&mut file, &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    let mut read = read;
    read().map_err(Error::io("read", path))?;
    Ok(hasher.finish())
}

/// `fs::rename` with the destination named in the error.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename into", to))
}
