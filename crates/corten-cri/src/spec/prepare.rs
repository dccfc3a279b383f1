//! Doing what a plan asks of the host before its container is made: the folders that its mounts need, and their labels.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, XattrFlags, fstat, open, openat, setxattr};
use rustix::io::Errno;

use super::Planned;
use super::error::Refused;

/// Deeper trees are somebody's attack on us.
const MAX_DEPTH: usize = 128;

/// What was done is left behind if the container is not made after all: it is the pod's owner's, as the path was.
pub fn carry_out(plan: &Planned) -> Result<(), Refused> {
    for folder in &plan.folders {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(failed("make folder", folder))?;
    }
    for (path, label) in &plan.relabel {
        relabel(path, label).map_err(failed("label", path))?;
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Refused {
    let path = path.to_owned();
    move |source| Refused::Failed {
        action,
        path,
        source,
    }
}

/// The whole tree. Containers may change it meanwhile: below the path itself, which is the request's, no link is
/// followed and no name is looked up twice.
fn relabel(path: &Path, label: &str) -> io::Result<()> {
    let value = [label.as_bytes(), b"\0"].concat();
    let top = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    label_below(&top, &value, 0)
}

fn label_below(at: &OwnedFd, label: &[u8], depth: usize) -> io::Result<()> {
    // A descriptor that only names a file has no fsetxattr(2), but a path.
    let path = format!("/proc/self/fd/{}", at.as_raw_fd());
    match setxattr(path, "security.selinux", label, XattrFlags::empty()) {
        Ok(()) => {}
        // A file system that has no labels is as it is.
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    if FileType::from_raw_mode(fstat(at)?.st_mode) != FileType::Directory {
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
    }
    let read = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(at, ".", read, Mode::empty())?;
    for entry in Dir::new(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(at, name, flags, Mode::empty()) {
            // A link's own label is nobody's concern.
            Ok(fd) if is_link(&fd)? => {}
            Ok(fd) => label_below(&fd, label, depth + 1)?,
            // Somebody removed it just now.
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn is_link(fd: &impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Symlink)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::lgetxattr;

    use super::*;

    fn label(path: &Path) -> Option<Vec<u8>> {
        let mut buffer = [0; 128];
        let length = lgetxattr(path, "security.selinux", &mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    #[test]
    fn folders_are_made_and_a_tree_is_labelled_without_following_links() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::write(&outside, "").unwrap();
        let tree = home.path().join("a/b");
        let mut plan = Planned {
            spec: serde_json::Value::Null,
            user: Default::default(),
            stop_signal: 15,
            folders: vec![tree.join("c")],
            relabel: vec![],
            warnings: vec![],
        };
        carry_out(&plan).unwrap();
        fs::write(tree.join("c/file"), "").unwrap();
        symlink("../../../outside", tree.join("c/link")).unwrap();
        let wanted = "system_u:object_r:container_file_t:s0:c1,c2";
        plan.relabel = vec![(tree.clone(), wanted.into())];
        carry_out(&plan).unwrap();
        let wanted = format!("{wanted}\0").into_bytes();
        for path in [tree.clone(), tree.join("c"), tree.join("c/file")] {
            assert_eq!(label(&path).as_ref(), Some(&wanted), "{path:?}");
        }
        assert_ne!(label(&outside).as_ref(), Some(&wanted));
        plan.relabel = vec![("/nonexistent".into(), String::new())];
        let error = carry_out(&plan).unwrap_err();
        assert_eq!(error.to_string(), "cannot label \"/nonexistent\"");
    }

    #[test]
    fn a_file_is_labelled_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        relabel(&file, "x").unwrap();
        assert_eq!(label(&file).as_deref(), Some(&b"x\0"[..]));
    }
}
