//! A tree as text: everything that a program could tell two trees apart by, one line an entry.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use corten_spec::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::layer::attributes::Attributes;
use crate::snapshot::RootMount;

/// Contents up to this length stand in the line; longer ones by their digest.
const SHORT: usize = 24;

/// Mounts a recipe without attaching it anywhere: the tree is reached through the descriptor alone, and goes with it.
pub fn mount(root: &RootMount) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(root.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in &root.options {
        match option.split_once('=') {
            // One at a time, for a parameter has no more than 255 bytes otherwise (6.8 and later).
            Some(("lowerdir", all)) => {
                for lower in all.split(':') {
                    rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", lower)?;
                }
            }
            Some((key, value)) => rustix::mount::fsconfig_set_string(fs.as_fd(), key, value)?,
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), option.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(
        fs.as_fd(),
        flags,
        MountAttrFlags::empty(),
    )?)
}

/// All lines of a tree, sorted by path.
pub fn of(root: &OwnedFd) -> io::Result<String> {
    let mut lines = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let folder = open(root, &path, OFlags::DIRECTORY)?;
        lines.insert(path.clone(), line(&folder, b"", &path)?);
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let child = match path.is_empty() {
                true => name.to_vec(),
                false => [&path, b"/".as_slice(), name].concat(),
            };
            let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(child);
                continue;
            }
            inodes
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(Vec::new)
                .push(child.clone());
            lines.insert(child.clone(), line(&folder, name, &child)?);
        }
    }
    // Which names are one file.
    for names in inodes.values_mut().filter(|n| n.len() > 1) {
        names.sort();
        for name in names.iter() {
            if let Some(line) = lines.get_mut(name) {
                let _ = write!(line, " = {}", names[0].escape_ascii());
            }
        }
    }
    Ok(lines.into_values().map(|l| l + "\n").collect())
}

fn open(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(root, path, flags, Mode::empty())?)
}

fn line(folder: &OwnedFd, name: &[u8], path: &[u8]) -> io::Result<String> {
    let stat = match name {
        b"" => rustix::fs::fstat(folder)?,
        _ => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?,
    };
    let attributes = Attributes::of(folder.as_fd(), name)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let shown = if path.is_empty() { b"." } else { path };
    let mut out = format!(
        "{} {:04o} {}:{} {}.{:09} {}",
        letter(kind),
        attributes.mode,
        attributes.uid,
        attributes.gid,
        attributes.mtime.0,
        attributes.mtime.1,
        shown.escape_ascii(),
    );
    for (name, value) in &attributes.xattrs {
        let _ = write!(out, " [{}={}]", name.escape_ascii(), value.escape_ascii());
    }
    out += &what(folder, name, kind, &stat)?;
    Ok(out)
}

fn what(folder: &OwnedFd, name: &[u8], kind: FileType, stat: &Stat) -> io::Result<String> {
    Ok(match kind {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            format!(" -> {}", target.to_bytes().escape_ascii())
        }
        FileType::CharacterDevice | FileType::BlockDevice => format!(
            " {}:{}",
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev)
        ),
        FileType::RegularFile => {
            let mut bytes = Vec::new();
            File::from(open(folder, name, OFlags::empty())?).read_to_end(&mut bytes)?;
            match bytes.len() {
                0..=SHORT => format!(" \"{}\"", bytes.escape_ascii()),
                n => format!(" {n} bytes {}", Digest::of(&bytes).short()),
            }
        }
        _ => String::new(),
    })
}

fn letter(kind: FileType) -> char {
    match kind {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        _ => 'f',
    }
}
