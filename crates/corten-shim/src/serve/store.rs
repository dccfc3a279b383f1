//! Memory of a pod that its containers bind: what they share at `/dev/shm`, and their files of `/etc`. A bound on either is the file
//! system's own size, whatever a container writes.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_spec::Kind;
use corten_sys::mount::{self, Attributes, Change, Propagation};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::hold::{internal, path};
use crate::proto::corten::SmallFile;
use crate::ttrpc::status::Status;

/// The names of [`Store::Attached`] in the bundle.
const SHM: &str = "shm";
const FILES: &str = "etc";
/// Bytes beyond what the files begin with.
const ROOM: u64 = 1 << 20;
/// Inodes beyond those of the files. Since Linux 6.6 their extended attributes are of the same account (tmpfs(5), `nr_inodes`), and with
/// SELinux each file has one from its birth.
const SPARE_INODES: usize = 16;

/// A file system in memory that the pod's containers bind, or parts of it.
#[derive(Debug)]
pub enum Store {
    /// Attached nowhere.
    Loose(OwnedFd),
    /// Before Linux 6.15, which cannot bind what is attached nowhere: in the bundle.
    Attached(PathBuf),
}

impl Store {
    /// With the last container that has bound it, and us, it ends.
    pub fn shared_memory(size: u64, owner: (u32, u32), bundle: &Path) -> Result<Self, Status> {
        let (size, uid, gid) = (size.to_string(), owner.0.to_string(), owner.1.to_string());
        let options = [
            ("mode", Some("1777")),
            ("size", Some(size.as_str())),
            ("uid", Some(uid.as_str())),
            ("gid", Some(gid.as_str())),
        ];
        Self::made("shm", &options)?.place(&bundle.join(SHM))
    }

    /// Files of root's, with some room to be changed in.
    pub fn of_files(files: &[SmallFile], bundle: &Path) -> Result<Self, Status> {
        let length: usize = files.iter().map(|f| f.text.len()).sum();
        let (size, inodes) = (length as u64 + ROOM, files.len() + 1 + SPARE_INODES);
        let (size, inodes) = (size.to_string(), inodes.to_string());
        let options = [
            ("mode", Some("0755")),
            ("size", Some(size.as_str())),
            ("nr_inodes", Some(inodes.as_str())),
        ];
        let loose = Self::made("etc", &options)?;
        for file in files {
            let path = Path::new(&file.name);
            if path.file_name() != Some(path.as_os_str()) {
                return Err(Status::of(
                    Kind::Invalid,
                    format!("file {:?} of the pod: its name is not one word", file.name),
                ));
            }
            let failed = |e: std::io::Error| internal("write", path, &e);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let opened = openat(&loose.0, path, flags, Mode::from_raw_mode(0o644));
            let mut opened = File::from(opened.map_err(|e| failed(e.into()))?);
            opened.write_all(file.text.as_bytes()).map_err(failed)?;
        }
        loose.place(&bundle.join(FILES))
    }

    fn made(name: &str, options: &[(&str, Option<&str>)]) -> Result<Loose, Status> {
        // Root of a container writes to it, and where it has a place, users of the host come by.
        let attributes = Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC;
        let made = mount::new_filesystem("tmpfs", Some(name), options, attributes);
        made.map(Loose).map_err(|e| {
            let text = format!("cannot make {name}, memory of the pod: {}", e.errno);
            Status::of(Kind::Internal, text)
        })
    }

    pub fn path(&self) -> String {
        match self {
            Self::Loose(fd) => path(fd),
            Self::Attached(at) => at.display().to_string(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Self::Attached(at) = self {
            // Containers keep what they have bound. If it fails, whoever clears the bundle comes by it.
            let _gone = rustix::mount::unmount(&*at, UnmountFlags::DETACH);
        }
    }
}

/// A file system that is attached nowhere yet.
struct Loose(OwnedFd);

impl Loose {
    /// Attached nowhere, if containers can bind it so.
    fn place(self, at: &Path) -> Result<Store, Status> {
        if mount::clone_tree(&self.0, c"", false, &Change::default()).is_ok() {
            return Ok(Store::Loose(self.0));
        }
        let failed = |errno: Errno| internal("mount", at, &errno.into());
        std::fs::create_dir_all(at).map_err(|e| internal("make folder", at, &e))?;
        let change = Change {
            propagation: Some(Propagation::Private),
            ..Change::default()
        };
        mount::change(&self.0, &change).map_err(failed)?;
        mount::attach(&self.0, rustix::fs::CWD, at).map_err(failed)?;
        Ok(Store::Attached(at.into()))
    }
}
