//! Maps of sparse files, in GNU tar's four forms.

use super::header::Block;
use super::pax::decimal;
use crate::layer::LayerError;

/// A run of stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug)]
pub(super) struct Map {
    /// Of the file with its holes.
    pub size: u64,
    pub segments: Vec<Segment>,
    /// Old GNU: another block of map follows.
    pub more: bool,
    /// PAX 1.0: the map is yet to be read from the data.
    pub in_data: bool,
}

impl Map {
    pub fn new(size: u64, segments: Vec<Segment>) -> Self {
        Self {
            size,
            segments,
            more: false,
            in_data: false,
        }
    }

    pub fn in_data(size: u64) -> Self {
        Self {
            in_data: true,
            ..Self::new(size, Vec::new())
        }
    }

    /// Four pairs in the header itself, then a flag, then the size.
    pub fn old_gnu(block: &Block, offset: u64) -> Result<Self, LayerError> {
        let size = block.unsigned(483..495, offset, "its sparse size is negative")?;
        let mut map = Self::new(size, Vec::new());
        map.push_old_gnu(block, 386, 4, offset)?;
        map.more = block.bytes()[482] != 0;
        Ok(map)
    }

    /// Twenty-one more; tells whether yet another block follows.
    pub fn extend_old_gnu(
        &mut self,
        block: &Block,
        offset: u64,
        bound: u64,
    ) -> Result<bool, LayerError> {
        self.push_old_gnu(block, 0, 21, offset)?;
        match (self.segments.len() as u64).saturating_mul(24) > bound {
            true => Err(too_long(bound)),
            false => Ok(block.bytes()[504] != 0),
        }
    }

    fn push_old_gnu(
        &mut self,
        block: &Block,
        start: usize,
        pairs: usize,
        offset: u64,
    ) -> Result<(), LayerError> {
        for at in (start..).step_by(24).take(pairs) {
            if block.bytes()[at] == 0 {
                break;
            }
            let number = |range| block.unsigned(range, offset, "its sparse map is malformed");
            self.segments.push(Segment {
                offset: number(at..at + 12)?,
                length: number(at + 12..at + 24)?,
            });
        }
        Ok(())
    }

    /// In order, apart from each other, inside the file, and together as long as what is `stored`.
    pub fn check(&self, stored: u64, offset: u64) -> Result<(), LayerError> {
        let mut end = 0u64;
        let mut total = 0u64;
        for s in &self.segments {
            let next = s.offset.checked_add(s.length);
            match next {
                Some(next) if s.offset >= end && next <= self.size => end = next,
                _ => {
                    return Err(LayerError::Header {
                        offset,
                        why: "its sparse map overlaps itself or exceeds the file",
                    });
                }
            }
            // Cannot overflow: the segments lie apart below 2^64.
            total += s.length;
        }
        match total == stored {
            true => Ok(()),
            false => Err(LayerError::Header {
                offset,
                why: "its sparse map and its data differ in length",
            }),
        }
    }
}

fn too_long(bound: u64) -> LayerError {
    LayerError::Limit {
        what: "bytes of sparse map",
        limit: bound,
    }
}

/// PAX 1.0: a count, then as many pairs, one decimal number a line.
pub(super) struct Lines {
    size: u64,
    bound: u64,
    read: u64,
    line: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    segments: Vec<Segment>,
}

impl Lines {
    pub fn new(size: u64, bound: u64) -> Self {
        Self {
            size,
            bound,
            read: 0,
            line: Vec::new(),
            count: None,
            offset: None,
            segments: Vec::new(),
        }
    }

    pub fn done(&self) -> bool {
        self.count == Some(self.segments.len() as u64)
    }

    /// One block; what follows the last line in it is padding.
    pub fn feed(&mut self, block: &[u8], offset: u64) -> Result<(), LayerError> {
        self.read += block.len() as u64;
        if self.read > self.bound {
            return Err(too_long(self.bound));
        }
        let bad = LayerError::Header {
            offset,
            why: "its sparse map is malformed",
        };
        for &b in block {
            if self.done() {
                break;
            }
            if b != b'\n' {
                self.line.push(b);
                if self.line.len() > 20 {
                    return Err(bad);
                }
                continue;
            }
            let Some(n) = decimal(&self.line) else {
                return Err(bad);
            };
            self.line.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(n),
                (Some(_), None) => self.offset = Some(n),
                (Some(_), Some(offset)) => self.segments.push(Segment { offset, length: n }),
            }
        }
        Ok(())
    }

    pub fn finish(self) -> Map {
        Map::new(self.size, self.segments)
    }
}
