//! Stopping and resuming every process of a group at once.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::Error;
use crate::dir::Dir;
use crate::group::Cgroup;
use crate::remove::{Events, pause};

/// A process in an uninterruptible sleep (a dead NFS server) cannot be frozen.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Freezes the group and waits until it is frozen; one that will not freeze is thawed again.
    pub fn freeze(&self) -> Result<(), Error> {
        let done = match self.freezer()? {
            Freezer::V2(dir) => {
                dir.write(&self.path, "cgroup.freeze", "1")?;
                Events::open(dir, &self.path)?.wait("frozen", "1", PATIENCE)?
            }
            Freezer::V1(dir) => self.freeze_v1(dir)?,
        };
        if done {
            return Ok(());
        }
        self.thaw()?;
        Err(Error::Timeout {
            group: self.path.clone(),
            wanted: "frozen",
            millis: PATIENCE.as_millis() as u64,
            pids: self.pids()?.len(),
        })
    }

    /// Lets the group run again. No wait: from here on the kernel needs nobody's help.
    pub fn thaw(&self) -> Result<(), Error> {
        match self.freezer()? {
            Freezer::V2(dir) => dir.write(&self.path, "cgroup.freeze", "0"),
            Freezer::V1(dir) => dir.write(&self.path, "freezer.state", "THAWED"),
        }
    }

    /// Whether this group is frozen, or was asked to be.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        Ok(match self.freezer()? {
            Freezer::V2(dir) => dir.read(&self.path, "cgroup.freeze")?.trim() == "1",
            Freezer::V1(dir) => dir.read(&self.path, "freezer.state")?.trim() != "THAWED",
        })
    }

    /// v2's freezer wherever there is one, on a hybrid host too: a process frozen
    /// by it can still be killed, one frozen by v1's cannot.
    pub(crate) fn freezer(&self) -> Result<Freezer<'_>, Error> {
        if let Some(dir) = self.unified()
            && (self.is_pure_v2() || dir.read_if(&self.path, "cgroup.freeze")?.is_some())
        {
            return Ok(Freezer::V2(dir));
        }
        match self.dirs.iter().find(|d| d.has("freezer")) {
            Some(dir) => Ok(Freezer::V1(dir)),
            None => Err(Error::Unsupported {
                setting: "freezing".into(),
                reason: "this host has no freezer",
            }),
        }
    }

    /// v1 tells nobody when it is done, and a task forked while it was freezing
    /// leaves it at FREEZING until the state is written again.
    pub(crate) fn freeze_v1(&self, dir: &Dir) -> Result<bool, Error> {
        let end = Instant::now() + PATIENCE;
        let mut step = Duration::from_micros(50);
        loop {
            dir.write(&self.path, "freezer.state", "FROZEN")?;
            if dir.read(&self.path, "freezer.state")?.trim() == "FROZEN" {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            pause(&[], PollFlags::empty(), step, &self.path)?;
            step = (step * 2).min(Duration::from_millis(20));
        }
    }
}

pub(crate) enum Freezer<'a> {
    V1(&'a Dir),
    V2(&'a Dir),
}
