//! The first root file system of an emulated guest: xtask itself as `/init`, its job, and the modules that
//! reach this machine's files. An archive in cpio's "newc" form, which the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs;
use std::path::Path;

use crate::failure::{Context, Result};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, &[]);
    }

    pub fn program(&mut self, name: &str, from: &Path) -> Result<()> {
        self.entry(name, PROGRAM, &fs::read(from).context(from.display())?);
        Ok(())
    }

    pub fn file(&mut self, name: &str, from: &Path) -> Result<()> {
        self.entry(name, FILE, &fs::read(from).context(from.display())?);
        Ok(())
    }

    pub fn write(mut self, to: &Path) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[]);
        fs::write(to, &self.bytes).context(to.display())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // Inode, mode, uid, gid, links, time, size, four device numbers, length of the name, no checksum.
        let size = content.len() as u32;
        let length = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_sized() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.entry("a", FILE, b"hello");
        let text = String::from_utf8(archive.bytes).unwrap();
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        let second = text.find("07070100000002").unwrap();
        assert_eq!(second % 4, 0);
        assert_eq!(&text[second + 54..second + 62], "00000005");
        assert!(text.ends_with("hello\0\0\0"));
    }
}
