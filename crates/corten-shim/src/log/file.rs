//! The file below a log: rotation, reopening, and a disk that is full. Knows records only by their final newline.
//!
//! ```text
//!   NAME.new made ─▶ NAME.2 ▶ NAME.3 ─▶ NAME.1 ▶ NAME.2 ─▶ NAME ▶ NAME.1 ─▶ NAME.new ▶ NAME
//! ```
//!
//! Names move from the first number that is free, or over the oldest file if none is. So a kill between two
//! steps leaves a free number, which the next rotation fills; nothing is moved over a file that is still wanted. The new
//! file exists before anything moves: without room for it all stays as it was, and the log grows on.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::place::Place;
use crate::time::rfc3339;

/// How large a log may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file; 0: no limit, and no rotation.
    pub max_size: u64,
    /// Files in all, the current one among them; 0 is 1.
    pub max_files: u32,
}

impl Limits {
    /// The highest number behind a rotated file's name.
    fn last(self) -> u32 {
        self.max_files.saturating_sub(1)
    }
}

/// An open log file, its name and what could not be written to it.
#[derive(Debug)]
pub struct LogFile {
    place: Place,
    file: File,
    limits: Limits,
    /// As far as we know; somebody may have truncated it.
    size: u64,
    /// The rest of a record whose beginning is in the file.
    torn: Vec<u8>,
    lost: Option<Loss>,
}

/// Records that are nowhere, and why.
#[derive(Debug)]
struct Loss {
    records: u64,
    bytes: u64,
    why: String,
}

impl LogFile {
    pub fn open(place: impl Into<Place>, limits: Limits) -> io::Result<Self> {
        let place = place.into();
        let folder = place.folder()?;
        // A rotation was broken off, or the limit was higher before.
        folder.remove("new")?;
        if limits.max_size > 0 {
            let beyond = (limits.last() + 1..).take_while(|n| folder.has(&n.to_string()));
            for n in beyond.collect::<Vec<_>>().into_iter().rev() {
                folder.remove(&n.to_string())?;
            }
        }
        let file = folder.append_to("")?;
        let mut log = Self {
            place,
            size: file.metadata()?.len(),
            file,
            limits,
            torn: Vec::new(),
            lost: None,
        };
        log.end_last_line()?;
        Ok(log)
    }

    /// A writer that was killed may have left half a line.
    fn end_last_line(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        if self.size > 0 {
            self.file.read_exact_at(&mut last, self.size - 1)?;
        }
        if last != [b'\n'] {
            self.torn = vec![b'\n'];
            self.mend();
        }
        Ok(())
    }

    pub fn reopen(&mut self) -> io::Result<()> {
        let file = self.place.folder()?.append_to("")?;
        self.size = file.metadata()?.len();
        self.file = file;
        // Its beginning is in the other file, where nobody writes any more.
        if !std::mem::take(&mut self.torn).is_empty() {
            self.lose(b"\n", "its file was moved away".into());
        }
        Ok(())
    }

    /// Whether a record has room behind those that wait to be written. The first of a file always has.
    pub fn has_room(&self, waiting: usize, record: usize) -> bool {
        let before = self.size + waiting as u64;
        let after = before + record as u64;
        // What is torn must be completed in this file.
        let bound = self.limits.max_size > 0 && self.torn.is_empty();
        !bound || before == 0 || after <= self.limits.max_size
    }

    /// Makes this file the newest of the old ones.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.size = self.file.metadata()?.len();
        if self.size == 0 {
            return Ok(());
        }
        let folder = self.place.folder()?;
        folder.remove("new")?;
        let file = folder.append_to("new")?;
        let last = self.limits.last();
        if last > 0 {
            let free = (1..last).find(|n| !folder.has(&n.to_string()));
            for n in (1..free.unwrap_or(last)).rev() {
                folder.rename(&n.to_string(), &(n + 1).to_string())?;
            }
            match folder.rename("", "1") {
                // Somebody has taken it away: who follows it has it open.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        folder.rename("new", "")?;
        (self.file, self.size) = (file, 0);
        Ok(())
    }

    /// Appends whole records. What does not fit is dropped and counted. The error is that of the first loss.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if !self.mend() {
            self.lose(records, "the one before it is not whole".into());
            return Ok(());
        }
        let (n, why) = self.write(records);
        let Some(why) = why else { return Ok(()) };
        let begun = n > 0 && records[n - 1] != b'\n';
        let end = records[n..].iter().position(|b| *b == b'\n');
        let next = n + end.filter(|_| begun).map_or(0, |e| e + 1);
        self.torn = records[n..next].to_vec();
        self.lose(&records[next..], why.to_string());
        Err(why)
    }

    /// Completes what is torn and says what was lost. Whether that is done.
    fn mend(&mut self) -> bool {
        if !self.torn.is_empty() {
            let torn = std::mem::take(&mut self.torn);
            let (n, _) = self.write(&torn);
            self.torn = torn[n..].to_vec();
        }
        if !self.torn.is_empty() {
            return false;
        }
        let Some(loss) = self.lost.take_if(|l| l.records > 0) else {
            self.lost = None;
            return true;
        };
        let note = format!(
            "{} stderr F [corten: {} records of {} bytes were lost here: {}]\n",
            rfc3339(SystemTime::now()),
            loss.records,
            loss.bytes,
            loss.why
        );
        match self.write(note.as_bytes()).0 {
            0 => self.lost = Some(loss),
            n => self.torn = note.as_bytes()[n..].to_vec(),
        }
        self.torn.is_empty() && self.lost.is_none()
    }

    fn lose(&mut self, records: &[u8], why: String) {
        let lost = self.lost.get_or_insert(Loss {
            records: 0,
            bytes: 0,
            why,
        });
        lost.records += records.iter().filter(|b| **b == b'\n').count() as u64;
        lost.bytes += records.len() as u64;
    }

    /// How much was written, and why not all.
    fn write(&mut self, bytes: &[u8]) -> (usize, Option<io::Error>) {
        let mut done = 0;
        let why = loop {
            match self.file.write(&bytes[done..]) {
                Ok(0) if done < bytes.len() => break Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Some(e),
            }
            if done == bytes.len() {
                break None;
            }
        };
        self.size += done as u64;
        (done, why)
    }

    /// The last chance to say what was lost.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.mend() {
            true => Ok(()),
            false => {
                let lost = self.lost.as_ref();
                let (records, bytes) = lost.map_or((1, 0), |l| (l.records, l.bytes));
                let text = format!("{records} records of {bytes} bytes are lost");
                Err(io::Error::new(io::ErrorKind::StorageFull, text))
            }
        }
    }
}

#[cfg(test)]
mod tests;
