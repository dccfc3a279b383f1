//! `tmpcopyup`: fills a tmpfs with the content of the folder that it will cover.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, mkdirat, openat,
    readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// Folders below folders, at most.
const DEPTH: usize = 64;

/// Copies what is in `from` to `to`: folders, files, links, with owners and modes. Other kinds are left
/// out: a device or socket of an image means nothing on a tmpfs.
pub(crate) fn copy(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let from = openat(
        from,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    folder(from, to, 0)
}

fn folder(from: OwnedFd, to: impl AsFd, depth: usize) -> Result<(), Errno> {
    if depth == DEPTH {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        one(&from, &to, name, depth)?;
    }
    Ok(())
}

fn one(from: &OwnedFd, to: impl AsFd, name: &CStr, depth: usize) -> Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(&to, name, mode)?;
            let below = openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let made = openat(&to, name, read | OFlags::DIRECTORY, Mode::empty())?;
            fchown(&made, Some(uid), Some(gid))?;
            fchmod(&made, mode)?;
            folder(below, &made, depth + 1)
        }
        FileType::RegularFile => {
            let source = openat(from, name, read, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = openat(&to, name, flags, mode)?;
            bytes(&source, &made)?;
            fchown(&made, Some(uid), Some(gid))?;
            fchmod(&made, mode)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(&target, &to, name)?;
            chownat(&to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        _ => Ok(()),
    }
}

fn bytes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    loop {
        match rustix::fs::sendfile(to, from, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
