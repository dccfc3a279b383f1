//! A blob of a registry as a file: read and sought, for whoever wants that of a source; an upload to another
//! registry does. Only what is read is downloaded.

use std::io::{self, Read, Seek, SeekFrom};

use corten_spec::Reference;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BlobReader, Client, Descriptor, Error};

/// Pieces that wait between the socket and the reader.
const WAITING: usize = 8;

/// Made by [`Client::open_blob`]. Blocking, and so not for the threads of a runtime. The digest is checked at the
/// end of a reading that began at offset 0; with another the reader must do that.
pub struct RemoteBlob {
    client: Client,
    reference: Reference,
    descriptor: Descriptor,
    runtime: Handle,
    position: u64,
    reading: Option<Reading>,
}

/// A download on its way.
struct Reading {
    from: BlobReader,
    task: JoinHandle<Result<(), Error>>,
}

impl RemoteBlob {
    pub(super) fn new(client: Client, reference: Reference, descriptor: Descriptor) -> Self {
        Self {
            client,
            reference,
            descriptor,
            runtime: Handle::current(),
            position: 0,
            reading: None,
        }
    }

    fn start(&self) -> Reading {
        let (tx, rx) = mpsc::channel(WAITING);
        let (client, reference) = (self.client.clone(), self.reference.clone());
        let (descriptor, offset) = (self.descriptor.clone(), self.position);
        let left = descriptor.size - offset;
        Reading {
            from: BlobReader::new(rx, left),
            task: self
                .runtime
                .spawn(async move { client.blob(&reference, &descriptor, offset, tx).await }),
        }
    }

    /// What the download ended with, once its bytes are over or did not come.
    fn end(&mut self, read: io::Result<usize>) -> io::Result<usize> {
        let Some(reading) = self.reading.take() else {
            return read;
        };
        match self.runtime.block_on(reading.task) {
            Ok(Ok(())) => read,
            Ok(Err(e)) => Err(io::Error::other(e)),
            Err(e) => Err(io::Error::other(e)),
        }
    }
}

impl Read for RemoteBlob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.position >= self.descriptor.size && self.reading.is_none() {
            return Ok(0);
        }
        let mut reading = self.reading.take().unwrap_or_else(|| self.start());
        let read = reading.from.read(buf);
        self.reading = Some(reading);
        if let Ok(n) = read {
            self.position += n as u64;
        }
        match read {
            // The last byte is not handed out before the digest is known to be right.
            Ok(_) if self.position == self.descriptor.size => self.end(read),
            Ok(0) | Err(_) => self.end(read),
            Ok(n) => Ok(n),
        }
    }
}

impl Seek for RemoteBlob {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
            SeekFrom::End(n) => self.descriptor.size.checked_add_signed(n),
        };
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        if at != self.position {
            self.drop_reading();
            self.position = at;
        }
        Ok(at)
    }
}

impl RemoteBlob {
    /// A download that nobody wants to the end costs its connection.
    fn drop_reading(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.task.abort();
        }
    }
}

impl Drop for RemoteBlob {
    fn drop(&mut self) {
        self.drop_reading();
    }
}
