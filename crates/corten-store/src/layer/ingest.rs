//! One layer on its way in: begin or resume, run, commit.
//!
//! ```text
//!  begin ──(row, blob and tree are there)──► Present
//!    │
//!    └─ lock ingest/HEX ─► run ─► every check passed ─► fsync blob ─► [transaction: rename blob, rename tree, rows]
//!                           │
//!                           ├─ the reader failed ─► tree removed, partial blob kept for the next begin
//!                           └─ the bytes are bad, or the disk is full ─► tree and partial blob removed
//! ```

use std::fs::{DirBuilder, File};
use std::io::{self, BufRead as _, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::thread;

use corten_spec::{Digest, media};

use super::erofs::Image;
use super::folder::attributes::{self, Attributes};
use super::folder::{Done, Tree};
use super::pipe::{Pipe, Sender, pipe};
use super::record::Record;
use super::unpack::{Packing, Unpacked, check_media_type};
use super::{Form, LayerDesc, LayerError, LayerId, entry, tar};
use crate::collect::trash;
use crate::content::partial::Partial;
use crate::content::tee::{Fault, Tee};
use crate::error::{Error, Result};
use crate::metadata::layer::{self as rows, NewLayer};
use crate::metadata::{Lease, blob_size};
use crate::store::{Store, open_folder};

/// Bytes by which packings differ.
const HEAD: u64 = 4;

/// Whether there is anything to do for a layer.
pub enum Begin {
    /// It is in the store, and the lease keeps it.
    Present(LayerId),
    /// Its bytes are wanted, from [`LayerIngest::offset`] on.
    Ingest(LayerIngest),
}

/// A layer on its way in. Dropped without a run, it leaves an earlier try's bytes as they were.
pub struct LayerIngest {
    store: Store,
    lease: Lease,
    desc: LayerDesc,
    partial: Partial,
    /// The blob itself, where that is in the store and only the tree is wanted.
    whole: Option<File>,
    offset: u64,
}

impl Store {
    /// Starts or resumes a layer. Waits while another thread or process has the same blob in hand, and then finds it
    /// present, as a rule. So nobody should hold two ingests and begin a third that is one of them.
    ///
    /// # Errors
    /// [`LayerError::MediaType`] inside [`Error::Layer`] if it is no layer.
    pub fn begin_layer(&self, lease: &Lease, desc: &LayerDesc) -> Result<Begin> {
        check_media_type(&desc.media_type).map_err(|e| layer_error(&desc.digest, e))?;
        let id = LayerId::of_diff(&desc.diff_id);
        if rows::hold(self, lease, &id, &desc.digest)? {
            return Ok(Begin::Present(id));
        }
        let partial = Partial::lock(self, &desc.digest)?;
        if rows::hold(self, lease, &id, &desc.digest)? {
            return Ok(Begin::Present(id));
        }
        // What a killed process was unpacking.
        self.remove_tree(&partial.tree())?;
        let whole = match lease.hold_blob(&desc.digest)? {
            true => open_whole(&self.blob_path(&desc.digest), desc.size)?,
            false => None,
        };
        let mut offset = match whole {
            Some(_) => desc.size,
            None => partial.len()?,
        };
        // From fewer bytes than these the packing cannot be told.
        if offset > desc.size || (whole.is_none() && offset < HEAD) {
            rustix::fs::ftruncate(partial.file(), 0)
                .map_err(Error::io("truncate", partial.path()))?;
            offset = 0;
        }
        Ok(Begin::Ingest(LayerIngest {
            store: self.clone(),
            lease: lease.clone(),
            desc: desc.clone(),
            partial,
            whole,
            offset,
        }))
    }
}

/// A blob that lost its tail in a crash is as good as none.
fn open_whole(path: &Path, size: u64) -> Result<Option<File>> {
    match File::open(path) {
        Ok(f) => {
            let length = f.metadata().map_err(Error::io("look at", path))?.len();
            Ok((length == size).then_some(f))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("open", path)(e)),
    }
}

impl LayerIngest {
    /// Bytes of the compressed blob that are on disk already. May be all of them: then `run` wants an empty reader.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the compressed bytes from [`offset`](Self::offset) on, and blocks until the layer is in the store or has failed.
    /// Dropping or failing the reader is how to stop it.
    ///
    /// # Errors
    /// [`Error::Source`]: the reader failed or ended early; what came is kept, and the next `begin_layer` goes on from there.
    /// [`Error::Mismatch`]: size, digest or diff id is not as described. [`Error::Layer`]: the bytes cannot be unpacked,
    /// and which entry it is. [`Error::NoSpace`]. After these nothing of the layer is left.
    pub fn run<R: Read>(self, rest: R) -> Result<LayerId> {
        match self.unpack_somehow(rest).and_then(|done| self.commit(done)) {
            Ok(id) => Ok(id),
            Err(e) => {
                // Should this fail too, it leaves what `collect` removes; the first failure is the one to tell.
                let _ = self.unpublish();
                let _ = self.store.remove_tree(&self.partial.tree());
                if !matches!(e, Error::Source { .. }) && self.whole.is_none() {
                    let _ = self.partial.discard();
                }
                Err(e)
            }
        }
    }

    /// In the form that the store gives new layers, or, if that cannot hold this one, in folders. All bytes of it are on file by then.
    fn unpack_somehow<R: Read>(&self, rest: R) -> Result<Unpacking> {
        let form = self.store.form();
        match self.unpack(form, self.offset, rest) {
            Err(Error::Layer {
                source: LayerError::Form { .. },
                ..
            }) if form != Form::Folders => {
                self.store.remove_tree(&self.partial.tree())?;
                self.unpack(Form::Folders, self.desc.size, io::empty())
            }
            other => other,
        }
    }

    fn unpack<R: Read>(&self, form: Form, offset: u64, rest: R) -> Result<Unpacking> {
        let folder = self.partial.tree();
        let limits = self.store.limits();
        let root = make_tree(&folder)?;
        let diff_id = &self.desc.diff_id;
        let target = match form {
            Form::Folders => Target::Tree(Tree::new(root, &folder.join("replaced"), limits)),
            Form::Erofs(packing) => {
                Image::new(&folder, packing, diff_id, limits, self.store.budget())
                    .map(|image| Target::Image(Box::new(image)))
                    .map_err(Error::io("make a file in", &folder))?
            }
        };
        let file = self.whole.as_ref().unwrap_or(self.partial.file());
        let mut tee = Tee::new(file, offset, rest, &self.desc.digest, self.desc.size);
        let (sender, pipe) = pipe();
        let recorded = match &target {
            Target::Image(image) => image.tar_file().map_err(Error::io("open", &folder))?,
            Target::Tree(_) => None,
        };
        let record = Record::new(pipe, diff_id.hasher(), recorded);
        let (fed, written) = thread::scope(|s| {
            let writer = thread::Builder::new()
                .name("layer".into())
                .spawn_scoped(s, move || write(tar::Reader::new(record, limits), target))
                .map_err(Error::io("start a thread to write", &folder))?;
            let fed = feed(&mut tee, sender);
            match writer.join() {
                Ok(written) => Ok((fed, written)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        if let Err(e) = &written
            && e.is_full()
        {
            return Err(Error::NoSpace {
                path: self.store.root().into(),
                needed: e.needed(),
            });
        }
        self.check_blob(tee)?;
        match (fed, written) {
            // A writer that fails closes the pipe; one that does not, has seen its end.
            (Err(e), _) | (_, Err(e)) => Err(layer_error(&self.desc.digest, e)),
            (Ok(()), Ok((found, done, index))) => {
                self.check("diff id", &self.desc.diff_id, found.to_string())?;
                Ok(Unpacking { form, done, index })
            }
        }
    }

    /// Did all bytes come, and are they the right ones? Told before anything that is wrong with what is in them: a
    /// corrupt stream is most often another blob than the one that was asked for.
    fn check_blob<R: Read>(&self, mut tee: Tee<'_, R>) -> Result<()> {
        // Where the tar was given up early, the rest is read for the digest alone. A failure of it is found below.
        let _ = tee.drain();
        match tee.fault() {
            Some(Fault::Source(source)) => Err(Error::Source {
                digest: self.desc.digest.clone(),
                kept: tee.taken(),
                source,
            }),
            Some(Fault::File(e)) => Err(Error::io("copy through", self.partial.path())(e)),
            Some(Fault::Long) => Err(Error::Mismatch {
                what: "size",
                subject: self.desc.digest.clone(),
                expected: self.desc.size.to_string(),
                found: "more".into(),
            }),
            None => self.check("digest", &self.desc.digest, tee.digest().to_string()),
        }
    }

    fn check(&self, what: &'static str, expected: &Digest, found: String) -> Result<()> {
        let expected = expected.to_string();
        if found == expected {
            return Ok(());
        }
        Err(Error::Mismatch {
            what,
            subject: self.desc.digest.clone(),
            expected,
            found,
        })
    }

    /// A transaction that failed after its renames has left names without rows.
    fn unpublish(&self) -> Result<()> {
        let id = LayerId::of_diff(&self.desc.diff_id);
        let blob = &self.desc.digest;
        let op = "take back a layer";
        let trashed = self.store.db().write(op, |t| {
            let mut trashed = Vec::new();
            if rows::get(t, &id).map_err(Error::db(op))?.is_none() {
                trashed.extend(trash::put(&self.store, &self.store.layer_path(&id))?);
            }
            if blob_size(t, blob).map_err(Error::db(op))?.is_none() {
                trashed.extend(trash::put(&self.store, &self.store.blob_path(blob))?);
            }
            Ok(trashed)
        })?;
        for path in trashed {
            trash::empty(&self.store, &path)?;
        }
        Ok(())
    }

    /// Everything was checked: names and rows for it.
    fn commit(&self, unpacked: Unpacking) -> Result<LayerId> {
        let id = LayerId::of_diff(&self.desc.diff_id);
        let tree = self.partial.tree();
        self.store.remove_tree(&tree.join("replaced"))?;
        if self.whole.is_none() {
            rustix::fs::fsync(self.partial.file())
                .map_err(Error::io("sync", self.partial.path()))?;
        }
        self.store.db().write("add a layer", |t| {
            let blob = &self.desc.digest;
            if self.whole.is_none() {
                self.store
                    .publish_blob(t, &self.partial, blob, self.desc.size)?;
            }
            let layer = NewLayer {
                id: &id,
                base: None,
                below: None,
                form: unpacked.form,
                index: unpacked.index.as_ref(),
                done: &unpacked.done,
            };
            rows::publish(&self.store, t, &tree, &layer)?;
            rows::add_blob(t, &id, blob)?;
            self.lease.add_blob(t, blob)?;
            self.lease.add_layer(t, &id)
        })?;
        // Another blob may have had the same tar in it, and been first.
        self.store.remove_tree(&tree)?;
        Ok(id)
    }
}

/// Unpacks a layer of the store again, from one of its blobs.
///
/// # Errors
/// [`Error::Damaged`] where no blob of it is left.
pub(crate) fn rebuild(store: &Store, lease: &Lease, id: &LayerId) -> Result<()> {
    let lost = || Error::Damaged {
        what: "layer",
        name: id.to_string(),
        why: "its folder is lost, and so is its blob: pull the image again".into(),
    };
    let diff_id = id.diff_id().ok_or_else(lost)?;
    for (digest, size) in rows::blobs(store, id)? {
        let desc = LayerDesc {
            digest,
            size,
            media_type: media::OCI_LAYER.into(),
            diff_id: diff_id.clone(),
        };
        match store.begin_layer(lease, &desc)? {
            Begin::Present(_) => return Ok(()),
            Begin::Ingest(ingest) if ingest.whole.is_some() => {
                return ingest.run(io::empty()).map(|_| ());
            }
            Begin::Ingest(_) => {}
        }
    }
    Err(lost())
}

/// The folder to work in, with an empty tree in it.
pub(crate) fn make_tree(folder: &Path) -> Result<OwnedFd> {
    let root = folder.join("fs");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .map_err(Error::io("create folder", &root))?;
    let fd = open_folder(&root).map_err(Error::io("open folder", &root))?;
    attributes::set_open(&fd, &Attributes::IMPLIED)
        .and_then(|()| rustix::fs::futimens(&fd, &attributes::times((0, 0))))
        .map_err(Error::io("set the attributes of", &root))?;
    Ok(fd)
}

/// What came of a layer's bytes.
struct Unpacking {
    form: Form,
    done: Done,
    /// The digest of an image's index.
    index: Option<Digest>,
}

/// What a layer becomes.
enum Target {
    Tree(Tree),
    Image(Box<Image>),
}

/// The inflating side. It ends early if the writer stops listening.
fn feed<R: Read>(tee: &mut Tee<'_, R>, mut sender: Sender) -> Result<(), LayerError> {
    // A fault of the tee itself is looked at by whoever owns it.
    let Ok(head) = tee.fill_buf() else {
        return Ok(());
    };
    let packing = Packing::of(head);
    let mut unpacked =
        Unpacked::new(tee, packing).map_err(|e| Unpacked::<&[u8]>::fault(packing, e))?;
    loop {
        let Ok(mut buffer) = sender.buffer() else {
            return Ok(());
        };
        let n =
            fill(&mut unpacked, &mut buffer).map_err(|e| Unpacked::<&[u8]>::fault(packing, e))?;
        if n == 0 {
            // A writer that is gone tells why itself.
            let _ = sender.end();
            return Ok(());
        }
        if sender.send(buffer, n).is_err() {
            return Ok(());
        }
    }
}

/// Whole buffers, as direct I/O likes them, but for the last.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match source.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

type Tar = tar::Reader<Record<Pipe>>;

/// The writing side; returns the tar's digest, what was in it, and the digest of the index, if one was made.
fn write(mut tar: Tar, mut target: Target) -> Result<(Digest, Done, Option<Digest>), LayerError> {
    while let Some(entry) = tar.next()? {
        check_padding(&tar, &target)?;
        let action = entry::action(entry)?;
        match &mut target {
            Target::Tree(tree) => tree.apply(action, &mut tar)?,
            Target::Image(image) => image.apply(action, &mut tar)?,
        }
    }
    check_padding(&tar, &target)?;
    tar.source_mut().end_of_archive();
    let (length, digest) = tar
        .drain()?
        .finish()
        .map_err(LayerError::store("write the tar of"))?;
    match target {
        Target::Tree(tree) => Ok((digest, tree.finish()?, None)),
        Target::Image(image) => {
            let (done, index) = image.finish(length)?;
            Ok((digest, done, Some(index)))
        }
    }
}

/// Whoever maps a file sees zeros from its end to that of the page (mmap(2)); the kernel shows the blocks of an image whole.
fn check_padding(tar: &Tar, target: &Target) -> Result<(), LayerError> {
    match target {
        Target::Image(image) if image.keeps_tar() && tar.has_odd_padding() => {
            Err(LayerError::Form {
                why: "something other than zeros follows the contents of a file",
            })
        }
        _ => Ok(()),
    }
}

fn layer_error(digest: &Digest, source: LayerError) -> Error {
    Error::Layer {
        digest: digest.clone(),
        source,
    }
}
