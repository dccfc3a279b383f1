//! A tar writer for tests: it writes whatever it is told, nonsense and attacks included.

use std::io::Write as _;

/// One entry to be written. `Default` is an empty file of root's, mode 0644, from 2001-09-09.
#[derive(Clone, Debug)]
pub struct Item {
    pub path: Vec<u8>,
    /// The type flag.
    pub flag: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub data: Vec<u8>,
    /// More PAX records.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Item {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            flag: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1_000_000_000, 0),
            link: Vec::new(),
            device: (0, 0),
            data: Vec::new(),
            pax: Vec::new(),
        }
    }
}

impl Item {
    pub fn new(path: &str, flag: u8) -> Self {
        let mode = match flag {
            b'5' => 0o755,
            b'2' => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.into(),
            flag,
            mode,
            ..Self::default()
        }
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.mtime = (seconds, nanos);
        self
    }

    pub fn link(mut self, target: &str) -> Self {
        self.link = target.into();
        self
    }

    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }

    pub fn pax(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }

    pub fn xattr(self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

/// A tar being written.
#[derive(Clone, Debug, Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn folder(self, path: &str) -> Self {
        self.item(Item::new(path, b'5'))
    }

    pub fn file(self, path: &str, data: &str) -> Self {
        self.item(Item::new(path, b'0').data(data))
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.item(Item::new(path, b'2').link(target))
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.item(Item::new(path, b'1').link(target))
    }

    /// Hides `folder/name` of lower layers.
    pub fn whiteout(self, folder: &str, name: &str) -> Self {
        self.file(&format!("{folder}/.wh.{name}"), "")
    }

    /// Hides all that lower layers have in `folder`.
    pub fn opaque(self, folder: &str) -> Self {
        self.file(&format!("{folder}/.wh..wh..opq"), "")
    }

    /// Adds an entry, behind a PAX header where ustar cannot say it all.
    pub fn item(mut self, item: Item) -> Self {
        let mut pax = Vec::new();
        let mut long = |key: &str, text: &[u8]| {
            if text.len() > 100 {
                record(&mut pax, key.as_bytes(), text);
            }
        };
        long("path", &item.path);
        long("linkpath", &item.link);
        let mut number = |key: &str, n: u32| {
            if n > 0o7_777_777 {
                record(&mut pax, key.as_bytes(), n.to_string().as_bytes());
            }
        };
        number("uid", item.uid);
        number("gid", item.gid);
        if item.mtime.1 != 0 || item.mtime.0 < 0 {
            record(&mut pax, b"mtime", decimal_time(item.mtime).as_bytes());
        }
        for (key, value) in &item.pax {
            record(&mut pax, key, value);
        }
        if !pax.is_empty() {
            self.raw(&header(&Item {
                path: b"pax".to_vec(),
                flag: b'x',
                data: pax.clone(),
                ..Item::default()
            }));
            self.padded(&pax);
        }
        self.raw(&header(&item));
        self.padded(&item.data);
        self
    }

    /// The same, behind an entry for the root.
    pub fn after_root(self) -> Self {
        let mut root = Self::new().folder("./");
        root.raw(&self.0);
        root
    }

    /// Adds bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Adds bytes, and zeros up to the next block.
    pub fn padded(&mut self, bytes: &[u8]) {
        self.raw(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The whole, with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.raw(&[0; 1024]);
        self.0
    }
}

/// The header block of an item; what does not fit is cut off.
pub fn header(item: &Item) -> [u8; 512] {
    let mut h = [0u8; 512];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        let n = bytes.len().min(room);
        h[at..at + n].copy_from_slice(&bytes[..n]);
    };
    let octal = |n: u64, digits: usize| format!("{n:0digits$o}").into_bytes();
    put(0, 100, &item.path);
    put(100, 7, &octal(item.mode.into(), 7));
    put(108, 7, &octal(u64::from(item.uid) & 0o7_777_777, 7));
    put(116, 7, &octal(u64::from(item.gid) & 0o7_777_777, 7));
    put(124, 11, &octal(item.data.len() as u64, 11));
    put(136, 11, &octal(item.mtime.0.max(0).cast_unsigned(), 11));
    put(156, 1, &[item.flag]);
    put(157, 100, &item.link);
    put(257, 8, b"ustar\x0000");
    put(329, 7, &octal(item.device.0.into(), 7));
    put(337, 7, &octal(item.device.1.into(), 7));
    sum(&mut h);
    h
}

/// Writes the checksum.
pub fn sum(h: &mut [u8; 512]) {
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|&b| u32::from(b)).sum();
    let text = format!("{sum:06o}\0 ");
    h[148..156].copy_from_slice(text.as_bytes());
}

/// Adds `LENGTH KEY=VALUE\n`, where the length counts its own digits.
pub fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    // Writing to a Vec does not fail.
    let _ = write!(out, "{length} ");
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn decimal_time((seconds, nanos): (i64, u32)) -> String {
    match seconds < 0 && nanos > 0 {
        // 0.75 s after -2 s is -1.25 s.
        true => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
        false => format!("{seconds}.{nanos:09}"),
    }
}
