//! The processes of a group, and signals to all of them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use corten_sys::process::send_signal;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;
use crate::below::{Step, walk};
use crate::dir::read_file;
use crate::freeze::Freezer;
use crate::group::Cgroup;

const SIGKILL: i32 = 9;
/// How often a group that cannot be frozen is searched for processes, and the pause between.
const PASSES: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);

impl Cgroup {
    /// The processes of the group and of all groups below it, ascending.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = BTreeSet::new();
        // Every process of ours is in every hierarchy; one answers for all.
        if let Some(dir) = self.unified().or(self.dirs.first()) {
            collect(&dir.fd, &mut pids).map_err(|source| Error::Read {
                file: "cgroup.procs".into(),
                group: self.path.clone(),
                source,
            })?;
        }
        Ok(pids.into_iter().collect())
    }

    /// Sends a signal to every process of the group and below, leaving none out: not
    /// those that are forked meanwhile. An empty group is no error.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        if !(1..=corten_sys::signal::LAST).contains(&signal) {
            return Err(Error::Invalid {
                setting: "signal".into(),
                value: signal.to_string(),
                reason: "no such signal",
            });
        }
        if signal == SIGKILL
            && let Some(dir) = self.unified()
        {
            match dir.write(&self.path, "cgroup.kill", "1") {
                Err(Error::Write {
                    source: Errno::NOENT,
                    ..
                }) => {} // before Linux 5.14
                answer => return answer,
            }
        }
        if signal == SIGKILL && self.freezer().is_err() {
            return self.kill_to_the_last();
        }
        // Frozen, nobody forks: one pass finds all. v1's frozen tasks die when thawed.
        let was_frozen = self.is_frozen()?;
        if !was_frozen {
            match self.freezer()? {
                Freezer::V2(_) => self.freeze()?,
                Freezer::V1(dir) => drop(self.freeze_v1(dir)?),
            }
        }
        let sent = self.signal_each(signal);
        let thawed = match was_frozen && signal != SIGKILL {
            true => Ok(()),
            false => self.thaw(),
        };
        sent.and(thawed)
    }

    /// Without a freezer: a group that was made in part, by a runtime that was killed meanwhile, and whose processes
    /// need not be in each of its hierarchies. Passes are made until one finds nobody, or only who dies already.
    fn kill_to_the_last(&self) -> Result<(), Error> {
        for _ in 0..PASSES {
            let mut pids = BTreeSet::new();
            for dir in &self.dirs {
                collect(&dir.fd, &mut pids).map_err(|source| Error::Read {
                    file: "cgroup.procs".into(),
                    group: self.path.clone(),
                    source,
                })?;
            }
            if pids.is_empty() {
                return Ok(());
            }
            self.signal_all(pids, SIGKILL)?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn signal_each(&self, signal: i32) -> Result<(), Error> {
        self.signal_all(self.pids()?, signal)
    }

    fn signal_all(&self, pids: impl IntoIterator<Item = i32>, signal: i32) -> Result<(), Error> {
        for pid in pids {
            let Some(target) = Pid::from_raw(pid) else {
                continue; // 0: a process outside of our pid namespace
            };
            let sent =
                pidfd_open(target, PidfdFlags::empty()).and_then(|fd| send_signal(fd, signal));
            match sent {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(source) => {
                    return Err(Error::Signal {
                        signal,
                        pid,
                        group: self.path.clone(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

fn collect(group: &OwnedFd, pids: &mut BTreeSet<i32>) -> Result<(), Errno> {
    walk(group, |step| {
        let Step::Into(group) = step else {
            return Ok(());
        };
        match read_file(group.as_fd(), "cgroup.procs") {
            Ok(text) => pids.extend(text.lines().filter_map(|l| l.trim().parse::<i32>().ok())),
            // Removed meanwhile, or a threaded group, whose threads belong to processes above it.
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    })
}
