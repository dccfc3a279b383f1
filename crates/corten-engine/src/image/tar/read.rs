//! Where the members of a tar are: names, kinds, sizes and offsets. Contents are passed over, and bytes that
//! are no tar are an error, whatever they are.

use std::io::{self, Read, Seek, SeekFrom};

use super::{BLOCK, Kind};

/// Bytes of one extended header: names are at most a few thousand.
const HEADER_MAX: u64 = 1 << 20;
/// Extended headers before one member.
const HEADERS_MAX: u32 = 16;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Character device 0:0, which in a layer is a whiteout.
    pub is_null_device: bool,
    /// Of its content in the archive, in bytes.
    pub size: u64,
    /// Where its content begins.
    pub offset: u64,
}

/// Why bytes are no tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it is no tar: {why} at byte {offset}")]
    Form { offset: u64, why: &'static str },
}

/// Something to read that can be told to go on.
pub trait Input: Read {
    /// `false`: there were fewer bytes.
    fn skip(&mut self, bytes: u64) -> io::Result<bool>;
}

impl<T: Read + Seek> Input for T {
    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        let Ok(by) = i64::try_from(bytes) else {
            return Ok(false);
        };
        if by > 0 {
            // Seeking beyond the end works; the byte before it tells whether that was so.
            self.seek(SeekFrom::Current(by - 1))?;
            return Ok(self.read(&mut [0])? == 1);
        }
        Ok(true)
    }
}

/// A stream that only goes forward.
pub struct Forward<R>(pub R);

impl<R: Read> Read for Forward<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Seek for Forward<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Current(by) = to else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let by = u64::try_from(by).map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        io::copy(&mut (&mut self.0).take(by), &mut io::sink())
    }
}

/// The members, in their order.
pub struct Members<R> {
    input: R,
    offset: u64,
    /// What is left of the last member's content, with its padding.
    left: u64,
}

#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Input> Members<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            left: 0,
        }
    }

    /// The next member; `None` at the end, which a tar need not mark.
    pub fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extended = Extended::default();
        for _ in 0..HEADERS_MAX {
            self.pass()?;
            let Some(block) = self.block()? else {
                return match extended.path.is_some() || extended.link.is_some() {
                    true => Err(self.form("it ends behind a header")),
                    false => Ok(None),
                };
            };
            if block.iter().all(|&b| b == 0) {
                return Ok(None);
            }
            self.check(&block)?;
            let size = self.number(&block[124..136])?;
            match block[156] {
                b'L' => extended.path = Some(until_nul(self.content(size)?)),
                b'K' => extended.link = Some(until_nul(self.content(size)?)),
                b'x' => self.pax(size, &mut extended)?,
                b'g' => {
                    self.content(size)?;
                }
                flag => return self.member(&block, flag, size, extended).map(Some),
            }
        }
        Err(self.form("there are too many headers before a member"))
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        flag: u8,
        size: u64,
        extended: Extended,
    ) -> Result<Member, TarError> {
        let kind = match flag {
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            _ => return Err(self.form("there is an entry of an unknown kind")),
        };
        // GNU's old form of sparse files has more blocks of header (tar's manual, "Old GNU Format").
        let mut more = flag == b'S' && block[482] != 0;
        while more {
            let next = self
                .block()?
                .ok_or_else(|| self.form("it ends in a header"))?;
            more = next[504] != 0;
        }
        let size = match kind {
            Kind::File => extended.size.unwrap_or(size),
            _ => 0,
        };
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        self.left = padded.ok_or_else(|| self.form("there is an impossible size"))?;
        let named = extended.sparse_name.or(extended.path);
        Ok(Member {
            path: named.unwrap_or_else(|| name(block)),
            link: extended.link.unwrap_or_else(|| field(&block[157..257])),
            kind,
            is_null_device: kind == Kind::Char
                && self.number(&block[329..337]).unwrap_or(1) == 0
                && self.number(&block[337..345]).unwrap_or(1) == 0,
            size,
            offset: self.offset,
        })
    }

    /// Goes on behind the last member's content.
    fn pass(&mut self) -> Result<(), TarError> {
        let left = std::mem::take(&mut self.left);
        if !self.input.skip(left)? {
            return Err(self.form("it ends within a member"));
        }
        self.offset += left;
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.form("it ends within a header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn content(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > HEADER_MAX {
            return Err(self.form("there is a header of more than a megabyte"));
        }
        let mut bytes = Vec::new();
        let whole = size.next_multiple_of(BLOCK as u64);
        (&mut self.input).take(whole).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != whole {
            return Err(self.form("it ends within a header"));
        }
        self.offset += whole;
        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// POSIX's records: `LENGTH KEY=VALUE\n`.
    fn pax(&mut self, size: u64, extended: &mut Extended) -> Result<(), TarError> {
        let bytes = self.content(size)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let record = record(rest).ok_or_else(|| self.form("there is a malformed header"))?;
            let (key, value, length) = record;
            match key {
                b"path" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"GNU.sparse.name" => extended.sparse_name = Some(value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).ok();
                    let size = text.and_then(|t| t.parse().ok());
                    extended.size =
                        Some(size.ok_or_else(|| self.form("there is an impossible size"))?);
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    fn check(&self, block: &[u8; BLOCK]) -> Result<(), TarError> {
        let sum = |signed: bool| -> i64 {
            let bytes = block.iter().enumerate();
            let bytes = bytes.map(|(i, &b)| if (148..156).contains(&i) { b' ' } else { b });
            bytes
                .map(|b| {
                    if signed {
                        i64::from(b.cast_signed())
                    } else {
                        i64::from(b)
                    }
                })
                .sum()
        };
        let found = i64::try_from(self.number(&block[148..156])?).ok();
        match found == Some(sum(false)) || found == Some(sum(true)) {
            true => Ok(()),
            false => Err(self.form("there is no valid header")),
        }
    }

    /// Octal digits, or (GNU) a number in base 256.
    fn number(&self, bytes: &[u8]) -> Result<u64, TarError> {
        let wrong = || self.form("a number cannot be read");
        if bytes[0] & 0x80 != 0 {
            let mut value = u64::from(bytes[0] & 0x7f);
            for &b in &bytes[1..] {
                value = value.checked_mul(256).ok_or_else(wrong)? + u64::from(b);
            }
            return Ok(value);
        }
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| wrong())?.trim();
        match text {
            "" => Ok(0),
            digits => u64::from_str_radix(digits, 8).map_err(|_| wrong()),
        }
    }

    fn form(&self, why: &'static str) -> TarError {
        TarError::Form {
            offset: self.offset,
            why,
        }
    }
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let space = bytes.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], length))
}

fn name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = field(&block[..100]);
    // POSIX's prefix; GNU has other things there.
    match &block[257..263] == b"ustar\0" && block[345] != 0 {
        true => [field(&block[345..500]), name].join(&b'/'),
        false => name,
    }
}

fn field(bytes: &[u8]) -> Vec<u8> {
    until_nul(bytes.to_vec())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}
