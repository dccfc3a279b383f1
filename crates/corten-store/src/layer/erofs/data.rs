//! The contents of files, on their way to the devices of the image.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::format::longest;
use super::index::Place;
use super::{DATA, Packing, SPARSE};
use crate::content::direct::{Direct, PIECE, Piece};
use crate::layer::LayerError;
use crate::layer::folder::{Contents, check_space, fill};
use crate::layer::tar::Entry;

/// Files start at multiples of it, in every device but the tar.
const PAGE: u64 = 4096;

pub(super) struct Data {
    folder: PathBuf,
    block_bits: u8,
    /// Also tells how much space there is.
    data: OwnedFd,
    pages: Option<Pages>,
    sparse: Option<OwnedFd>,
    /// Where the next sparse file goes.
    sparse_end: u64,
}

/// The packed contents, some of them still in memory.
struct Pages {
    file: Direct,
    buffer: Piece,
    /// Bytes of the buffer that are in use.
    used: usize,
    written: u64,
}

impl Data {
    pub fn new(folder: &Path, packing: Packing) -> io::Result<Self> {
        let path = folder.join(DATA);
        let data = create(&path)?;
        let pages = match packing {
            Packing::Tar => None,
            Packing::Pages => Some(Pages {
                file: Direct::new(data.try_clone()?),
                buffer: Piece::new(),
                used: 0,
                written: 0,
            }),
        };
        Ok(Self {
            folder: folder.into(),
            block_bits: packing.block_bits(),
            data: data.into(),
            pages,
            sparse: None,
            sparse_end: 0,
        })
    }

    pub fn file(&self) -> io::Result<File> {
        Ok(self.data.try_clone()?.into())
    }

    /// Stores the current entry's contents; says where, and how many bytes they were.
    pub fn place(&mut self, e: &Entry, tar: &mut dyn Contents) -> Result<(Place, u64), LayerError> {
        check_space(&self.data, e)?;
        if e.sparse.is_some() && e.size > 0 {
            return self.expand(e, tar);
        }
        match &mut self.pages {
            None => Ok((Place::Data(tar.offset()), e.size)),
            Some(pages) => {
                let at = pages.end();
                let write = LayerError::store("write the contents of");
                pages.put(tar, write)?;
                Ok((Place::Data(at), e.size))
            }
        }
    }

    fn expand(&mut self, e: &Entry, tar: &mut dyn Contents) -> Result<(Place, u64), LayerError> {
        let at = self.sparse_end;
        // Asked before the file grows: it may be longer than the file system lets one be.
        let most = u64::from(u32::MAX) << self.block_bits;
        let end = at
            .checked_add(e.size)
            .and_then(|n| n.checked_next_multiple_of(PAGE));
        let Some(end) = end.filter(|&n| n <= most && e.size <= longest(self.block_bits)) else {
            return Err(LayerError::Form {
                why: "its sparse files are too large",
            });
        };
        let file = match &mut self.sparse {
            Some(file) => file,
            none => {
                let made = create(&self.folder.join(SPARSE));
                let made = made.map_err(LayerError::store("make a file for"))?;
                none.insert(made.into())
            }
        };
        let stored = fill(file, e, at, tar)?;
        self.sparse_end = end;
        Ok((Place::Sparse(at), stored))
    }

    /// Bytes of the packed contents, and of the sparse files.
    pub fn finish(mut self) -> Result<(u64, u64), LayerError> {
        let store = || LayerError::store("write the contents of");
        let packed = match &mut self.pages {
            Some(pages) => {
                pages.flush().map_err(store())?;
                pages.written
            }
            None => 0,
        };
        if let Some(file) = self.sparse {
            rustix::fs::ftruncate(&file, self.sparse_end).map_err(|e| store()(e.into()))?;
        }
        Ok((packed, self.sparse_end))
    }
}

impl Pages {
    /// Of what there is; a page's start.
    fn end(&self) -> u64 {
        self.written + self.used as u64
    }

    fn put(
        &mut self,
        contents: &mut dyn Contents,
        fault: impl Fn(io::Error) -> LayerError,
    ) -> Result<(), LayerError> {
        while let Some(mut chunk) = contents.chunk()? {
            while !chunk.is_empty() {
                let n = chunk.len().min(PIECE - self.used);
                self.buffer[self.used..self.used + n].copy_from_slice(&chunk[..n]);
                self.used += n;
                chunk = &chunk[n..];
                if self.used == PIECE {
                    self.flush().map_err(&fault)?;
                }
            }
        }
        // A buffer is a whole number of pages.
        let full = self.used.next_multiple_of(PAGE as usize);
        self.buffer[self.used..full].fill(0);
        self.used = full;
        if full == PIECE {
            self.flush().map_err(&fault)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write(&self.buffer[..self.used], self.written)?;
        self.written += self.used as u64;
        self.used = 0;
        Ok(())
    }
}

/// A new file of the store's own.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
