//! Hearing of out-of-memory kills.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::Error;
use crate::dir::read_file;
use crate::group::Cgroup;
use crate::remove::field;

/// A watch on a group's memory. Poll it for [`interest`](Self::interest); after a
/// wake-up call [`kills`](Self::kills), which also arms it again.
#[derive(Debug)]
pub struct OomWatch {
    group: String,
    /// v1: an eventfd that `cgroup.event_control` signals. v2: `memory.events` itself.
    signal: OwnedFd,
    /// v1 only: the folder, for the counter.
    folder: Option<OwnedFd>,
}

impl Cgroup {
    /// Watches for OOM kills. `None`: this host has no memory controller.
    pub fn oom_events(&self) -> Result<Option<OomWatch>, Error> {
        let Some(dir) = self.holder("memory")? else {
            return Ok(None);
        };
        let fail = |file: &'static str| {
            move |source| Error::Read {
                file: file.into(),
                group: self.path.clone(),
                source,
            }
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        if dir.v2 {
            let signal = openat(&dir.fd, "memory.events", flags, Mode::empty())
                .map_err(fail("memory.events"))?;
            let watch = OomWatch {
                group: self.path.clone(),
                signal,
                folder: None,
            };
            watch.kills()?; // arms it
            return Ok(Some(watch));
        }
        let control = openat(&dir.fd, "memory.oom_control", flags, Mode::empty())
            .map_err(fail("memory.oom_control"))?;
        let signal =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(fail("eventfd"))?;
        // cgroup-v1/memory.rst: "<event_fd> <fd of memory.oom_control>"; the second can be closed after.
        let line = format!("{} {}", raw(&signal), raw(&control));
        dir.write(&self.path, "cgroup.event_control", &line)?;
        let folder = crate::dir::open_child(dir.fd.as_fd(), ".").map_err(fail("."))?;
        Ok(Some(OomWatch {
            group: self.path.clone(),
            signal,
            folder: Some(folder),
        }))
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

impl OomWatch {
    /// What to poll the descriptor for: an eventfd is readable, `memory.events` has an exceptional condition.
    pub fn interest(&self) -> PollFlags {
        match self.folder {
            Some(_) => PollFlags::IN,
            None => PollFlags::PRI,
        }
    }

    /// How many processes of the group the OOM killer has killed so far. On v1 of
    /// this very group only, on v2 of the groups below too. A group that is gone has none to add: 0.
    pub fn kills(&self) -> Result<u64, Error> {
        let (file, text) = match &self.folder {
            Some(folder) => {
                let mut count = [0u8; 8];
                // EAGAIN: asked without a wake-up.
                let _: Result<usize, Errno> = rustix::io::read(&self.signal, &mut count);
                (
                    "memory.oom_control",
                    read_file(folder.as_fd(), "memory.oom_control"),
                )
            }
            None => {
                let mut text = [0u8; 512];
                let read = rustix::io::pread(&self.signal, &mut text, 0);
                let text = read.map(|n| String::from_utf8_lossy(&text[..n]).into_owned());
                ("memory.events", text)
            }
        };
        match text {
            // Linux 4.13 brought the counter to both versions.
            Ok(text) => Ok(field(&text, "oom_kill")
                .and_then(|n| n.parse().ok())
                .unwrap_or(0)),
            Err(Errno::NODEV | Errno::NOENT) => Ok(0),
            Err(source) => Err(Error::Read {
                file: file.into(),
                group: self.group.clone(),
                source,
            }),
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}
