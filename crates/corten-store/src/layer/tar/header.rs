//! The 512-byte header block and the numbers in it.

use std::ops::Range;

use super::Type;
use crate::layer::LayerError;

/// One block, whatever it turns out to be.
pub(super) struct Block([u8; 512]);

/// The layouts that differ in what follows the magic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
    /// ustar with a shorter prefix, then times.
    Star,
}

impl Block {
    pub fn new(bytes: [u8; 512]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; 512] {
        &self.0
    }

    pub fn is_zero(&self) -> bool {
        self.0 == [0; 512]
    }

    pub fn flag(&self) -> u8 {
        self.0[156]
    }

    /// The sum of all bytes, its own field taken as blanks. Some old archivers summed signed bytes.
    pub fn check(&self, offset: u64) -> Result<(), LayerError> {
        let mut unsigned = 8 * i64::from(b' ');
        let mut signed = unsigned;
        for (i, &b) in self.0.iter().enumerate() {
            if !(148..156).contains(&i) {
                unsigned += i64::from(b);
                signed += i64::from(b.cast_signed());
            }
        }
        let stored = self.number(148..156, offset)?;
        match stored == unsigned || stored == signed || cfg!(fuzzing) {
            true => Ok(()),
            false => Err(LayerError::Header {
                offset,
                why: "its checksum is wrong",
            }),
        }
    }

    fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            m if m.starts_with(b"ustar\0") => match &self.0[508..512] {
                b"tar\0" => Format::Star,
                _ => Format::Ustar,
            },
            _ => Format::V7,
        }
    }

    pub fn path(&self) -> Vec<u8> {
        let name = self.text(0..100);
        let prefix = match self.format() {
            Format::Ustar => self.text(345..500),
            Format::Star => self.text(345..476),
            // GNU has times and the sparse map there.
            Format::V7 | Format::Gnu => b"",
        };
        match prefix {
            b"" => name.to_vec(),
            _ => [prefix, b"/", name].concat(),
        }
    }

    pub fn link(&self) -> Vec<u8> {
        self.text(157..257).to_vec()
    }

    /// `None` where images have no such thing. V7 marked folders by a slash only.
    pub fn kind(&self, trailing_slash: bool) -> Option<Type> {
        Some(match self.flag() {
            0 | b'0' if trailing_slash => Type::Folder,
            // 7: contiguous, which no system has cared about since.
            0 | b'0' | b'7' | b'S' => Type::File,
            b'1' => Type::Hardlink,
            b'2' => Type::Symlink,
            b'3' => Type::Char,
            b'4' => Type::Block,
            b'5' | b'D' => Type::Folder,
            b'6' => Type::Fifo,
            _ => return None,
        })
    }

    pub fn size(&self, offset: u64) -> Result<u64, LayerError> {
        self.unsigned(124..136, offset, "its size is no size")
    }

    pub fn mode(&self, offset: u64) -> Result<u32, LayerError> {
        // Some archivers keep the file type in the higher bits.
        Ok((self.number(100..108, offset)? & 0o7777) as u32)
    }

    pub fn uid(&self, offset: u64) -> Result<u32, LayerError> {
        id(self.number(108..116, offset)?, offset)
    }

    pub fn gid(&self, offset: u64) -> Result<u32, LayerError> {
        id(self.number(116..124, offset)?, offset)
    }

    pub fn mtime(&self, offset: u64) -> Result<(i64, u32), LayerError> {
        Ok((self.number(136..148, offset)?, 0))
    }

    pub fn device(&self, offset: u64) -> Result<(u32, u32), LayerError> {
        let part = |range| {
            let n = self.unsigned(range, offset, "its device number is too big")?;
            // Linux: 12 bits of major, 20 of minor.
            u32::try_from(n).map_err(|_| LayerError::Header {
                offset,
                why: "its device number is too big",
            })
        };
        let (major, minor) = (part(329..337)?, part(337..345)?);
        match major < 1 << 12 && minor < 1 << 20 {
            true => Ok((major, minor)),
            false => Err(LayerError::Header {
                offset,
                why: "its device number is too big",
            }),
        }
    }

    pub fn unsigned(
        &self,
        range: Range<usize>,
        offset: u64,
        why: &'static str,
    ) -> Result<u64, LayerError> {
        u64::try_from(self.number(range, offset)?).map_err(|_| LayerError::Header { offset, why })
    }

    /// Up to the first NUL.
    fn text(&self, range: Range<usize>) -> &[u8] {
        let field = &self.0[range];
        let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
        &field[..end]
    }

    /// Octal digits, or GNU's and star's base 256: the first byte's top bit, then two's complement.
    pub fn number(&self, range: Range<usize>, offset: u64) -> Result<i64, LayerError> {
        let bad = |why| LayerError::Header { offset, why };
        let field = &self.0[range];
        if field[0] & 0x80 != 0 {
            return base256(field).ok_or_else(|| bad("a number in it has more than 63 bits"));
        }
        let blank = |b: &u8| *b == b' ' || *b == 0;
        let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
        let digits = &field[start..];
        let end = digits.iter().position(blank).unwrap_or(digits.len());
        digits[..end].iter().try_fold(0i64, |n, &b| match b {
            // A field has twelve bytes at most: 36 bits.
            b'0'..=b'7' => Ok(n << 3 | i64::from(b - b'0')),
            _ => Err(bad("a number in it has a character that is no octal digit")),
        })
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    // Bit 6 of the first byte is the sign.
    let negative = field[0] & 0x40 != 0;
    let first = match negative {
        true => i128::from(field[0] | 0x80) - 256,
        false => i128::from(field[0] & 0x3f),
    };
    // Twelve bytes: 94 bits, which i128 holds.
    let n = field[1..]
        .iter()
        .fold(first, |n, &b| n * 256 + i128::from(b));
    i64::try_from(n).ok()
}

/// A user or group. The last value is chown's word for "leave it".
pub(super) fn id(n: i64, offset: u64) -> Result<u32, LayerError> {
    match u32::try_from(n) {
        Ok(n) if n != u32::MAX => Ok(n),
        _ => Err(LayerError::Header {
            offset,
            why: "its user or group id has more than 32 bits",
        }),
    }
}
