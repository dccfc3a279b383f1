//! Files that a server takes up again when they change: certificates, keys, accounts.
//!
//! They are looked at when somebody needs them, at most once a second. A new state that cannot be understood is
//! logged, and the one before it goes on: a half-written file must not end a service.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ServerError;

const PAUSE: Duration = Duration::from_secs(1);

/// What is made of some files, as they are.
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    load: Box<Loader<T>>,
    state: Mutex<State<T>>,
}

type Loader<T> = dyn Fn(&[PathBuf]) -> Result<T, String> + Send + Sync;

struct State<T> {
    value: Arc<T>,
    /// Counts the values.
    version: u64,
    stamp: Vec<Stamp>,
    looked: Instant,
}

/// What tells one state of a file from another: a file that was written anew has another time, or another inode.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &PathBuf) -> Stamp {
    let m = fs::metadata(path).ok()?;
    Some((m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}

impl<T> Watched<T> {
    pub fn open(
        paths: Vec<PathBuf>,
        load: impl Fn(&[PathBuf]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, ServerError> {
        let stamp = paths.iter().map(stamp).collect();
        let value = load(&paths).map_err(|why| ServerError::File {
            path: paths[0].clone(),
            why,
        })?;
        Ok(Self {
            load: Box::new(load),
            paths,
            state: Mutex::new(State {
                value: Arc::new(value),
                version: 1,
                stamp,
                looked: Instant::now(),
            }),
        })
    }

    /// The value now, and its version.
    pub fn now(&self) -> (Arc<T>, u64) {
        let mut state = self.state.lock().unwrap_or_else(|p| p.into_inner());
        if state.looked.elapsed() >= PAUSE {
            self.look(&mut state);
        }
        (state.value.clone(), state.version)
    }

    fn look(&self, state: &mut State<T>) {
        state.looked = Instant::now();
        let stamp: Vec<Stamp> = self.paths.iter().map(stamp).collect();
        if stamp == state.stamp {
            return;
        }
        // Also where loading fails: one word about one state of a file is enough.
        state.stamp = stamp;
        match (self.load)(&self.paths) {
            Ok(value) => {
                state.value = Arc::new(value);
                state.version += 1;
                tracing::info!(path = %self.paths[0].display(), "taken up as it is now");
            }
            Err(why) => {
                tracing::error!(path = %self.paths[0].display(), why, "has changed, and cannot be used");
            }
        }
    }

    #[cfg(test)]
    pub fn look_again(&self) {
        let mut state = self.state.lock().unwrap();
        // Two writes within the clock's tick look alike.
        state.stamp.clear();
        self.look(&mut state);
    }
}

/// A file's bytes, at most `max`; the error as words.
pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| format!("cannot open it: {e}"))?;
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|e| format!("cannot read it: {e}"))?;
    match bytes.len() as u64 > max {
        true => Err(format!("it has more than {max} bytes")),
        false => Ok(bytes),
    }
}
