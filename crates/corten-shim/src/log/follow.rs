//! Finding a log's files again while they are rotated. For readers; nothing is changed here.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::place::numbered;

/// A log has fewer files than that; the rest of a number's room would be looked up in vain.
const MOST: u32 = 10_000;
/// After so many numbers without a file there is none. A crash leaves one free.
const GAP: u32 = 2;

/// A log's files that exist now, oldest first; the current one last, if it exists.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut missing = 0;
    for n in 1..MOST {
        let file = numbered(path, n);
        match file.symlink_metadata() {
            Ok(_) => {
                missing = 0;
                found.push(file);
            }
            Err(_) => missing += 1,
        }
        if missing == GAP {
            break;
        }
    }
    found.reverse();
    found.extend(Some(path.to_path_buf()).filter(|p| p.symlink_metadata().is_ok()));
    found
}

/// The file that comes after `file`, which the caller has open. `None`: it is the current one, or its
/// successor is not there yet. A file that was removed before its turn is skipped, as what it held is gone.
pub fn successor(path: &Path, file: &File) -> io::Result<Option<File>> {
    let own = identity(&file.metadata()?);
    let look = || {
        let all = files(path);
        let is_own = |p: &PathBuf| p.symlink_metadata().is_ok_and(|m| identity(&m) == own);
        let place = all.iter().position(is_own);
        (all, place)
    };
    // Names move while we look; what was found is true only if it still is afterwards.
    for _ in 0..MOST {
        let (all, place) = look();
        let next = match place {
            Some(at) => all.get(at + 1),
            // Unlinked: all that are left are newer. Renamed by somebody: they are older, but for the current one.
            None if file.metadata()?.nlink() == 0 => all.first(),
            None => all.last().filter(|p| *p == path),
        };
        let opened = match next.map(File::open) {
            None => None,
            Some(Ok(opened)) => Some(opened),
            Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => continue,
            Some(Err(e)) => return Err(e),
        };
        if look() == (all, place) {
            return Ok(opened);
        }
    }
    Ok(None)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
