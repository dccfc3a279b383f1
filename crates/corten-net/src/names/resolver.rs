//! The engine's side: files into the folder, and a process that serves them.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_spec::ContainerId;
use corten_sys::spawn::{self, Program};

use super::registration::{Document, Entry, Folder, Registration};
use super::server::control;
use crate::Error;

/// How long a process may take to serve a container. Half of it is for the kernel of a very busy
/// host; usually it is milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_micros(500);

/// The names of one engine's containers.
#[derive(Clone, Debug)]
pub struct Resolver {
    folder: Folder,
    executable: PathBuf,
    argv0: String,
}

impl Resolver {
    /// `executable`, called `argv0`, is what runs [`super::server::main`] on the folder.
    pub fn new(folder: &Path, executable: &Path, argv0: &str) -> Self {
        Self {
            folder: Folder {
                path: folder.into(),
            },
            executable: executable.into(),
            argv0: argv0.into(),
        }
    }

    /// Has the container's lookups answered, and its names known to the others on its networks.
    /// On return they are. A registration of the same container is replaced.
    pub fn register(&self, registration: &Registration) -> Result<(), Error> {
        let document = Document::new(registration)?;
        self.folder.make()?;
        self.folder.write(&document)?;
        let served = self.sync(&registration.container);
        if served.is_err() {
            // Not half there: a container that is refused has no names.
            self.folder.remove(registration.container.as_str())?;
        }
        served
    }

    /// Changes what a container is registered as: it joins or leaves a network, or gets other
    /// names. If that fails, the old registration is back.
    pub fn update(&self, registration: &Registration) -> Result<(), Error> {
        let old = self.folder.read(registration.container.as_str());
        let document = Document::new(registration)?;
        self.folder.make()?;
        self.folder.write(&document)?;
        let served = self.sync(&registration.container);
        if let (Err(_), Ok(Some(old))) = (&served, &old) {
            self.folder.write(old)?;
        }
        served
    }

    /// Takes the container's names back and has its namespace let go of; to be called before the
    /// namespace's networks are taken from it. Not registered is a success.
    pub fn withdraw(&self, container: &ContainerId) -> Result<(), Error> {
        if !self.folder.remove(container.as_str())? {
            return Ok(());
        }
        // If nobody serves, nothing is held.
        match self.connect() {
            Ok(stream) => match ask(stream, container) {
                Ok(Err(reason)) => Err(self.unserved(container, &reason)),
                // It ended while it was asked: with it went what it held.
                Ok(Ok(())) | Err(_) => Ok(()),
            },
            Err(_) => Ok(()),
        }
    }

    /// What is registered: living, ended, and what is no registration at all.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let all = self.folder.list()?.into_iter();
        Ok(all
            .map(|(path, found)| match found {
                Ok(d) if d.is_alive() => Entry::Alive(d.registration),
                Ok(d) => Entry::Dead(d.registration),
                Err(reason) => Entry::Broken { path, reason },
            })
            .collect())
    }

    /// Sees to it that a process serves, if any container wants one. For whoever finds that
    /// [`Resolver::socket_path`] has hung up.
    pub fn ensure(&self) -> Result<(), Error> {
        let alive = self.list()?.into_iter().find_map(|entry| match entry {
            Entry::Alive(registration) => Some(registration.container),
            _ => None,
        });
        match alive {
            Some(container) => self.sync(&container),
            None => Ok(()),
        }
    }

    /// A Unix socket. A connection hangs up when the process that serves has gone.
    pub fn socket_path(&self) -> PathBuf {
        self.folder.file(control::SOCKET)
    }

    /// Waits until a process has taken the container's file into account, and starts one if there
    /// is none. A process that is just ending hangs up: then the next one is asked.
    fn sync(&self, container: &ContainerId) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut started: Option<Started> = None;
        loop {
            if let Ok(stream) = self.connect()
                && let Ok(answer) = ask(stream, container)
            {
                return answer.map_err(|reason| self.unserved(container, &reason));
            }
            if Instant::now() > deadline {
                let log = self.folder.file(super::server::LOG).display().to_string();
                return Err(self.unserved(
                    container,
                    &format!(
                        "no process serves within {} s; see {log}",
                        PATIENCE.as_secs()
                    ),
                ));
            }
            if started.as_mut().is_none_or(Started::has_ended) {
                started = Some(self.start()?);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let stream = control::connect(&self.folder)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Starts a process, which starts the one that serves and ends: so that is nobody's child, and
    /// no session's or terminal's.
    fn start(&self) -> Result<Started, Error> {
        let failed = |source: io::Error| Error::File {
            action: "run the resolver",
            path: self.executable.clone(),
            source,
        };
        let folder = self.folder.path.as_os_str();
        let pid = spawn::spawn(&Program {
            path: &self.executable,
            arguments: &[OsStr::new(&self.argv0), folder],
            environment: &[],
            stdio: [None, None, None],
            descriptors: &[],
            session: true,
        })
        .map_err(|e| failed(e.into()))?;
        Ok(Started { pid, ended: false })
    }

    fn unserved(&self, container: &ContainerId, reason: &str) -> Error {
        Error::Unserved {
            container: container.to_string(),
            folder: self.folder.path.clone(),
            reason: reason.into(),
        }
    }
}

/// One line there, one back. `Err`: the process has gone.
fn ask(mut stream: UnixStream, container: &ContainerId) -> io::Result<Result<(), String>> {
    stream.write_all(format!("{}{container}\n", control::SYNC).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(control::DONE) => Ok(Ok(())),
        Some(reason) => Ok(Err(reason.into())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The process between us and the one that serves.
struct Started {
    pid: u32,
    ended: bool,
}

impl Started {
    /// It ends when the other one serves, or has ended since a third one does.
    fn has_ended(&mut self) -> bool {
        use rustix::process::{Pid, WaitOptions, waitpid};
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        self.ended |= !matches!(waitpid(pid, WaitOptions::NOHANG), Ok(None));
        self.ended
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(1);
        while !self.has_ended() && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
    }
}
