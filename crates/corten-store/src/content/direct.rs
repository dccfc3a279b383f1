//! Writing past the page cache: what a pull writes is not read again soon, and copying it there costs as much as inflating it.
//!
//! Direct I/O (open(2), `O_DIRECT`) wants memory, offset and length in whole blocks. [`Piece`] is such memory; [`Direct`] writes what fits as it is,
//! pads the end of a file, and takes the ordinary way where the file system or the shape of the bytes leaves no other.

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
        let is_block = |n: usize| n.is_multiple_of(BLOCK);
        if self.is_direct && !at.is_multiple_of(BLOCK as u64) {
            self.give_up()?;
        }
        if !self.is_direct {
            return self.file.write_all_at(bytes, at);
        }
        let outcome = match is_block(bytes.as_ptr() as usize) && is_block(bytes.len()) {
            true => self.file.write_all_at(bytes, at),
            false => self.padded(bytes, at),
        };
        match outcome {
            // A file system that takes the flag and not the writes, or a write that was cut short.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.give_up()?;
                self.file.write_all_at(bytes, at)
            }
            other => other,
        }
    }

    /// Whole blocks through memory of their own; the length is put right after the last.
    fn padded(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut piece = Piece::new();
        let mut done = 0u64;
        for part in bytes.chunks(PIECE) {
            piece[..part.len()].copy_from_slice(part);
            let whole = part.len().next_multiple_of(BLOCK);
            piece[part.len()..whole].fill(0);
            self.file.write_all_at(&piece[..whole], at + done)?;
            done += part.len() as u64;
        }
        self.file.set_len(at + done)
    }

    fn give_up(&mut self) -> io::Result<()> {
        self.is_direct = false;
        Ok(set(&self.file, false)?)
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
}
