//! Files that are there whole or not at all: who reads one never sees a half, and neither does who comes after a kill.

use std::fs;
use std::io;
use std::path::Path;

/// Puts these bytes in the place of what is at `path`.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}
