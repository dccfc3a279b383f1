//! The container's log, in CRI's format: one line a record.
//!
//! ```text
//! 2026-11-23T14:46:41.000000001Z stdout F a whole line
//! 2026-11-23T14:46:41.000000002Z stderr P the first 16 KiB of a long one
//! ```
//!
//! `F` ends a line, `P` does not: a reader joins the pieces. What stands after the second
//! space is the container's bytes, unchanged, so binary output survives.
//!
//! # What a reader may rely on
//!
//! - The log is `NAME`; what was rotated away is `NAME.1` (the newest) to `NAME.N`, at most `max_files` files in all.
//!   [`follow::files`] lists them, oldest first. A number may be missing after a crash; its neighbours are right.
//! - A file is only ever appended to, and not any more once `NAME` is another file. So who follows reads to the end, asks
//!   [`follow::successor`], and on an answer reads the old file to its end *once more* before going on with the new one.
//! - While files change places `NAME` may be missing for an instant: that is no end.
//! - A record is in one file, whole. The pieces of one line may be in two.
//! - No file exceeds `max_size`, but for a single record that is longer.
//! - Where records were lost to a full disk, one record of `stderr` says how many: `[corten: 12 records of 3456 bytes were
//!   lost here: …]`. A record half written before the disk was full is completed first.
//! - A file whose last line has no end was left by a supervisor that was killed; the next one ends that line.

mod file;
pub mod follow;
mod place;

use std::io;
use std::time::SystemTime;

pub use file::Limits;
use file::LogFile;
pub use place::Place;

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

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: LogFile,
    /// A line begun and not ended, for each stream.
    begun: [Vec<u8>; 2],
    /// Records ready to be written.
    records: Vec<u8>,
}

impl Log {
    /// Opens for appending; a new file is readable by its group (0640). Mends what a crash has left.
    pub fn open(place: impl Into<Place>, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            file: LogFile::open(place, limits)?,
            begun: [Vec::new(), Vec::new()],
            records: Vec::new(),
        })
    }

    /// Goes on in a new file, as somebody has renamed the old one. If that fails, in the old one.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file.reopen()
    }

    /// Takes output as it came. Whole lines are written at once, the rest waits for its end.
    /// An error says that records were lost from here on; it comes once for each such time.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        let mut written = Ok(());
        while !bytes.is_empty() {
            let room = PIECE - self.begun[stream as usize].len();
            let (piece, full) = match bytes.iter().take(room).position(|b| *b == b'\n') {
                Some(end) => (&bytes[..end], true),
                None => (&bytes[..bytes.len().min(room)], false),
            };
            bytes = &bytes[piece.len() + usize::from(full)..];
            if full || piece.len() == room {
                written = written.and(self.record(&time, stream, full, piece));
            } else {
                self.begun[stream as usize].extend_from_slice(piece);
            }
        }
        written.and(self.flush())
    }

    /// Writes what waits for the end of its line: the container will not say more.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        let mut written = Ok(());
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.begun[stream as usize].is_empty() {
                written = written.and(self.record(&time, stream, false, &[]));
            }
        }
        written.and(self.flush()).and(self.file.finish())
    }

    /// Adds a record of what has begun and this piece, in the next file if this one is full.
    fn record(&mut self, time: &str, stream: Stream, full: bool, piece: &[u8]) -> io::Result<()> {
        let begun = std::mem::take(&mut self.begun[stream as usize]);
        let length = time.len() + stream.name().len() + 5 + begun.len() + piece.len();
        let mut written = Ok(());
        if !self.file.has_room(self.records.len(), length) {
            written = self.flush();
            if !self.file.has_room(0, length) {
                written = written.and(self.file.rotate());
            }
        }
        let tag = if full { " F " } else { " P " };
        let name = stream.name().as_bytes();
        for part in [time.as_bytes(), b" ", name, tag.as_bytes(), &begun, piece] {
            self.records.extend_from_slice(part);
        }
        self.records.push(b'\n');
        written
    }

    /// One `write` for all records of a read: a reader that follows never sees half a record
    /// unless the disk is full.
    fn flush(&mut self) -> io::Result<()> {
        // Taken, not cleared: a burst of output must not stay resident.
        let records = std::mem::take(&mut self.records);
        self.file.append(&records)
    }
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
        let mut log = Log::open(&path, Limits::default()).unwrap();
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
