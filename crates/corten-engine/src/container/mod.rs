//! Containers: what one is, where it stands, and the steps of its life.
//!
//! ```text
//!   create ─► Created ─ start ─► Running ─ exit ─► Exited ─ rm ─► gone
//!                ▲                │  ▲ │  supervisor lost  │
//!                │                ▼  │ └──► Lost ──────────┤ (start and rm clean up first)
//!                │            Restarting                   │
//!                └───── start ─────────────────────────────┘
//! ```
//!
//! The row in the database is made first and removed last, so whatever a crash leaves has an
//! owner with a name. The state itself is nowhere written down: it is read off the supervisor, and
//! off the exit record that it leaves ([`status`]).

pub mod capability;
mod condition;
mod create;
mod exec;
pub mod health;
pub(crate) mod inspect;
pub mod logs;
mod name;
pub mod options;
pub mod record;
mod remove;
pub mod restart;
pub mod seccomp;
mod setup;
mod spec;
mod start;
mod status;
mod stop;
pub mod user;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use corten_spec::{ContainerId, Kind};
use corten_store::ContainerRow;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

pub use condition::Condition;
pub use exec::{Controller, ExecOptions, ExecSession};
pub use record::Container;
pub(crate) use remove::volumes_of;
pub(crate) use seccomp::version;
pub use start::Prepared;
pub(crate) use start::{executable, global_flags, hostname, text};
pub use status::Status;
pub(crate) use stop::wait_for;
pub use stop::{RunEnd, signal};

use crate::Engine;
use crate::error::{Error, Is};
use crate::image::{ImageConfig, MAX_CONFIG};
use record::Record;

/// A row without its folder.
pub(crate) const INCOMPLETE: Is = Is("incomplete");

impl Engine {
    /// Every container, newest first.
    pub fn containers(&self) -> Result<Vec<Container>, Error> {
        let rows = self.store.containers().list()?;
        let mut all = rows.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        all.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Ok(all)
    }

    /// A container by name, id or unique prefix of an id.
    pub fn container(&self, name: &str) -> Result<Container, Error> {
        match self.store.containers().get(name) {
            Ok(row) => parse(row),
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::ContainerMissing { name: name.into() })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// What the container runs: entrypoint and command together.
    pub fn command_line(&self, container: &Container) -> Result<Vec<String>, Error> {
        spec::command_line(&container.record.options, &self.config_of(container)?)
    }

    /// The config of the image that the container was made from. The container has a copy: the
    /// image's own goes when its last name goes, or moves on.
    pub(crate) fn config_of(&self, container: &Container) -> Result<ImageConfig, Error> {
        let path = self.paths.image_config(&container.id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => self
                .store
                .read_blob(&container.record.image_config, MAX_CONFIG)?,
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        ImageConfig::parse(&container.image, &bytes)
    }

    /// Keeps other processes from starting, cleaning up or removing this container while we do;
    /// with its row as it is now.
    pub(crate) fn hold(&self, id: &ContainerId) -> Result<(File, Container), Error> {
        let held = self.lock(id, FlockOperation::LockExclusive)?;
        held.ok_or_else(|| Error::io("lock", self.paths.lock(id))(Errno::WOULDBLOCK.into()))
    }

    /// As [`Self::hold`], or `None` where another process has it.
    pub(crate) fn try_hold(&self, id: &ContainerId) -> Result<Option<(File, Container)>, Error> {
        self.lock(id, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(
        &self,
        id: &ContainerId,
        how: FlockOperation,
    ) -> Result<Option<(File, Container)>, Error> {
        let path = self.paths.lock(id);
        loop {
            let opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path);
            let file = match opened {
                // Making or removing it was cut short, or is under way: only removing it goes on from here.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::ContainerState {
                        name: self.container(id.as_str())?.name.to_string(),
                        action: "used",
                        source: INCOMPLETE,
                    });
                }
                opened => opened.map_err(Error::io("open", &path))?,
            };
            match flock(&file, how) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                locked => locked.map_err(|e| Error::io("lock", &path)(e.into()))?,
            }
            // Who had it may have removed the container, and this file with it.
            let ours = file.metadata().map_err(Error::io("read", &path))?;
            if fs::metadata(&path).is_ok_and(|m| m.ino() == ours.ino()) {
                return Ok(Some((file, self.container(id.as_str())?)));
            }
        }
    }

    /// Writes a container's record back.
    pub(crate) fn update(&self, container: &Container) -> Result<(), Error> {
        let row = row(container)?;
        Ok(self.store.containers().update(&row.id, &row.record)?)
    }
}

/// A name for a volume that nobody named: 64 hexadecimal digits.
pub fn anonymous_volume() -> Result<String, Error> {
    random_id().map(|id| id.to_string())
}

/// 64 hexadecimal digits.
pub fn random_id() -> Result<ContainerId, Error> {
    let mut random = [0u8; 32];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|e| Error::io("read", "/dev/urandom")(e.into()))?;
    Ok(ContainerId::from_random(&random))
}

pub(crate) fn row(container: &Container) -> Result<ContainerRow, Error> {
    let record = serde_json::to_string(&container.record).map_err(|source| Error::Document {
        path: container.id.as_str().into(),
        source,
    })?;
    Ok(ContainerRow {
        id: container.id.clone(),
        name: container.name.clone(),
        image: container.image.clone(),
        created_at: container.created_at,
        record,
    })
}

fn parse(row: ContainerRow) -> Result<Container, Error> {
    let record: Record = serde_json::from_str(&row.record).map_err(|source| Error::Document {
        path: row.id.as_str().into(),
        source,
    })?;
    if record.version > record::VERSION {
        return Err(Error::RecordVersion {
            name: row.name.to_string(),
            version: record.version,
        });
    }
    Ok(Container {
        id: row.id,
        name: row.name,
        image: row.image,
        created_at: row.created_at,
        record,
    })
}
