//! Children that have ended.

use std::time::{Instant, SystemTime};

use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use super::task::{Exit, Phase};
use super::{Shim, say};

/// How many are reaped before others have their turn: a container that forks without end can
/// hand its orphans to us as fast as they are reaped.
const ROUND: usize = 128;

/// When a kill that we were woken for is counted.
const COUNTED: std::time::Duration = std::time::Duration::from_millis(50);

impl Shim {
    /// Empties the signalfd and reaps. Signals to this process do nothing more: a shim
    /// is ended by Shutdown, and what it supervises must outlive its terminal and its engine.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(received)) = self.signals.next() {
            if received.signal == SIGTERM {
                say(format_args!(
                    "ignoring signal {SIGTERM} of process {}",
                    received.pid
                ));
            }
        }
        self.reap_again = false;
        for _ in 0..ROUND {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = status
                        .exit_status()
                        .or(status.terminating_signal().map(|s| 128 + s));
                    // Neither: stopped or continued, which was not asked for.
                    if let Some(code) = code {
                        self.exited(pid.as_raw_nonzero().get() as u32, code as u32);
                    }
                }
                Ok(None) | Err(Errno::CHILD) => return,
                Err(Errno::INTR) => {}
                Err(errno) => return say(format_args!("cannot reap: {errno}")),
            }
        }
        self.reap_again = true;
    }

    /// An orphan, a logger or an exit command belongs to nobody, and needs no more than to be reaped.
    fn exited(&mut self, pid: u32, status: u32) {
        self.logger_ended(pid, status);
        if self.restart_ended(pid, status)
            || self.check_ended(pid, status)
            || self.sandbox_exited(pid, status)
            || self.foreign_child(pid, status)
        {
            return;
        }
        for task in self.tasks.values_mut() {
            let id = task.id.clone();
            let is_init = task.init.is_alive() && task.init.pid() == pid;
            let Some(process) = task
                .processes_mut()
                .find(|p| p.is_alive() && p.pid() == pid)
            else {
                continue;
            };
            let exit = Exit {
                pid,
                status,
                at: SystemTime::now(),
            };
            process.phase = Phase::Draining {
                exit,
                since: Instant::now(),
            };
            if is_init && task.kill_all {
                let killed = corten_runtime::cgroup(&task.state_root, &id)
                    .map_err(|e| e.to_string())
                    .and_then(|group| group.kill(9).map_err(|e| e.to_string()));
                if let Err(error) = killed {
                    say(format_args!("cannot end what init of {id} left: {error}"));
                }
            }
            return;
        }
    }

    /// The kernel killed a process of the task for its memory, or is about to: v1 wakes us before it counts.
    pub(super) fn oom(&mut self, serial: u32) {
        let counted = self.count_oom_kills(serial);
        if let Some(task) = self.tasks.get_mut(&serial) {
            let again = !counted && task.oom.is_some();
            task.oom_again = again.then(|| Instant::now() + COUNTED);
        }
    }

    /// Tells each kill once. Whether there was a new one.
    pub(super) fn count_oom_kills(&mut self, serial: u32) -> bool {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return false;
        };
        let Some(watch) = &task.oom else { return false };
        match watch.kills() {
            Ok(kills) => {
                let new = kills.saturating_sub(task.oom_kills);
                task.oom_kills += new;
                // The descriptor also wakes when a group is removed.
                if task.told.is_some() {
                    task.oom = None;
                }
                let event = crate::proto::events::TaskNamed {
                    container_id: task.id.as_str().into(),
                };
                for _ in 0..new {
                    self.publisher.publish("/tasks/oom", "TaskOOM", &event);
                }
                new > 0
            }
            Err(error) => {
                say(format_args!("no more OOM events of {}: {error}", task.id));
                task.oom = None;
                false
            }
        }
    }
}

const SIGTERM: i32 = 15;
