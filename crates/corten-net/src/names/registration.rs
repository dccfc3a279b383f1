//! Whose names are served, on disk: one JSON file a container in the resolver's folder, written
//! whole. The folder is all the state there is; the process that serves is a function of it.
//!
//! ```text
//!  FOLDER/ID.json      a registration, the process that it stands for, and its network namespace
//!  FOLDER/.ID.new      one that is being written
//!  FOLDER/write.lock   held while a file is written or removed
//!  FOLDER/lock         held by the process that serves
//!  FOLDER/socket       where it is talked to
//!  FOLDER/log          what it could not do
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use corten_spec::ContainerId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::packet::Name;
use crate::Error;
use crate::owner::fnv1a;
use crate::process::started_at;

/// The longest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// Ids longer than this are hashed in the name of their file.
const MAX_ID: usize = 128;
const SUFFIX: &str = ".json";
const WRITE_LOCK: &str = "write.lock";

/// A container whose lookups are answered, and whose names others may look up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub container: ContainerId,
    /// Its first process; when that ends, so does everything here.
    pub pid: u32,
    /// Its network namespace, with the loopback up.
    pub netns: PathBuf,
    /// In the order in which they are searched.
    pub networks: Vec<Membership>,
    /// Who is asked for other names. Empty: the servers of the host's `/etc/resolv.conf`, as it is
    /// at the time. Reached from the namespace that the resolver runs in.
    #[serde(default)]
    pub upstream: Vec<SocketAddr>,
}

/// What a container is on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub network: String,
    /// The container's name first (what PTR answers, with the network's name after it), then its
    /// short id and aliases.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// The network has no way out.
    #[serde(default)]
    pub internal: bool,
}

impl Registration {
    /// Whether other servers may be asked: a container that is only on networks without a way out
    /// could talk to the world by the names that it asks for.
    pub fn may_forward(&self) -> bool {
        self.networks.iter().any(|m| !m.internal)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |what, value: &str, reason: &str| Error::Invalid {
            what,
            value: value.chars().take(80).collect(),
            reason: reason.into(),
        };
        for membership in &self.networks {
            let network = &membership.network;
            if Name::parse(network).is_none() {
                return Err(refuse("network", network, "is no name in DNS"));
            }
            for name in &membership.names {
                // With the network's name after it.
                if Name::parse(&format!("{name}.{network}")).is_none() {
                    return Err(refuse("name", name, "is no name in DNS"));
                }
            }
        }
        match self.pid {
            0 => Err(refuse("process", "0", "is none")),
            _ => Ok(()),
        }
    }
}

/// A registration with what tells its process and namespace from later ones of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    version: u32,
    /// When the process started, in clock ticks since the host did (proc_pid_stat(5), field 22).
    started: u64,
    /// Device and inode of the namespace.
    namespace: (u64, u64),
    pub registration: Registration,
}

impl Document {
    pub fn new(registration: &Registration) -> Result<Self, Error> {
        registration.check()?;
        let pid = registration.pid;
        let Some(started) = started_at(pid) else {
            return Err(Error::Invalid {
                what: "process",
                value: pid.to_string(),
                reason: "has ended".into(),
            });
        };
        Ok(Self {
            version: 1,
            started,
            namespace: namespace_of(&registration.netns)?,
            registration: registration.clone(),
        })
    }

    /// Whether its process lives still.
    pub fn is_alive(&self) -> bool {
        started_at(self.registration.pid) == Some(self.started)
    }

    /// Whether this file is the namespace that was registered.
    pub fn is_namespace(&self, file: &File) -> bool {
        file.metadata()
            .is_ok_and(|m| (m.dev(), m.ino()) == self.namespace)
    }

    pub fn same_namespace(&self, other: &Self) -> bool {
        self.namespace == other.namespace
    }

    /// Whether the two are about the same process in the same namespace.
    pub fn same_place(&self, other: &Self) -> bool {
        let place = |d: &Self| (d.registration.pid, d.started, d.namespace);
        place(self) == place(other)
    }
}

fn namespace_of(path: &Path) -> Result<(u64, u64), Error> {
    let file = crate::link::netns::open(path)?;
    let metadata = file.metadata().map_err(failed("look at", path))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

/// What a file of the folder turns out to be.
#[derive(Debug)]
pub enum Entry {
    Alive(Registration),
    /// Its process has ended.
    Dead(Registration),
    /// No registration, for that reason.
    Broken {
        path: PathBuf,
        reason: String,
    },
}

/// A registration, or why the file is none.
pub(super) type Found = Result<Document, String>;

/// The resolver's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub path: PathBuf,
}

impl Folder {
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn make(&self) -> Result<(), Error> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.path);
        made.map_err(failed("make", &self.path))
    }

    fn stem(id: &str) -> String {
        match id.len() > MAX_ID {
            true => format!("{:016x}", fnv1a(id.as_bytes())),
            false => id.into(),
        }
    }

    fn path_of(&self, id: &str) -> PathBuf {
        self.path.join(Self::stem(id) + SUFFIX)
    }

    /// Waits until nobody else writes. The lock goes with the file.
    fn locked(&self) -> Result<File, Error> {
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, how: FlockOperation) -> Result<File, Error> {
        let path = self.path.join(WRITE_LOCK);
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed("open", &path))?;
        rustix::io::retry_on_intr(|| flock(&file, how))
            .map_err(|e| failed("lock", &path)(e.into()))?;
        Ok(file)
    }

    /// Puts the registration in the place of an earlier one of the same container.
    pub fn write(&self, document: &Document) -> Result<(), Error> {
        let id = document.registration.container.as_str();
        let path = self.path_of(id);
        let new = self.path.join(format!(".{}.new", Self::stem(id)));
        let text = serde_json::to_vec(document).map_err(|e| failed("write", &path)(e.into()))?;
        let _lock = self.locked()?;
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("write", &path))
    }

    /// Removes a container's registration; none is a success. Says whether there was one.
    pub fn remove(&self, id: &str) -> Result<bool, Error> {
        if !self.path.is_dir() {
            return Ok(false);
        }
        let _lock = self.locked()?;
        remove(&self.path_of(id))
    }

    pub fn read(&self, id: &str) -> Result<Option<Document>, String> {
        let document = read(&self.path_of(id))?;
        match &document {
            Some(d) if d.registration.container.as_str() != id => {
                Err(format!("it is container {}'s", d.registration.container))
            }
            _ => Ok(document),
        }
    }

    /// Every registration, and what is none.
    pub fn list(&self) -> Result<Vec<(PathBuf, Found)>, Error> {
        let entries = match fs::read_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("list", &self.path))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed("list", &self.path))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(stem) = name.strip_suffix(SUFFIX) else {
                continue;
            };
            match read(&path) {
                Ok(None) => {}
                Ok(Some(d)) if Self::stem(d.registration.container.as_str()) != stem => {
                    let reason = format!("it is container {}'s", d.registration.container);
                    all.push((path, Err(reason)));
                }
                Ok(Some(d)) => all.push((path, Ok(d))),
                Err(reason) => all.push((path, Err(reason))),
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Removes the files of containers that have ended, and what a killed writer left. Not while
    /// somebody writes: then it is done another time.
    pub fn clean(&self) -> Result<(), Error> {
        let Ok(_lock) = self.lock(FlockOperation::NonBlockingLockExclusive) else {
            return Ok(());
        };
        for (path, found) in self.list()? {
            if found.is_ok_and(|d| !d.is_alive()) {
                remove(&path)?;
            }
        }
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        for path in entries.flatten().map(|e| e.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') && name.ends_with(".new") {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("remove", path)(e)),
    }
}

fn read(path: &Path) -> Result<Option<Document>, String> {
    let mut text = Vec::new();
    // Whatever lies there under that name must not make us wait.
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path);
    let read = file.and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut text));
    match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("it cannot be read: {e}")),
        Ok(length) if length as u64 > MAX_FILE => {
            return Err(format!("it has more than {MAX_FILE} bytes"));
        }
        Ok(_) => {}
    }
    let document: Document =
        serde_json::from_slice(&text).map_err(|e| format!("it is no registration: {e}"))?;
    if document.version != 1 {
        return Err(format!("it is of version {}", document.version));
    }
    document.registration.check().map_err(|e| e.to_string())?;
    Ok(Some(document))
}
