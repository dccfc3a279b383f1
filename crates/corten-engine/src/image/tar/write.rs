//! Writing tars: ustar headers, and POSIX's extended ones for what those cannot say. The same entries
//! give the same bytes.

use std::io::{self, Read, Write};

use super::{BLOCK, Kind};

/// The largest numbers that the octal fields hold.
const SIZE_MAX: u64 = 0o77_777_777_777;
const ID_MAX: u32 = 0o7_777_777;
const NAME_MAX: usize = 100;

/// What a member is to look like.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub path: &'a [u8],
    pub kind: Kind,
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of a file, holes included.
    pub size: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    /// Names with their namespace, such as `user.x`.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Where a file with holes has data: offset and length, in order. The content is these parts, one after the other.
    pub data: Option<&'a [(u64, u64)]>,
}

impl<'a> Entry<'a> {
    /// A plain file of root's from 1970, as in archives of images.
    pub fn file(path: &'a [u8], size: u64) -> Self {
        Self {
            path,
            kind: Kind::File,
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: &[],
            data: None,
        }
    }
}

/// Writes members one after the other.
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a member; of a file, exactly its bytes are read from `content`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the content is shorter than was said.
    pub fn entry(&mut self, entry: &Entry<'_>, content: &mut dyn Read) -> io::Result<()> {
        let map = entry.data.map(sparse_map);
        let stored = match (entry.kind, entry.data) {
            (Kind::File, Some(parts)) => {
                map.as_ref().map_or(0, Vec::len) as u64 + parts.iter().map(|p| p.1).sum::<u64>()
            }
            (Kind::File, None) => entry.size,
            _ => 0,
        };
        let records = records(entry, stored);
        let long = entry.path.len() > NAME_MAX || entry.data.is_some();
        let name = if long {
            short(entry.path)
        } else {
            entry.path.to_vec()
        };
        if !records.is_empty() {
            let size = records.len() as u64;
            let mut header = header(&[b"PaxHeaders/", name.as_slice()].concat(), b'x', size);
            seal(&mut header);
            self.out.write_all(&header)?;
            self.padded(&mut records.as_slice(), size)?;
        }
        self.out.write_all(&main_header(entry, &name, stored))?;
        match map {
            Some(map) => self.padded(&mut map.as_slice().chain(content), stored),
            None => self.padded(content, stored),
        }
    }

    /// The end of the archive; gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn padded(&mut self, content: &mut dyn Read, size: u64) -> io::Result<()> {
        let copied = io::copy(&mut content.take(size), &mut self.out)?;
        if copied != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.out.write_all(&[0; BLOCK][..rest])
    }
}

/// GNU's sparse format 1.0: the number of parts, then each one's offset and length, a line each, to a whole block.
fn sparse_map(parts: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", parts.len());
    for (offset, length) in parts {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn records(entry: &Entry<'_>, stored: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| out.extend(record(key, value));
    let decimal = |n: u64| n.to_string().into_bytes();
    match entry.data {
        Some(_) => {
            add(b"GNU.sparse.major", b"1");
            add(b"GNU.sparse.minor", b"0");
            add(b"GNU.sparse.name", entry.path);
            add(b"GNU.sparse.realsize", &decimal(entry.size));
        }
        None if entry.path.len() > NAME_MAX => add(b"path", entry.path),
        None => {}
    }
    if entry.link.len() > NAME_MAX {
        add(b"linkpath", entry.link);
    }
    if stored > SIZE_MAX {
        add(b"size", &decimal(stored));
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if id > ID_MAX {
            add(key, &decimal(id.into()));
        }
    }
    let (seconds, nanoseconds) = entry.mtime;
    if nanoseconds != 0 || seconds < 0 || seconds.unsigned_abs() > SIZE_MAX {
        add(b"mtime", time(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in entry.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    out
}

/// Decimal; before 1970 the fraction counts the other way.
fn time(seconds: i64, nanoseconds: u32) -> String {
    let text = match (seconds, nanoseconds) {
        (s, 0) => return s.to_string(),
        (s @ ..0, n) => {
            let whole = -(s + 1);
            format!("-{whole}.{:09}", 1_000_000_000 - n)
        }
        (s, n) => format!("{s}.{n:09}"),
    };
    text.trim_end_matches('0').to_owned()
}

/// The length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn main_header(entry: &Entry<'_>, name: &[u8], stored: u64) -> [u8; BLOCK] {
    let flag = match entry.kind {
        Kind::File => b'0',
        Kind::Hardlink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Folder => b'5',
        Kind::Fifo => b'6',
    };
    let mut header = header(name, flag, stored);
    octal(&mut header[100..108], u64::from(entry.mode & 0o7777));
    octal(&mut header[108..116], u64::from(entry.uid.min(ID_MAX)));
    octal(&mut header[116..124], u64::from(entry.gid.min(ID_MAX)));
    let seconds = u64::try_from(entry.mtime.0).unwrap_or(0);
    octal(&mut header[136..148], seconds.min(SIZE_MAX));
    let link = &entry.link[..entry.link.len().min(NAME_MAX)];
    header[157..157 + link.len()].copy_from_slice(link);
    if matches!(entry.kind, Kind::Char | Kind::Block) {
        octal(&mut header[329..337], u64::from(entry.device.0));
        octal(&mut header[337..345], u64::from(entry.device.1));
    }
    seal(&mut header);
    header
}

fn header(name: &[u8], flag: u8, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let name = &name[..name.len().min(NAME_MAX)];
    header[..name.len()].copy_from_slice(name);
    octal(&mut header[100..108], 0o644);
    octal(&mut header[108..116], 0);
    octal(&mut header[116..124], 0);
    octal(&mut header[124..136], size.min(SIZE_MAX));
    octal(&mut header[136..148], 0);
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}

/// The checksum counts its own field as blanks.
fn seal(header: &mut [u8; BLOCK]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
    octal(&mut header[148..155], sum);
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
}

/// The end of a name, for readers that know no extended headers.
fn short(path: &[u8]) -> Vec<u8> {
    let from = path.len().saturating_sub(80);
    path[from..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for n in [
            1, 5, 88, 90, 91, 92, 93, 94, 95, 96, 97, 98, 990, 9989, 99980,
        ] {
            let bytes = record(b"key", &vec![b'x'; n]);
            let text = std::str::from_utf8(&bytes).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, bytes.len(), "{n}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(5, 500_000_000), "5.5");
        assert_eq!(time(-2, 500_000_000), "-1.5");
        assert_eq!(time(-1, 0), "-1");
    }
}
