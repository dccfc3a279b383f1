//! Tar: bytes in, entries out. POSIX ustar and pax, GNU's and star's extensions, old V7.
//!
//! Knows no file system and trusts no byte: every size is bounded before it is believed, and
//! nothing is allocated by a number that the input names. What the entries mean is for `entry` to say.
//!
//! Sources: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax Header"; the GNU tar manual,
//! appendices "Standard", "Extensions" and "Sparse Formats"; star(5).

mod header;
mod pax;
mod sparse;

pub use sparse::Segment;

use std::io::BufRead;
use std::mem;

use super::{LayerError, Limits};
use header::Block;
use pax::Pax;

const BLOCK: u64 = 512;

/// What an entry is, before anyone asks what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    Folder,
    Hardlink,
    Symlink,
    Char,
    Block,
    Fifo,
}

/// One entry: all that its headers said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link.
    pub link: Vec<u8>,
    pub kind: Type,
    /// Permission bits, set-id and sticky included.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds (which may be negative) and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    /// Of the file as it will read, holes included.
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong, in order; all else is a hole. `None`: the file is stored whole.
    pub sparse: Option<Vec<Segment>>,
}

/// Reads one tar.
pub struct Reader<R> {
    source: R,
    limits: Limits,
    /// Of the next byte.
    offset: u64,
    /// Bytes of the last chunk handed out, still to be consumed.
    lent: usize,
    /// Stored bytes of the current entry that are left.
    left: u64,
    /// Padding after them.
    padding: u64,
    /// Some of it, of whatever entry, was not zero.
    odd_padding: bool,
    global: Pax,
    entries: u64,
    ended: bool,
}

/// Headers that speak of the entry after them.
#[derive(Default)]
struct Ahead {
    pax: Pax,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    pub fn new(source: R, limits: &Limits) -> Self {
        Self {
            source,
            limits: limits.clone(),
            offset: 0,
            lent: 0,
            left: 0,
            padding: 0,
            odd_padding: false,
            global: Pax::default(),
            entries: 0,
            ended: false,
        }
    }

    /// The next entry; what was not read of the one before is skipped. `None` after the archive's end.
    pub fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip_rest()?;
        let mut ahead = Ahead::default();
        loop {
            let start = self.offset;
            let Some(block) = self.header()? else {
                return match ahead.is_empty() {
                    true => Ok(None),
                    false => Err(LayerError::TruncatedTar { offset: start }),
                };
            };
            match block.flag() {
                b'x' | b'X' => ahead.pax.extend(&self.meta(&block)?, start)?,
                b'g' => {
                    let bytes = self.meta(&block)?;
                    self.global.extend(&bytes, start)?;
                    self.global.check_size(self.limits.header)?;
                }
                b'L' => ahead.path = Some(until_nul(self.meta(&block)?)),
                b'K' => ahead.link = Some(until_nul(self.meta(&block)?)),
                // The volume's label.
                b'V' => self.pass_over(&block)?,
                _ => return self.entry(&block, ahead, start).map(Some),
            }
        }
    }

    /// Where the next byte is.
    pub fn offset(&self) -> u64 {
        self.offset + self.lent as u64
    }

    /// Has anything but zeros followed the contents of an entry, up to its last block's end?
    pub fn has_odd_padding(&self) -> bool {
        self.odd_padding
    }

    /// Whom it reads from.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next stored bytes of the current entry; `None` when there are no more.
    pub fn chunk(&mut self) -> Result<Option<&[u8]>, LayerError> {
        self.return_lent();
        if self.left == 0 {
            return Ok(None);
        }
        let offset = self.offset;
        let buffer = fill(&mut self.source, offset)?;
        if buffer.is_empty() {
            return Err(LayerError::TruncatedTar { offset });
        }
        let n = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.lent = n;
        self.left -= n as u64;
        Ok(Some(&buffer[..n]))
    }

    /// Reads to the end of the source, past the archive's end too: the digest covers those bytes as well.
    pub fn drain(mut self) -> Result<R, LayerError> {
        self.return_lent();
        loop {
            let n = fill(&mut self.source, self.offset)?.len();
            if n == 0 {
                return Ok(self.source);
            }
            self.consume(n)?;
        }
    }

    fn entry(&mut self, block: &Block, mut ahead: Ahead, start: u64) -> Result<Entry, LayerError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LayerError::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        let bad = |why| LayerError::Header { offset: start, why };
        let pax = mem::take(&mut ahead.pax).over(&self.global);
        let (path, link) = ahead.names(block, &pax);
        if path.contains(&0) || link.contains(&0) {
            return Err(bad("a name has a NUL byte"));
        }
        let kind = block
            .kind(path.last() == Some(&b'/'))
            .ok_or_else(|| bad("its type is none that an image can have"))?;
        let stored = match kind {
            // Archivers disagree on whether a link's size counts; none stores bytes after one.
            Type::File => pax.size(start)?.map_or_else(|| block.size(start), Ok)?,
            _ if block.flag() == b'D' => block.size(start)?,
            _ => 0,
        };
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK;
        let sparse = self.sparse(block, &pax, start)?;
        let mtime = pax.mtime(start)?.map_or_else(|| block.mtime(start), Ok)?;
        let entry = Entry {
            path,
            link,
            kind,
            mode: block.mode(start)?,
            uid: pax.uid(start)?.map_or_else(|| block.uid(start), Ok)?,
            gid: pax.gid(start)?.map_or_else(|| block.gid(start), Ok)?,
            mtime,
            device: match kind {
                Type::Char | Type::Block => block.device(start)?,
                _ => (0, 0),
            },
            size: sparse.as_ref().map_or(stored, |s| s.size),
            xattrs: pax.xattrs(),
            sparse: sparse.map(|s| s.segments),
        };
        if block.flag() == b'D' {
            // The list of names in a GNU incremental dump.
            self.skip_rest()?;
        }
        Ok(entry)
    }

    /// The map of a sparse file, in whichever of its four forms.
    fn sparse(
        &mut self,
        block: &Block,
        pax: &Pax,
        start: u64,
    ) -> Result<Option<sparse::Map>, LayerError> {
        let bound = self.limits.header;
        let map = if block.flag() == b'S' {
            let mut map = sparse::Map::old_gnu(block, start)?;
            let mut more = map.more;
            while more {
                let next = self
                    .block()?
                    .ok_or(LayerError::TruncatedTar { offset: start })?;
                more = map.extend_old_gnu(&next, start, bound)?;
            }
            map
        } else if let Some(map) = pax.sparse(start)? {
            if map.in_data {
                self.sparse_in_data(map.size, start)?
            } else {
                map
            }
        } else {
            return Ok(None);
        };
        map.check(self.left, start)?;
        Ok(Some(map))
    }

    /// PAX sparse 1.0: the map stands before the data, as decimal lines, padded to a block.
    fn sparse_in_data(&mut self, size: u64, start: u64) -> Result<sparse::Map, LayerError> {
        let mut lines = sparse::Lines::new(size, self.limits.header);
        while !lines.done() {
            if self.left < BLOCK {
                return Err(LayerError::Header {
                    offset: start,
                    why: "its sparse map is longer than its data",
                });
            }
            let block = self
                .block()?
                .ok_or(LayerError::TruncatedTar { offset: start })?;
            self.left -= BLOCK;
            lines.feed(block.bytes(), start)?;
        }
        Ok(lines.finish())
    }

    /// The contents of a header that is a file of its own: a PAX header or a GNU long name.
    fn meta(&mut self, block: &Block) -> Result<Vec<u8>, LayerError> {
        let size = block.size(self.offset)?;
        if size > self.limits.header {
            return Err(LayerError::Limit {
                what: "bytes in one extended header",
                limit: self.limits.header,
            });
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk()? {
            bytes.extend_from_slice(chunk);
        }
        self.skip_rest()?;
        Ok(bytes)
    }

    fn pass_over(&mut self, block: &Block) -> Result<(), LayerError> {
        let size = block.size(self.offset)?;
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        self.skip_rest()
    }

    /// The next header; `None` at the end mark or at the end of the bytes.
    fn header(&mut self) -> Result<Option<Block>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if !block.is_zero() {
            block.check(start)?;
            return Ok(Some(block));
        }
        self.ended = true;
        match self.block()? {
            Some(second) if !second.is_zero() => Err(LayerError::Header {
                offset: start,
                why: "a lone block of zeros is no end mark",
            }),
            _ => Ok(None),
        }
    }

    /// 512 bytes; `None` if the source ends right here.
    fn block(&mut self) -> Result<Option<Block>, LayerError> {
        let mut bytes = [0u8; BLOCK as usize];
        let mut have = 0;
        let start = self.offset;
        while have < bytes.len() {
            let buffer = fill(&mut self.source, self.offset)?;
            if buffer.is_empty() {
                return match have {
                    0 => Ok(None),
                    _ => Err(LayerError::TruncatedTar { offset: start }),
                };
            }
            let n = buffer.len().min(bytes.len() - have);
            bytes[have..have + n].copy_from_slice(&buffer[..n]);
            have += n;
            self.consume(n)?;
        }
        Ok(Some(Block::new(bytes)))
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        self.return_lent();
        let padding = mem::take(&mut self.padding);
        let mut left = self
            .left
            .checked_add(padding)
            .ok_or(LayerError::TruncatedTar {
                offset: self.offset,
            })?;
        self.left = 0;
        while left > 0 {
            let buffer = fill(&mut self.source, self.offset)?;
            if buffer.is_empty() {
                return Err(LayerError::TruncatedTar {
                    offset: self.offset,
                });
            }
            let n = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            // The padding is the end of what is left.
            let contents = usize::try_from(left.saturating_sub(padding)).unwrap_or(usize::MAX);
            let padded = buffer[..n].get(contents..).unwrap_or_default();
            self.odd_padding |= padded.iter().any(|&b| b != 0);
            self.consume(n)?;
            left -= n as u64;
        }
        Ok(())
    }

    fn return_lent(&mut self) {
        let n = mem::take(&mut self.lent);
        self.source.consume(n);
        self.offset += n as u64;
    }

    fn consume(&mut self, n: usize) -> Result<(), LayerError> {
        self.source.consume(n);
        self.offset += n as u64;
        match self.offset > self.limits.unpacked {
            true => Err(LayerError::Limit {
                what: "unpacked bytes",
                limit: self.limits.unpacked,
            }),
            false => Ok(()),
        }
    }
}

impl Ahead {
    /// Name and target: PAX speaks before GNU, and both before the header.
    fn names(self, block: &Block, pax: &Pax) -> (Vec<u8>, Vec<u8>) {
        let path = pax.path().map(<[u8]>::to_vec).or(self.path);
        let link = pax.link().map(<[u8]>::to_vec).or(self.link);
        (
            path.unwrap_or_else(|| block.path()),
            link.unwrap_or_else(|| block.link()),
        )
    }

    fn is_empty(&self) -> bool {
        self.pax.is_empty() && self.path.is_none() && self.link.is_none()
    }
}

fn fill<R: BufRead>(source: &mut R, offset: u64) -> Result<&[u8], LayerError> {
    source
        .fill_buf()
        .map_err(|source| LayerError::Read { offset, source })
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|&b| b == 0) {
        name.truncate(end);
    }
    name
}

#[cfg(test)]
mod tests;
