//! The rows: who needs which blob, layer and snapshot.
//!
//! There are no counters to drift: a reference is a row of a `*_blob`, `*_layer`
//! or `lease_*` table with a foreign key, and a thing's reference count is the
//! number of such rows. Every change is one `BEGIN IMMEDIATE` transaction, which is
//! also the lock between processes: whoever renames something into or out of
//! `blobs/`, `layers/` or `snapshots/` does it inside one.

mod container;
mod image;
pub(crate) mod layer;
mod lease;
mod lookup;
mod mounted;
mod network;
pub(crate) mod owner;
mod pod;
mod schema;

pub use container::{ContainerRow, Containers};
pub use image::{ImageRecord, LayerRef, Target};
pub use lease::Lease;
pub(crate) use lease::{blob_size, dead as dead_leases};
pub use mounted::MountedImage;
pub use network::{NetworkRow, Networks};
pub use pod::{PodRow, Pods};

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::FlockOperation;

use crate::error::{Error, Result};

/// How long a writer waits for another process's transaction. Those last milliseconds, but for
/// two renames and a folder's fsync on a busy disk.
const BUSY: Duration = Duration::from_secs(30);

/// After so many pages of log a commit also checkpoints. Each open by the only process reads the whole
/// log (1.3 ms for the default of 1000 pages), each checkpoint costs two fsyncs: this is the middle.
const CHECKPOINT_PAGES: i64 = 300;

pub(crate) struct Db {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Db {
    /// Opens or makes the database. `root` is a handle to its folder: locked while the schema changes.
    pub fn open(path: PathBuf, root: impl AsFd) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(Error::db("open"))?;
        prepare(&connection).map_err(Error::db("set up the connection"))?;
        let db = Self {
            path,
            connection: Mutex::new(connection),
        };
        if db.version()? != schema::VERSION {
            rustix::fs::flock(&root, FlockOperation::LockExclusive)
                .map_err(Error::io("lock", &db.path))?;
            let migrated = db.migrate();
            rustix::fs::flock(&root, FlockOperation::Unlock)
                .map_err(Error::io("unlock", &db.path))?;
            migrated?;
        }
        Ok(db)
    }

    fn version(&self) -> Result<i64> {
        self.read("read its version", |c| {
            c.query_row("PRAGMA user_version", [], |r| r.get(0))
        })
    }

    fn migrate(&self) -> Result<()> {
        let found = self.version()?;
        if found > schema::VERSION {
            return Err(Error::Newer {
                path: self.path.clone(),
                found,
                known: schema::VERSION,
            });
        }
        if found == 0 {
            // Kept in the file, so that later opens find it set.
            self.read("turn on the write-ahead log", |c| {
                c.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
            })?;
        }
        self.write("migrate the schema", |t| {
            schema::migrate(t, found).map_err(Error::db("migrate the schema"))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere rolled its transaction back; the connection itself is sound.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs statements that only read.
    pub fn read<T>(
        &self,
        op: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        f(&self.lock()).map_err(|e| self.full(Error::db(op)(e)))
    }

    /// SQLite has a code of its own for a full disk.
    fn full(&self, e: Error) -> Error {
        match e {
            Error::Database { source, .. }
                if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) =>
            {
                Error::NoSpace {
                    path: self.path.clone(),
                    needed: None,
                }
            }
            other => other,
        }
    }

    /// Runs one transaction that holds the write lock from its start. An error rolls it back.
    pub fn write<T>(
        &self,
        op: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.lock();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Error::db(op))?;
        f(&transaction)
            .and_then(|out| {
                transaction.commit().map_err(Error::db(op))?;
                Ok(out)
            })
            .map_err(|e| self.full(e))
    }

    /// Runs a transaction to look at what would come of it, and gives it up.
    pub fn rolled_back<T>(
        &self,
        op: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.lock();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Error::db(op))?;
        let out = f(&transaction).map_err(|e| self.full(e))?;
        transaction.rollback().map_err(Error::db(op))?;
        Ok(out)
    }

    /// As [`Db::write`], and the log is on the platter when this returns: for transactions after which
    /// files are unlinked.
    pub fn write_durably<T>(
        &self,
        op: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        self.read(op, |c| c.execute_batch("PRAGMA synchronous = FULL"))?;
        let out = self.write(op, f);
        self.read(op, |c| c.execute_batch("PRAGMA synchronous = NORMAL"))?;
        out
    }
}

fn prepare(c: &Connection) -> rusqlite::Result<()> {
    c.busy_timeout(BUSY)?;
    // Otherwise each short-lived process, being the last to close, would checkpoint and fsync twice.
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    c.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"
    ))
}

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs().cast_signed())
}

/// SQLite's integers are signed; no size of ours comes near the sign bit.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Reads a column that we wrote from a checked type. Text that no longer parses is a damaged database.
pub(crate) fn parsed<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}
