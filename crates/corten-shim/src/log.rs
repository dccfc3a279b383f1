//! The container's log, in CRI's format: one line a record.
//!
//! ```text
//! 2026-11-23T14:46:41.000000001Z stdout F a whole line
//! 2026-11-23T14:46:41.000000002Z stderr P the first 16 KiB of a long one
//! ```
//!
//! `F` ends a line, `P` does not: a reader joins the pieces. What stands after the second
//! space is the container's bytes, unchanged, so binary output survives.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use crate::time::rfc3339;

/// The longest piece of a line in one record, as kubelet expects.
const PIECE: usize = 16 << 10;

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An open log file.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// A line begun and not ended, for each stream.
    begun: [Vec<u8>; 2],
    /// Records ready to be written, kept for its capacity.
    records: Vec<u8>,
}

impl Log {
    /// Opens for appending; a new file is readable by its group (0640).
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o640).open(path)?;
        Ok(Self {
            file,
            begun: [Vec::new(), Vec::new()],
            records: Vec::new(),
        })
    }

    /// Takes output as it came. Whole lines are written at once, the rest waits for its end.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        while !bytes.is_empty() {
            let begun = &mut self.begun[stream as usize];
            let room = PIECE - begun.len();
            let (piece, full) = match bytes.iter().take(room).position(|b| *b == b'\n') {
                Some(end) => (&bytes[..end], true),
                None => (&bytes[..bytes.len().min(room)], false),
            };
            bytes = &bytes[piece.len() + usize::from(full)..];
            if full || begun.len() + piece.len() == PIECE {
                record(&mut self.records, &time, stream, full, begun, piece);
                begun.clear();
            } else {
                begun.extend_from_slice(piece);
            }
        }
        self.flush()
    }

    /// Writes what waits for the end of its line: the container will not say more.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = std::mem::take(&mut self.begun[stream as usize]);
            if !begun.is_empty() {
                record(&mut self.records, &time, stream, false, &begun, &[]);
            }
        }
        self.flush()
    }

    /// One `write` for all records of a read: a reader that follows never sees half a record
    /// unless the disk is full.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.records);
        self.records.clear();
        // A burst of output must not stay resident.
        self.records.shrink_to(PIECE);
        written
    }
}

fn record(to: &mut Vec<u8>, time: &str, stream: Stream, full: bool, begun: &[u8], piece: &[u8]) {
    let tag = if full { " F " } else { " P " };
    for part in [
        time.as_bytes(),
        b" ",
        stream.name().as_bytes(),
        tag.as_bytes(),
        begun,
        piece,
    ] {
        to.extend_from_slice(part);
    }
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader makes of the log: the bytes of one stream.
    fn read_back(text: &[u8], stream: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in text.split_inclusive(|b| *b == b'\n') {
            let line = &line[..line.len() - 1];
            let rest = &line[31..];
            let Some(rest) = rest.strip_prefix(stream.as_bytes()) else {
                continue;
            };
            bytes.extend_from_slice(&rest[3..]);
            if rest[1] == b'F' {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn written(pieces: &[(Stream, Vec<u8>)]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path).unwrap();
        for (stream, bytes) in pieces {
            log.write(*stream, bytes).unwrap();
        }
        log.finish().unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn lines_pieces_and_an_unfinished_end() {
        let long = vec![b'x'; PIECE + 3];
        let log = written(&[
            (Stream::Stdout, b"one\ntw".to_vec()),
            (Stream::Stderr, b"err\n".to_vec()),
            (Stream::Stdout, b"o\n\n".to_vec()),
            (Stream::Stdout, long.clone()),
        ]);
        let tags: Vec<String> = log
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| String::from_utf8_lossy(&l[31..(31 + 14).min(l.len())]).into_owned())
            .collect();
        assert_eq!(
            tags[..4],
            ["stdout F one", "stderr F err", "stdout F two", "stdout F "]
        );
        assert_eq!(tags.len(), 6);
        assert_eq!(
            read_back(&log, "stdout"),
            [b"one\ntwo\n\n".as_slice(), &long].concat()
        );
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(
            pieces in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..50),
        ) {
            let pieces: Vec<_> = pieces
                .into_iter()
                .map(|(err, bytes)| (if err { Stream::Stderr } else { Stream::Stdout }, bytes))
                .collect();
            let log = written(&pieces);
            for stream in [Stream::Stdout, Stream::Stderr] {
                let sent: Vec<u8> = pieces.iter().filter(|(s, _)| *s == stream).flat_map(|(_, b)| b.clone()).collect();
                prop_assert_eq!(read_back(&log, stream.name()), sent);
            }
        }
    }
}
