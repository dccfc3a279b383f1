//! The Unix socket of the process that serves. A client writes `sync ID` and a newline, and reads
//! `done` or the reason why not; or it only stays, to see the process end.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use corten_sys::socket::path_of;
use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};

use super::super::registration::Folder;
use super::{Poll, Source};

/// Its name in the folder.
pub const SOCKET: &str = "socket";
pub const SYNC: &str = "sync ";
pub const DONE: &str = "done";
/// An id has at most 1024 characters.
const MAX_LINE: usize = 2048;
/// One for each supervisor, and some.
const MAX_CLIENTS: usize = 8192;

/// A path that fits the 107 bytes of a socket's address, however deep the folder lies; as long as
/// the descriptor lives.
fn short(folder: &Folder) -> io::Result<(std::os::fd::OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&folder.path, flags, Mode::empty())?;
    let path = PathBuf::from(path_of(&fd)).join(SOCKET);
    Ok((fd, path))
}

pub(in crate::names) fn connect(folder: &Folder) -> io::Result<UnixStream> {
    let (_fd, path) = short(folder)?;
    UnixStream::connect(path)
}

#[derive(Debug)]
pub struct Control {
    listener: Option<UnixListener>,
    clients: HashMap<u64, Client>,
    next: u64,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Control {
    /// Only with the folder's lock held: then a socket that is there is nobody's.
    pub(super) fn open(folder: &Folder, poll: &Poll) -> io::Result<Self> {
        let (_fd, path) = short(folder)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        poll.add(&listener, Source::Listener, EventFlags::IN)?;
        Ok(Self {
            listener: Some(listener),
            clients: HashMap::new(),
            next: 0,
        })
    }

    /// Hangs up on everybody; who connects from now on finds nobody.
    pub(super) fn close(&mut self, folder: &Folder) {
        // What remains of the socket is removed by the next process.
        let _ = fs::remove_file(folder.file(SOCKET));
        self.listener = None;
        self.clients.clear();
    }

    pub(super) fn accept(&mut self, poll: &Poll) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
            return;
        };
        let number = self.next;
        if self.clients.len() >= MAX_CLIENTS
            || stream.set_nonblocking(true).is_err()
            || poll
                .add(&stream, Source::Client(number), EventFlags::IN)
                .is_err()
        {
            return;
        }
        self.next += 1;
        let input = Vec::new();
        self.clients.insert(number, Client { stream, input });
    }

    /// The id in a client's next line, once it is whole. Who says anything else is hung up on.
    pub(super) fn read(&mut self, number: u64) -> Option<String> {
        let client = self.clients.get_mut(&number)?;
        loop {
            if let Some(end) = client.input.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = client.input.drain(..=end).collect();
                let id = line[..end].strip_prefix(SYNC.as_bytes());
                if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok())
                    && id.parse::<corten_spec::ContainerId>().is_ok()
                {
                    return Some(id.to_owned());
                }
                break;
            }
            let mut bytes = [0; 256];
            match client.stream.read(&mut bytes) {
                Ok(length @ 1..) if client.input.len() < MAX_LINE => {
                    client.input.extend_from_slice(&bytes[..length]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.clients.remove(&number);
        None
    }

    pub(super) fn answer(&mut self, number: u64, failure: Option<&str>) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        let line = failure.unwrap_or(DONE).replace('\n', " ");
        // A few bytes into an empty socket; who does not read has gone.
        if client
            .stream
            .write_all(format!("{line}\n").as_bytes())
            .is_err()
        {
            self.clients.remove(&number);
        }
    }
}
