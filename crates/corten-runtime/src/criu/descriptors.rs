//! Where a container's stdio led, kept beside the images, so that at the restore it can lead elsewhere.
//!
//! The file is runc's: a list of three texts, what `/proc/PID/fd` says of 0, 1 and 2. criu takes a pipe of that
//! name from us at the restore. A file of the host (mostly its `/dev/null`) is not in the container's mounts, and
//! criu refuses it; for one of those the text is the name that criu has for it as an external file,
//! `file[MOUNT:INODE]`, which other runtimes pass over.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, failed_io};

pub(crate) const FILE: &str = "descriptors.json";
/// Three names are no longer.
const SIZE_MAX: u64 = 64 << 10;

/// What 0, 1 and 2 of `pid` are.
pub(crate) fn of(pid: u32) -> Result<Vec<String>, Error> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let mounts = mounts(&process)?;
    (0..3).map(|fd| one(&process, fd, &mounts)).collect()
}

/// Ids of all mounts that the process can see: the first word of each line.
fn mounts(process: &Path) -> Result<BTreeSet<u64>, Error> {
    let path = process.join("mountinfo");
    let text = std::fs::read_to_string(&path).map_err(failed_io("read", &path))?;
    let first = |line: &str| line.split(' ').next()?.parse().ok();
    Ok(text.lines().filter_map(first).collect())
}

fn one(process: &Path, fd: u32, mounts: &BTreeSet<u64>) -> Result<String, Error> {
    let path = process.join("fd").join(fd.to_string());
    let link = match std::fs::read_link(&path) {
        Ok(link) => link.to_string_lossy().into_owned(),
        // Closed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed_io("read", &path)(error)),
    };
    if !link.starts_with('/') {
        return Ok(link);
    }
    let info = process.join("fdinfo").join(fd.to_string());
    let text = std::fs::read_to_string(&info).map_err(failed_io("read", &info))?;
    let mount = text
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    let metadata = path.metadata().map_err(failed_io("examine", &path))?;
    let kind = metadata.file_type();
    // Terminals have a way of their own, by "shell job".
    let terminal =
        kind.is_char_device() && (136..=143).contains(&rustix::fs::major(metadata.rdev()));
    Ok(match mount {
        Some(mount) if !mounts.contains(&mount) && !terminal => {
            format!("file[{mount:x}:{:x}]", metadata.ino())
        }
        _ => link,
    })
}

/// The names that criu is to take as external at the dump.
pub(crate) fn external(names: &[String]) -> Vec<String> {
    let mut external: Vec<String> = names
        .iter()
        .filter(|name| name.starts_with("file["))
        .cloned()
        .collect();
    external.sort();
    external.dedup();
    external
}

pub(crate) fn write(images: &Path, names: &[String]) -> Result<(), Error> {
    let path = images.join(FILE);
    let text = serde_json::to_vec(names).map_err(|e| Error::State {
        path: path.clone(),
        problem: e.to_string(),
    })?;
    std::fs::write(&path, text).map_err(failed_io("write", &path))
}

pub(crate) fn read(images: &Path) -> Result<Vec<String>, Error> {
    use std::io::Read as _;
    let path = images.join(FILE);
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(SIZE_MAX).read_to_end(&mut bytes))
        .map_err(failed_io("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::State {
        path,
        problem: format!("is damaged: {e}"),
    })
}

/// Which of the new stdio takes the place of which old name. Of one name that stood for several, the first is
/// enough: criu opens files again, each as it was.
pub(crate) fn inherited(names: &[String]) -> Vec<(String, usize)> {
    let mut inherited: Vec<(String, usize)> = Vec::new();
    for (number, name) in names.iter().take(3).enumerate() {
        let outside = name.starts_with("pipe:[") || name.starts_with("file[");
        if outside && inherited.iter().all(|(known, _)| known != name) {
            inherited.push((name.clone(), number));
        }
    }
    inherited
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_outside_is_inherited() {
        let names = ["/dev/pts/0", "pipe:[7]", "pipe:[7]"].map(String::from);
        assert_eq!(inherited(&names), [("pipe:[7]".into(), 1)]);
        let names = ["file[21:4]", "file[21:4]", "socket:[9]"].map(String::from);
        assert_eq!(inherited(&names), [("file[21:4]".into(), 0)]);
        assert_eq!(external(&names), ["file[21:4]"]);
    }

    #[test]
    fn our_own_stdio_is_inside() {
        // This process sees all its mounts, so nothing of it is outside.
        let names = of(std::process::id()).unwrap();
        assert_eq!(names.len(), 3);
        assert!(external(&names).is_empty(), "{names:?}");
    }

    #[test]
    fn the_file_is_a_plain_list() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "pipe:[1]", ""].map(String::from);
        write(dir.path(), &names).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text, r#"["a","pipe:[1]",""]"#);
        assert_eq!(read(dir.path()).unwrap(), names);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(read(dir.path()), Err(Error::State { .. })));
    }
}
