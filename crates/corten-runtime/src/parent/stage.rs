//! The place where criu puts a container together again: a mount namespace of its own, with the root mounted.
//!
//! criu wants a root that is a mount, below a mount that nothing covers. In a namespace that ends with the last
//! process in it, that mount cannot be left behind, whoever dies when.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::mount::{self, Change, Propagation, attach, clone_tree};
use corten_sys::namespace::{self, Namespaces};
use corten_sys::socket::path_of;
use corten_sys::{Errno, keyring, process};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{UnmountFlags, unmount};

use super::mounts;
use crate::criu::yard::UNIFIED;
use crate::criu::{Criu, Job};
use crate::error::{Error, failed};
use crate::init::mounts::find_target;
use crate::plan::Plan;
use crate::plan::mounts::{Plan as Mount, Source};

/// What is to be where.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub plan: &'a Plan,
    /// Detached.
    pub root: OwnedFd,
    /// A `/dev` that criu could not make, detached.
    pub dev: Option<OwnedFd>,
    /// Where version 2 of control groups is mounted, if criu is to take it from us: see [`crate::criu::yard`].
    pub groups: Option<PathBuf>,
    /// The container's own, on the host: it gets an empty folder for each of them.
    pub folder: &'a Path,
    /// criu always changes the root by `pivot_root`, which an initramfs cannot; below a copy of itself it can.
    pub no_pivot: bool,
    /// What is restored has criu's session keyring; this is a new one's name.
    pub keyring: Option<CString>,
}

impl Stage<'_> {
    /// Where the root is, on the stage.
    pub fn root_at(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub fn dev_at(&self) -> PathBuf {
        self.folder.join("dev")
    }

    /// Empty where there is none.
    pub fn yard_at(&self) -> PathBuf {
        match self.groups {
            Some(_) => self.folder.join("yard"),
            None => PathBuf::new(),
        }
    }

    fn places(&self) -> impl Iterator<Item = PathBuf> {
        let dev = self.dev.as_ref().map(|_| self.dev_at());
        std::iter::once(self.root_at()).chain(dev)
    }

    /// The yard and what is in it.
    fn yard(&self) -> impl DoubleEndedIterator<Item = PathBuf> {
        let yard = self.groups.as_ref().map(|_| self.yard_at());
        let inside = yard.as_ref().map(|yard| yard.join(UNIFIED));
        yard.into_iter().chain(inside)
    }

    /// Removes the folders on which nothing was ever mounted as the host sees it.
    pub fn strike(&self) -> Result<(), Error> {
        let mut places = self.places().chain(self.yard().rev());
        places.try_for_each(|place| rustix::fs::rmdir(&place).map_err(failed("remove", &place)))
    }

    /// Sets the stage and starts criu on it. All in a thread: of a process's threads each may have mounts of its own,
    /// and a new process has those of the thread that starts it.
    ///
    /// Folders in which criu works (and mounts) are opened by `open` in there: those of our own mounts would be
    /// another namespace's.
    pub fn start<T: Send>(
        &self,
        job: &Job<'_>,
        open: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<(Criu, T), Error> {
        // A process of ours is on its way into a container: nobody there may look into it.
        process::set_undumpable().map_err(failed("protect the process's memory", ""))?;
        if self.plan.namespaces.user.is_some() {
            // criu goes to its mounts as root of the user namespace, who is nobody here. What is in the folder stays
            // closed to everybody.
            let mode = Mode::from_raw_mode(0o711);
            rustix::fs::chmod(self.folder, mode).map_err(failed("open the folder", self.folder))?;
        }
        for place in self.places().chain(self.yard()) {
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdir(&place, mode).map_err(failed("make the folder", &place))?;
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.set()?;
                if let Some(name) = &self.keyring {
                    keyring::new_session(name).map_err(failed("make", "a session keyring"))?;
                }
                let opened = open()?;
                Ok((Criu::start(job)?, opened))
            });
            let died = || Err(failed("start", "criu's thread")(Errno::IO));
            thread.join().unwrap_or_else(|_| died())
        })
    }

    fn set(&self) -> Result<(), Error> {
        let enter = || -> Result<(), Errno> {
            namespace::unshare_filesystem()?;
            namespace::unshare(Namespaces::MOUNT)?;
            let slave = Change {
                propagation: Some(Propagation::Slave),
                recursive: true,
                ..Change::default()
            };
            mount::change(top()?, &slave)
        };
        enter().map_err(failed("make the mount namespace", ""))?;
        if self.no_pivot {
            cover_top().map_err(failed("cover", "/"))?;
        }
        for (tree, place) in [Some(&self.root), self.dev.as_ref()]
            .into_iter()
            .flatten()
            .zip(self.places())
        {
            attach(tree, CWD, &*place).map_err(failed("mount", &place))?;
        }
        if let (Some(groups), Some(place)) = (&self.groups, self.yard().next_back()) {
            // A mount, not a link: processes that criu moves to their groups may be behind another root by then.
            let tree = clone_tree(CWD, &**groups, false, &Change::default())
                .map_err(failed("bind", groups))?;
            attach(&tree, CWD, &*place).map_err(failed("mount", &place))?;
        }
        self.mount_points()
    }

    /// Makes missing mount points, as a start does: criu expects them all. To make those that are in bind
    /// mounts (on the host, then, as at a start), these are attached for as long.
    fn mount_points(&self) -> Result<(), Error> {
        let mut attached: Vec<OwnedFd> = Vec::new();
        for (index, mount) in self.plan.mounts.iter().enumerate() {
            if self.comes_with_another(index, mount) {
                continue;
            }
            let target = PathBuf::from(mount.target.to_string_lossy().into_owned());
            let tree = match &mount.source {
                Source::Bind {
                    path,
                    recursive,
                    link,
                    ..
                } => mounts::bind(path, *recursive, *link, &mount.changes)
                    .map_err(failed("bind", path))?,
                Source::Remount { .. } => continue,
                // Any folder says that this one is to be a folder.
                Source::New { .. } | Source::Cgroup { .. } => top().map_err(failed("open", "/"))?,
            };
            let place = find_target(&self.root, mount, &tree)
                .map_err(failed("make the mount point", &target))?;
            if matches!(mount.source, Source::Bind { .. }) {
                attach(&tree, &place, c"").map_err(failed("mount", &target))?;
                attached.push(tree);
            }
        }
        for tree in attached.iter().rev() {
            let path = path_of(tree.as_fd());
            unmount(&*path, UnmountFlags::DETACH).map_err(failed("unmount", &path))?;
        }
        Ok(())
    }

    /// Is it in a file system that criu fills by itself?
    fn comes_with_another(&self, index: usize, mount: &Mount) -> bool {
        let inside = |outer: &Mount| {
            let rest = mount
                .target
                .as_bytes()
                .strip_prefix(outer.target.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"/"))
        };
        self.plan.mounts[..index]
            .iter()
            .rev()
            .find(|outer| inside(outer))
            .is_some_and(|outer| !matches!(outer.source, Source::Bind { .. }))
    }
}

fn top() -> Result<OwnedFd, Errno> {
    openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// The whole tree once more, on top of itself, and the thread in there.
fn cover_top() -> Result<(), Errno> {
    let tree = clone_tree(CWD, c"/", true, &Change::default())?;
    attach(&tree, CWD, c"/")?;
    rustix::process::fchdir(&tree)?;
    rustix::process::chroot(c".")
}
