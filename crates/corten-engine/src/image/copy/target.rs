//! Where a copy goes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use corten_registry::client::{Client, Descriptor, Pushed, Readable};
use corten_spec::digest::Hasher;
use corten_spec::{Digest, Reference};

use super::super::ImageError;
use super::super::beside::Beside;
use super::super::tar::write::{Entry, Writer};
use super::source::Source;
use crate::error::Error;

/// Where something can be put, blobs first.
#[derive(Clone)]
pub(crate) enum Target {
    Registry(Repository),
    Files(Arc<Shelf>),
}

/// A repository of a registry.
#[derive(Clone)]
pub(crate) struct Repository {
    pub client: Client,
    /// With the tag that the top gets; without one, it is found by its digest.
    pub reference: Reference,
    /// Other repositories of that registry, by the blobs that are known to be there.
    pub mounts: Arc<BTreeMap<Digest, String>>,
}

/// What became of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was there, or the registry had it elsewhere.
    Present,
    Written,
}

/// Files being written: a folder, or the members of a tar.
pub(crate) struct Shelf {
    form: Form,
    inner: Mutex<Inner>,
}

/// How blobs are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `blobs/sha256/HEX`, as OCI has it.
    Layout,
    /// `HEX`, and one manifest: skopeo's `dir:`.
    Flat,
}

enum Inner {
    Folder(PathBuf),
    Archive {
        writer: Writer<Box<dyn Write + Send>>,
        written: Vec<String>,
    },
    /// Finished.
    Closed,
}

impl Target {
    /// May several blobs be put at once?
    pub fn takes_several(&self) -> bool {
        match self {
            Self::Registry(_) => true,
            Self::Files(shelf) => shelf.is_folder(),
        }
    }

    pub async fn put_blob(
        &self,
        source: &Source,
        descriptor: &Descriptor,
        from: Box<dyn Readable>,
    ) -> Result<Put, Error> {
        match self {
            Self::Registry(to) => {
                let mount = to.mount_for(source, &descriptor.digest);
                let pushed =
                    to.client
                        .push_blob_or_mount(&to.reference, descriptor, mount.as_deref(), from);
                match pushed.await {
                    Ok(Pushed::Uploaded) => Ok(Put::Written),
                    Ok(Pushed::Present | Pushed::Mounted) => Ok(Put::Present),
                    Err(e) => Err(Error::registry("push to", &to.reference, e)),
                }
            }
            Self::Files(shelf) => {
                let (shelf, descriptor) = (shelf.clone(), descriptor.clone());
                let written = tokio::task::spawn_blocking(move || shelf.blob(&descriptor, from));
                match written.await {
                    Ok(done) => done,
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                }
            }
        }
    }

    /// `top`: this is what the name stands for.
    pub async fn put_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: Bytes,
        top: bool,
    ) -> Result<(), Error> {
        match self {
            Self::Registry(to) => {
                let by_digest = || {
                    to.reference
                        .with_digest(descriptor.digest.clone())
                        .untagged()
                };
                let reference = match top {
                    true => to.reference.clone(),
                    false => by_digest(),
                };
                to.push_manifest(&reference, descriptor, bytes).await
            }
            Self::Files(shelf) => shelf.manifest(descriptor, &bytes, top),
        }
    }

    /// A manifest under a tag of its own, where there are tags.
    pub async fn put_tagged(
        &self,
        descriptor: &Descriptor,
        bytes: Bytes,
        tag: &str,
    ) -> Result<(), Error> {
        match self {
            Self::Registry(to) => {
                let Some(reference) = to.reference.with_tag(tag) else {
                    return Ok(());
                };
                to.push_manifest(&reference, descriptor, bytes).await
            }
            Self::Files(shelf) => shelf.manifest(descriptor, &bytes, false),
        }
    }
}

impl Repository {
    async fn push_manifest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let pushed = self
            .client
            .push_manifest(reference, &descriptor.media_type, bytes);
        let digest = pushed
            .await
            .map_err(|e| Error::registry("push to", reference, e))?;
        match digest == descriptor.digest {
            true => Ok(()),
            false => Err(ImageError::Member {
                archive: reference.familiar(),
                member: "manifest".into(),
                expected: descriptor.digest.clone(),
                found: digest,
            }
            .into()),
        }
    }

    /// Where on this very registry the blob can be had.
    fn mount_for(&self, source: &Source, digest: &Digest) -> Option<String> {
        let other = |r: &str| r != self.reference.repository();
        let from = source
            .origin()
            .filter(|o| o.registry() == self.reference.registry());
        let from = from.map(Reference::repository);
        let known = from.or(self.mounts.get(digest).map(String::as_str));
        known.filter(|r| other(r)).map(str::to_owned)
    }
}

impl Shelf {
    pub fn folder(path: &Path, form: Form) -> Result<Self, Error> {
        let blobs = match form {
            Form::Layout => path.join("blobs/sha256"),
            Form::Flat => path.to_owned(),
        };
        fs::create_dir_all(&blobs).map_err(Error::io("make folder", blobs))?;
        Ok(Self {
            form,
            inner: Mutex::new(Inner::Folder(path.to_owned())),
        })
    }

    pub fn archive(out: Box<dyn Write + Send>) -> Self {
        Self {
            form: Form::Layout,
            inner: Mutex::new(Inner::Archive {
                writer: Writer::new(out),
                written: Vec::new(),
            }),
        }
    }

    fn is_folder(&self) -> bool {
        matches!(*self.lock(), Inner::Folder(_))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere ends the whole copy.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn name(&self, digest: &Digest) -> String {
        match self.form {
            Form::Layout => format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex()),
            Form::Flat => digest.hex().to_owned(),
        }
    }

    fn blob(&self, descriptor: &Descriptor, from: Box<dyn Readable>) -> Result<Put, Error> {
        let name = self.name(&descriptor.digest);
        let mut checked = Checked::new(from, descriptor);
        let folder = match &mut *self.lock() {
            Inner::Folder(folder) => folder.clone(),
            Inner::Archive { writer, written } => {
                if written.contains(&name) {
                    return Ok(Put::Present);
                }
                let entry = Entry::file(name.as_bytes(), descriptor.size);
                let done = writer.entry(&entry, &mut checked);
                checked.verify(done, &name)?;
                written.push(name);
                return Ok(Put::Written);
            }
            Inner::Closed => return Err(closed()),
        };
        let path = folder.join(&name);
        if is_there(&path, descriptor)? {
            return Ok(Put::Present);
        }
        let new = Beside::create(&path)?;
        let copied = io::copy(&mut checked, &mut &new.file).map(|_| ());
        checked.verify(copied, &name)?;
        new.publish()?;
        Ok(Put::Written)
    }

    fn manifest(&self, descriptor: &Descriptor, bytes: &[u8], top: bool) -> Result<(), Error> {
        let name = match (self.form, top) {
            (Form::Layout, _) => self.name(&descriptor.digest),
            (Form::Flat, true) => "manifest.json".into(),
            (Form::Flat, false) => format!("{}.manifest.json", descriptor.digest.hex()),
        };
        self.document(&name, bytes)
    }

    /// A small file.
    pub fn document(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        match &mut *self.lock() {
            Inner::Folder(folder) => {
                let path = folder.join(name);
                let new = Beside::create(&path)?;
                (&new.file)
                    .write_all(bytes)
                    .map_err(Error::io("write", &path))?;
                new.publish()
            }
            Inner::Archive { writer, written } => {
                if written.iter().any(|w| w == name) {
                    return Ok(());
                }
                let entry = Entry::file(name.as_bytes(), bytes.len() as u64);
                let mut content = bytes;
                writer
                    .entry(&entry, &mut content)
                    .map_err(Error::io("write", "the archive"))?;
                written.push(name.to_owned());
                Ok(())
            }
            Inner::Closed => Err(closed()),
        }
    }

    /// The end of an archive; what follows is an error.
    pub fn finish(&self) -> Result<(), Error> {
        match std::mem::replace(&mut *self.lock(), Inner::Closed) {
            Inner::Archive { writer, .. } => {
                let done = writer.finish();
                done.map(|_| ()).map_err(Error::io("write", "the archive"))
            }
            Inner::Folder(_) | Inner::Closed => Ok(()),
        }
    }
}

/// A file of that name need not be what it is named after.
fn is_there(path: &Path, descriptor: &Descriptor) -> Result<bool, Error> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(Error::io("open", path))?,
    };
    let meta = file.metadata().map_err(Error::io("read", path))?;
    if !meta.is_file() || meta.len() != descriptor.size {
        return Ok(false);
    }
    let mut checked = Checked::new(Box::new(file), descriptor);
    io::copy(&mut checked, &mut io::sink()).map_err(Error::io("read", path))?;
    Ok(checked.hasher.finish() == descriptor.digest)
}

fn closed() -> Error {
    Error::io("write", "the archive")(io::ErrorKind::BrokenPipe.into())
}

/// A blob on its way, hashed; never more than its size is read.
struct Checked<'a> {
    from: io::Take<Box<dyn Readable>>,
    hasher: Hasher,
    descriptor: &'a Descriptor,
}

impl<'a> Checked<'a> {
    fn new(from: Box<dyn Readable>, descriptor: &'a Descriptor) -> Self {
        Self {
            // One more shows that there are too many.
            from: from.take(descriptor.size.saturating_add(1)),
            hasher: descriptor.digest.hasher(),
            descriptor,
        }
    }

    fn verify(mut self, copied: io::Result<()>, name: &str) -> Result<(), Error> {
        copied.map_err(Error::io("copy", name))?;
        let mut rest = [0; 1];
        let more = self.from.read(&mut rest).map_err(Error::io("read", name))?;
        self.hasher.update(&rest[..more]);
        let found = self.hasher.finish();
        match found == self.descriptor.digest {
            true => Ok(()),
            false => Err(ImageError::Member {
                archive: "copied".into(),
                member: name.into(),
                expected: self.descriptor.digest.clone(),
                found,
            }
            .into()),
        }
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
