//! The tar, passing once: through the hash that is the layer's diff id and, where the layer keeps its tar, into a file.

use std::fs::File;
use std::io::{self, BufRead, Read};

use corten_spec::Digest;
use corten_spec::digest::Hasher;

use crate::content::direct::Direct;

pub(super) struct Record<R> {
    source: R,
    hasher: Hasher,
    file: Option<Direct>,
    /// Bytes consumed by whoever reads.
    taken: u64,
    /// Bytes that went through.
    recorded: u64,
    /// From here on there is nothing but the padding of an archive that has ended.
    is_padding: bool,
}

impl<R: BufRead> Record<R> {
    pub fn new(source: R, hasher: Hasher, file: Option<File>) -> Self {
        Self {
            source,
            hasher,
            file: file.map(Direct::new),
            taken: 0,
            recorded: 0,
            is_padding: false,
        }
    }

    /// The archive has ended. What follows is still recorded, but zeros are left as holes: there may be any number of them.
    pub fn end_of_archive(&mut self) {
        self.is_padding = true;
    }

    /// How many bytes there were, and their digest.
    pub fn finish(self) -> io::Result<(u64, Digest)> {
        if let Some(file) = &self.file {
            file.file().set_len(self.recorded)?;
        }
        Ok((self.recorded, self.hasher.finish()))
    }
}

impl<R: BufRead> BufRead for Record<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.source.fill_buf()?;
        let seen = usize::try_from(self.recorded - self.taken).unwrap_or(usize::MAX);
        let new = buffer.get(seen..).unwrap_or_default();
        if !new.is_empty() {
            self.hasher.update(new);
            if let Some(file) = &mut self.file
                && !(self.is_padding && new.iter().all(|&b| b == 0))
            {
                file.write(new, self.recorded)?;
            }
            self.recorded += new.len() as u64;
        }
        Ok(buffer)
    }

    fn consume(&mut self, n: usize) {
        self.source.consume(n);
        self.taken += n as u64;
    }
}

impl<R: BufRead> Read for Record<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let n = have.len().min(out.len());
        out[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_passes_once_however_it_is_read() {
        let bytes: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        let source = io::BufReader::with_capacity(700, &bytes[..]);
        let hasher = Digest::of(b"").hasher();
        let mut record = Record::new(source, hasher, Some(path.reopen().unwrap()));
        let mut seen = Vec::new();
        for step in [1, 3, 512, 0, 600].iter().cycle() {
            let have = record.fill_buf().unwrap();
            if have.is_empty() {
                break;
            }
            let n = have.len().min(*step);
            seen.extend_from_slice(&have[..n]);
            record.consume(n);
        }
        assert_eq!(seen, bytes);
        assert_eq!(record.finish().unwrap(), (20_000, Digest::of(&bytes)));
        assert_eq!(std::fs::read(path.path()).unwrap(), bytes);
    }

    #[test]
    fn padding_takes_no_space() {
        let mut bytes = vec![7; 8192];
        bytes.resize(40 << 20, 0);
        let path = tempfile::NamedTempFile::new().unwrap();
        let source = io::BufReader::with_capacity(8192, &bytes[..]);
        let mut record = Record::new(
            source,
            Digest::of(b"").hasher(),
            Some(path.reopen().unwrap()),
        );
        let mut first = [0; 8192];
        record.read_exact(&mut first).unwrap();
        record.end_of_archive();
        io::copy(&mut record, &mut io::sink()).unwrap();
        assert_eq!(record.finish().unwrap(), (40 << 20, Digest::of(&bytes)));
        use std::os::unix::fs::MetadataExt as _;
        let meta = path.path().metadata().unwrap();
        assert_eq!(meta.len(), 40 << 20);
        assert!(meta.blocks() < 1000, "{}", meta.blocks());
    }
}
