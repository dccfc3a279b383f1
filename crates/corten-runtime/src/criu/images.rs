//! The folders of images and logs: made, opened, and given to whom criu reads them as.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::message::Options;
use crate::error::{Error, failed, failed_io};
use crate::request::Images;

/// The folders of images and of logs, open: criu takes them by descriptors of ours.
pub(crate) struct Folders {
    images: OwnedFd,
    work: Option<OwnedFd>,
    logs: PathBuf,
}

impl Folders {
    /// They may exist: a container is checkpointed more than once.
    pub fn make(images: &Images) -> Result<Self, Error> {
        create(&images.path)?;
        Self::open(images)
    }

    /// The images must be there.
    pub fn open(images: &Images) -> Result<Self, Error> {
        let work = match &images.work {
            Some(work) => {
                create(work)?;
                Some(open(work)?)
            }
            None => None,
        };
        Ok(Self {
            images: open(&images.path)?,
            work,
            logs: images.work.as_ref().unwrap_or(&images.path).clone(),
        })
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(name)
    }

    pub fn options(&self, images: &Images, spec: &Spec, log_file: &'static str) -> Options {
        Options {
            images: self.images.as_raw_fd(),
            work: self.work.as_ref().map(AsRawFd::as_raw_fd),
            log_file,
            config_file: config_file(spec),
            external_unix: images.ext_unix_sk,
            tcp_established: images.tcp_established,
            shell_job: images.shell_job,
            file_locks: images.file_locks,
            link_remap: images.link_remap,
            auto_dedup: images.auto_dedup,
            lazy_pages: images.lazy_pages,
            manage_cgroups: images.manage_cgroups,
            // Networks are others' business: whoever made the links makes them again (runc has it so too).
            empty_namespaces: Namespaces::NETWORK.bits(),
            ..Options::default()
        }
    }
}

fn create(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Memory of a container is in there: for nobody else to read.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(failed_io("make the folder", path))
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(failed("open the folder", path))
}

/// criu's own settings for containers: the annotation's file (none if it is empty), or the machine's.
fn config_file(spec: &Spec) -> Option<String> {
    let annotations = spec.annotations().as_ref();
    match annotations.and_then(|a| a.get("org.criu.config")) {
        Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
        // runc's file too: it is where administrators have written such settings for years.
        None => ["/etc/criu/corten.conf", "/etc/criu/runc.conf"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .map(String::from),
    }
}

/// As many pre-dumps as one checkpoint may be built on.
pub(crate) const PARENTS_MAX: u32 = 64;

/// Gives images to the root of a new user namespace: processes in there read them for themselves, and criu has written
/// them for nobody but the host's root.
pub(crate) fn give_to(images: &Path, uid: u32, gid: u32, parents: u32) -> Result<(), Error> {
    use rustix::fs::{AtFlags, Dir, FileType, Gid, Uid, chownat};
    let give = |at: &OwnedFd, name: &std::ffi::CStr| {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(at, name, Some(uid), Some(gid), flags)
    };
    let go = || -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, images, flags, Mode::empty())?;
        give(&folder, c"")?;
        let mut parent = false;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            match entry.file_type() {
                FileType::RegularFile => give(&folder, entry.file_name())?,
                FileType::Symlink => parent |= entry.file_name() == c"parent",
                _ => {}
            }
        }
        Ok(parent)
    };
    let more = go().map_err(failed("give the images to the container's root in", images))?;
    match (more, parents) {
        (false, _) => Ok(()),
        (true, 0) => Err(failed("follow the parents of", images)(Errno::LOOP)),
        (true, left) => give_to(&images.join("parent"), uid, gid, left - 1),
    }
}
