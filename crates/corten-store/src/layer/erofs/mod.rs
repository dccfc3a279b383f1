//! A layer as an EROFS image: an index of its own making, and the contents in one file beside it.
//!
//! ```text
//!  tar ══► data            the tar itself (blocks of 512 bytes), or the contents alone, packed (blocks of 4096)
//!    └───► [index] ──► meta        inodes, folders, xattrs; says where in `data` each file is
//!    └───► sparse          sparse files, with their holes, if there are any
//! ```
//!
//! No file of the layer becomes a file on disk. The kernel mounts `meta` with the others as its devices (EROFS
//! over plain files, Linux 6.12); whiteouts and opaque folders are in the overlay's form.
//!
//! Named in [`LayerError::Form`] is what such an image cannot hold; the layer is then kept as folders instead.

mod arena;
mod budget;
mod data;
mod format;
mod image;
mod index;
mod mount;
mod node;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use corten_spec::Digest;
use corten_spec::digest::{Algorithm, Hasher};

use super::entry::Action;
use super::folder::{Contents, Done};
use super::{LayerError, Limits};
use data::{Data, create};
use image::{Geometry, Plan};
use index::Index;

pub(crate) use budget::Budget;
pub(crate) use mount::{mount, probe};

/// Of the files in a layer's folder.
pub(crate) const DATA: &str = "data";
pub(crate) const META: &str = "meta";
pub(crate) const SPARSE: &str = "sparse";

/// What the data file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// The tar as it came. Its digest is the layer's diff id, so it can be checked at any time.
    Tar,
    /// File contents, each from a page's start.
    Pages,
}

impl Packing {
    fn block_bits(self) -> u8 {
        match self {
            Self::Tar => 9,
            Self::Pages => 12,
        }
    }
}

/// An image being written.
pub(crate) struct Image {
    index: Index,
    data: Data,
    packing: Packing,
    folder: PathBuf,
    uuid: [u8; 16],
}

impl Image {
    /// Writes into `folder`. The image's identity is that of the layer.
    pub fn new(
        folder: &Path,
        packing: Packing,
        diff_id: &Digest,
        limits: &Limits,
        budget: &Budget,
    ) -> io::Result<Self> {
        Ok(Self {
            index: Index::new(limits, budget),
            data: Data::new(folder, packing)?,
            packing,
            folder: folder.into(),
            uuid: uuid(diff_id),
        })
    }

    /// The file that the tar itself is to be written to, where it is kept.
    pub fn tar_file(&self) -> io::Result<Option<File>> {
        match self.packing {
            Packing::Tar => self.data.file().map(Some),
            Packing::Pages => Ok(None),
        }
    }

    /// Does what one entry says.
    pub fn apply(&mut self, action: Action, tar: &mut dyn Contents) -> Result<(), LayerError> {
        let Self { index, data, .. } = self;
        index.apply(action, |e| data.place(e, tar))
    }

    /// Writes the index, now that all entries are known; `tar` is the length of the layer. Returns the index's digest besides.
    pub fn finish(self, tar: u64) -> Result<(Done, Digest), LayerError> {
        let (packed, sparse) = self.data.finish()?;
        let geometry = Geometry {
            block_bits: self.packing.block_bits(),
            data: match self.packing {
                Packing::Tar => tar,
                Packing::Pages => packed,
            },
            sparse,
        };
        // The claim lasts as long as the nodes do.
        let (mut nodes, done, _claim) = self.index.finish();
        let plan = Plan::new(&mut nodes, geometry)?;
        let write = || {
            let file = create(&self.folder.join(META))?;
            let mut out = Hashed {
                out: BufWriter::with_capacity(1 << 18, file),
                hasher: Hasher::new(Algorithm::Sha256),
            };
            plan.write(self.uuid, &mut out)?;
            out.flush()?;
            Ok(out.hasher.finish())
        };
        let digest = write().map_err(LayerError::store("write the index of"))?;
        Ok((done, digest))
    }
}

/// 16 bytes of the diff id: the same layer has the same image.
fn uuid(diff_id: &Digest) -> [u8; 16] {
    let hex = diff_id.hex().as_bytes();
    let digit = |b: u8| (b as char).to_digit(16).unwrap_or_default() as u8;
    std::array::from_fn(|i| match hex.get(2 * i..2 * i + 2) {
        Some(&[high, low]) => digit(high) << 4 | digit(low),
        _ => 0,
    })
}

struct Hashed {
    out: BufWriter<File>,
    hasher: Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
