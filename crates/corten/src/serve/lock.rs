//! One daemon for a state folder, and one for a run folder: the kernel's lock on a file in each, gone with the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_engine::Paths;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

const NAME: &str = "serve.lock";
/// Who is killed while it starts another process leaves its lock to that one, for the moment until it executes its program.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(5);

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _files: Vec<File>,
}

/// Why the folders are not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another 'corten serve' (pid {pid}) has {folder:?}")]
    Held { folder: PathBuf, pid: String },
    #[error("cannot lock {path:?}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Lock {
    pub fn take(paths: &Paths) -> Result<Self, LockError> {
        let folders = [paths.root(), paths.run()];
        let files = folders.into_iter().map(take);
        Ok(Self {
            _files: files.collect::<Result<_, _>>()?,
        })
    }
}

/// The file stays when the lock goes: removing it would let two hold one name.
fn take(folder: &Path) -> Result<File, LockError> {
    let path = folder.join(NAME);
    let failed = |source| LockError::Io {
        path: path.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let text = fs::read_to_string(&path).map_err(failed)?;
        let pid: String = text.chars().filter(char::is_ascii_digit).collect();
        let gone = !pid.is_empty() && !Path::new("/proc").join(&pid).exists();
        if !gone || Instant::now() > end {
            return Err(LockError::Held {
                folder: folder.to_owned(),
                pid: match pid.as_str() {
                    "" => "unknown".into(),
                    _ => pid,
                },
            });
        }
        std::thread::sleep(STEP);
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}
