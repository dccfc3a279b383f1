//! One daemon for a state folder, and one for a run folder: the kernel's lock on a file in each, gone with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use corten_engine::Paths;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

const NAME: &str = "serve.lock";

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
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            return Err(LockError::Held {
                folder: folder.to_owned(),
                pid: match pid.trim() {
                    "" => "unknown".into(),
                    pid => pid.chars().filter(char::is_ascii_digit).collect(),
                },
            });
        }
        Err(e) => return Err(failed(e.into())),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}
