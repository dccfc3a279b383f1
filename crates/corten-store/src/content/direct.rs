//! Writing past the page cache: what a pull writes is not read again soon, and copying it there costs as much as inflating it.
//!
//! Direct I/O (open(2), `O_DIRECT`) wants memory, offset and length in whole blocks. [`Piece`] is such memory; [`Direct`] writes what fits as it is,
//! and takes the ordinary way for the end of a file, and where the file system or the shape of the bytes leaves no other.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt as _;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Read, inflated and written at once.
pub(crate) const PIECE: usize = 256 << 10;
/// No file system here wants more.
const BLOCK: usize = 4096;

/// A buffer of [`PIECE`] bytes at a block's start.
pub(crate) struct Piece {
    bytes: Vec<u8>,
    start: usize,
}

impl Piece {
    pub fn new() -> Self {
        let bytes = vec![0; PIECE + BLOCK];
        let start = (bytes.as_ptr() as usize).wrapping_neg() % BLOCK;
        Self { bytes, start }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + PIECE]
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + PIECE]
    }
}

/// A file that is written from its start to its end.
pub(crate) struct Direct {
    file: File,
    is_direct: bool,
}

impl Direct {
    pub fn new(file: File) -> Self {
        let is_direct = set(&file, true).is_ok();
        Self { file, is_direct }
    }

    /// Does it go past the page cache?
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let whole = match self.is_direct && at.is_multiple_of(BLOCK as u64) {
            true => bytes.len() - bytes.len() % BLOCK,
            false => 0,
        };
        let (blocks, rest) = bytes.split_at(whole);
        match self.blocks(blocks, at) {
            // A file system that takes the flag and not the writes, or a write that was cut short.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.give_up()?;
                return self.file.write_all_at(bytes, at);
            }
            other => other?,
        }
        if rest.is_empty() {
            return Ok(());
        }
        // Never padded and then cut: a kill in between would leave bytes that nobody wrote, for the next try to go on from.
        self.give_up()?;
        self.file.write_all_at(rest, at + whole as u64)
    }

    /// Whole blocks; through memory of their own, where they lie in none that will do.
    fn blocks(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if (bytes.as_ptr() as usize).is_multiple_of(BLOCK) || bytes.is_empty() {
            return self.file.write_all_at(bytes, at);
        }
        let mut piece = Piece::new();
        for (i, part) in bytes.chunks(PIECE).enumerate() {
            piece[..part.len()].copy_from_slice(part);
            self.file
                .write_all_at(&piece[..part.len()], at + (i * PIECE) as u64)?;
        }
        Ok(())
    }

    fn give_up(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.is_direct) {
            true => Ok(set(&self.file, false)?),
            false => Ok(()),
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // Whoever reads the file next through the same description does it in any shape. If this fails, so does that, and says it.
        let _ = set(&self.file, false);
    }
}

/// The flag is the open file's: whoever shares the description shares it.
fn set(file: &File, direct: bool) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let flags = match direct {
        true => flags | OFlags::DIRECT,
        false => flags - OFlags::DIRECT,
    };
    rustix::fs::fcntl_setfl(file, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_shape_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        for sizes in [
            vec![bytes.len()],
            vec![PIECE, PIECE, bytes.len() - 2 * PIECE],
            vec![4096, 100, 7, bytes.len() - 4203],
            vec![1, bytes.len() - 1],
        ] {
            let path = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
            let mut direct = Direct::new(path.reopen().unwrap());
            let mut piece = Piece::new();
            let mut at = 0;
            for size in sizes {
                let part = &bytes[at..at + size];
                match part.len() {
                    PIECE => {
                        piece.copy_from_slice(part);
                        direct.write(&piece, at as u64).unwrap();
                    }
                    _ => direct.write(part, at as u64).unwrap(),
                }
                at += size;
            }
            assert!(std::fs::read(path.path()).unwrap() == bytes);
        }
    }

    /// A kill at any instruction leaves a file whose every byte was meant, so its end is never written as a padded block.
    #[test]
    fn the_end_of_a_file_takes_the_ordinary_way() {
        let path = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let mut direct = Direct::new(path.reopen().unwrap());
        direct.write(&[7; 8192], 0).unwrap();
        let blocks_are_direct = direct.is_direct();
        direct.write(&[8; 5000], 8192).unwrap();
        assert!(!direct.is_direct(), "direct before: {blocks_are_direct}");
        assert_eq!(path.path().metadata().unwrap().len(), 13_192);
    }
}
