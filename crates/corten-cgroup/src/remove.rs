//! Waiting until a group is empty, and removing it.
//!
//! v2 says it when a group becomes empty: `cgroup.events` wakes a poll. v1 has no
//! such file, so there the processes themselves are waited for, by pidfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;
use crate::below::{Step, walk};
use crate::dir::{Dir, open_child, open_root};
use crate::group::Cgroup;

/// How long `delete` waits for killed processes to be gone. Freeing the memory of
/// a large one takes about a second for every 10 GB.
const PATIENCE: Duration = Duration::from_secs(10);

/// The `cgroup.events` file of a v2 group.
pub(crate) struct Events<'a> {
    fd: OwnedFd,
    group: &'a str,
}

impl<'a> Events<'a> {
    pub(crate) fn open(dir: &Dir, group: &'a str) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match openat(&dir.fd, "cgroup.events", flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, group }),
            Err(source) => Err(Error::Read {
                file: "cgroup.events".into(),
                group: group.into(),
                source,
            }),
        }
    }

    /// Waits until `key` has `value`. `false`: not within the time.
    pub(crate) fn wait(&self, key: &str, value: &str, limit: Duration) -> Result<bool, Error> {
        let end = Instant::now() + limit;
        loop {
            let mut text = [0u8; 256];
            let text = match rustix::io::pread(&self.fd, &mut text, 0) {
                Ok(n) => String::from_utf8_lossy(&text[..n]).into_owned(),
                Err(Errno::NODEV) => return Ok(true), // removed by somebody else
                Err(source) => {
                    return Err(Error::Read {
                        file: "cgroup.events".into(),
                        group: self.group.into(),
                        source,
                    });
                }
            };
            if field(&text, key) == Some(value) {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // The change after a read wakes the poll, also when it came before the poll.
            pause(&[self.fd.as_fd()], PollFlags::PRI, left, self.group)?;
        }
    }
}

/// `key value` lines.
pub(crate) fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '))
        .map(str::trim)
}

/// Waits for any of the descriptors, or for the time to pass.
pub(crate) fn pause(
    fds: &[BorrowedFd<'_>],
    events: PollFlags,
    limit: Duration,
    group: &str,
) -> Result<(), Error> {
    let mut fds: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, events))
        .collect();
    let limit = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(source) => Err(Error::Wait {
            group: group.into(),
            source,
        }),
    }
}

impl Cgroup {
    /// Removes the group, and those below it, from every hierarchy. Waits up to 10
    /// seconds for its processes to end, but kills none. One that is gone already is no error.
    pub fn delete(&self) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        let mut step = Duration::from_micros(200);
        loop {
            // Most groups are empty when they are deleted: try before asking.
            let refused = match self.remove_everywhere() {
                Ok(()) => return Ok(()),
                Err((Errno::BUSY, error)) => error,
                Err((_, error)) => return Err(error),
            };
            let left = end.saturating_duration_since(Instant::now());
            let empty = self.wait_empty(left)?;
            if Instant::now() >= end {
                let pids = self.pids()?.len();
                return Err(match pids {
                    0 => refused,
                    _ => Error::Timeout {
                        group: self.path.clone(),
                        wanted: "empty",
                        millis: PATIENCE.as_millis() as u64,
                        pids,
                    },
                });
            }
            if empty {
                // Empty, and busy all the same: the kernel is still letting go of the last task.
                pause(&[], PollFlags::empty(), step, &self.path)?;
                step = (step * 2).min(Duration::from_millis(50));
            }
        }
    }

    /// Whether no process is left, after waiting for that.
    fn wait_empty(&self, limit: Duration) -> Result<bool, Error> {
        if let Some(dir) = self.unified()
            && let Ok(events) = Events::open(dir, &self.path)
        {
            return events.wait("populated", "0", limit);
        }
        let mut fds = Vec::new();
        for pid in self.pids()?.into_iter().filter_map(Pid::from_raw).take(64) {
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(fd) => fds.push(fd),
                Err(Errno::SRCH) => {}
                Err(source) => {
                    return Err(Error::Wait {
                        group: self.path.clone(),
                        source,
                    });
                }
            }
        }
        let borrowed: Vec<_> = fds.iter().map(|f| f.as_fd()).collect();
        if borrowed.is_empty() {
            return Ok(true);
        }
        // Any exit is a reason to look again; the step bounds a wait for a process that forked meanwhile.
        pause(
            &borrowed,
            PollFlags::IN,
            limit.min(Duration::from_secs(1)),
            &self.path,
        )?;
        Ok(false)
    }

    fn remove_everywhere(&self) -> Result<(), (Errno, Error)> {
        let mut first = None;
        for dir in &self.dirs {
            if let Err(source) = remove(&dir.root, &self.path) {
                let error = Error::Delete {
                    group: self.path.clone(),
                    hierarchy: dir.root.clone(),
                    source,
                };
                // A busy one is waited for, so any other failure says more.
                match first {
                    Some((Errno::BUSY, _)) | None => first = Some((source, error)),
                    Some(_) => {}
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn remove(root: &std::path::Path, path: &str) -> Result<(), Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at = open_root(root)?;
    for part in parent.split('/').filter(|p| !p.is_empty()) {
        at = match open_child(at.as_fd(), part) {
            Err(Errno::NOENT) => return Ok(()),
            answer => answer?,
        };
    }
    match unlinkat(&at, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Processes, or child groups: try without the children.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {
            match open_child(at.as_fd(), name) {
                Ok(group) => remove_children(&group)?,
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno),
            }
            match unlinkat(&at, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno),
            }
        }
        Err(errno) => Err(errno),
    }
}

fn remove_children(group: &OwnedFd) -> Result<(), Errno> {
    walk(group, |step| {
        let Step::OutOf(group, name) = step else {
            return Ok(());
        };
        match unlinkat(group, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    })
}
