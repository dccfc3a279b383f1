//! Telling exits: when the output of an exited process has arrived everywhere, or will not.

use std::time::Instant;

use prost::Message;

use super::restart::Restart;
use super::task::{COMPANY, Exit, PATIENCE, Phase, Process, Task};
use super::{Number, Shim, say};
use crate::ExitRecord;
use crate::proto::events::TaskExit;
use crate::proto::task::WaitResponse;
use crate::time::timestamp;

impl Shim {
    /// Tells every exit that is due.
    pub(super) fn settle(&mut self) {
        let serials: Vec<u32> = self.tasks.keys().copied().collect();
        for serial in serials {
            self.recount(serial);
            for number in self.due(serial) {
                self.tell(serial, number);
            }
            self.run_exit_command(serial);
            self.advance_health(serial);
            self.advance_foreign(serial);
            if let Some(task) = self.tasks.get_mut(&serial) {
                task.processes_mut().for_each(|p| p.io.linger());
                if let Some(watch) = &mut task.watch {
                    watch.advance();
                }
                task.forwards
                    .iter_mut()
                    .for_each(super::forward::Forward::expire);
            }
        }
        self.advance_restarts();
    }

    /// The processes of a task whose exit can be told now, execs before init.
    fn due(&mut self, serial: u32) -> Vec<Number> {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Vec::new();
        };
        let now = Instant::now();
        let (mut due, mut drains) = (Vec::new(), Vec::new());
        for process in task
            .processes_mut()
            .filter(|p| matches!(p.phase, Phase::Draining { .. }))
        {
            let drain = process.drain(&mut self.scratch);
            if process.settle_at(drain).is_some_and(|at| at <= now) {
                due.push(process.number);
            } else {
                drains.push((process.number, drain));
            }
        }
        due.sort_by_key(|n| *n == 0);
        // What ended init ended its execs too; containerd expects to hear of them first.
        let company = task.execs.iter().any(|e| {
            !due.contains(&e.number) && (e.is_alive() || matches!(e.phase, Phase::Draining { .. }))
        });
        if let Phase::Draining { since, .. } = &task.init.phase
            && company
            && since.elapsed() < COMPANY
        {
            due.retain(|n| *n != 0);
        }
        task.drains = drains;
        due
    }

    /// Looks once more for an OOM kill that was not counted when we were woken for it.
    fn recount(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        if task.oom_again.is_some_and(|at| at <= Instant::now()) {
            // Once: a process may also have found memory after all.
            task.oom_again = None;
            self.count_oom_kills(serial);
        }
    }

    pub(super) fn tell(&mut self, serial: u32, number: Number) {
        // What it died of comes before its death.
        self.count_oom_kills(serial);
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let id = task.id.as_str().to_string();
        let Some(process) = task.process(number) else {
            return;
        };
        let Phase::Draining { exit, .. } = process.phase else {
            return;
        };
        process.phase = Phase::Exited(exit);
        if number == 0 {
            record(task, exit, self.restarts.get_mut(&id));
        }
        let restarting = number == 0 && task.restarting;
        let Some(process) = task.process(number) else {
            return;
        };
        let event = TaskExit {
            container_id: id.clone(),
            id: match number {
                0 => id.clone(),
                _ => process.exec_id.clone(),
            },
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)),
        };
        self.publisher.publish("/tasks/exit", "TaskExit", &event);
        process.io.finish();
        if let Some(error) = process.io.log_failure.take() {
            say(format_args!(
                "the log of {} is not whole: {error}",
                event.id
            ));
        }
        if let Some(errno) = process.io.sink_failure.take() {
            say(format_args!(
                "output of {} did not reach all of its readers: {errno}",
                event.id
            ));
        }
        let waiters = std::mem::take(&mut process.waiters);
        let deleters = std::mem::take(&mut process.deleters);
        let exec_id = process.exec_id.clone();
        if number == 0 {
            self.forget_check(serial);
        }
        for waiter in waiters {
            self.respond(waiter, Ok(waited(&exit)));
        }
        if number == 0 && !restarting {
            self.tell_last(&id);
        }
        for deleter in deleters {
            if let Some(answer) = self.delete_for(deleter, serial, &exec_id) {
                self.respond(deleter, answer);
            }
        }
    }

    /// Runs the engine's command for an exited container: at once if nobody is there to care
    /// for it, or after a while if who is there does not.
    fn run_exit_command(&mut self, serial: u32) {
        let alone = !self.is_visited();
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let due = task
            .told
            .is_some_and(|told| alone || told.elapsed() >= PATIENCE);
        if !due || task.restarting || task.exit_command.is_empty() {
            return;
        }
        run_command(&std::mem::take(&mut task.exit_command));
    }
}

/// Runs an exit command, if there is one.
pub(super) fn run_command(command: &[String]) {
    if let [name, ..] = command
        && let Err(error) = super::program::start(command)
    {
        say(format_args!("cannot run the exit command {name}: {error}"));
    }
}

fn record(task: &mut Task, exit: Exit, restart: Option<&mut Restart>) {
    task.told = Some(Instant::now());
    task.watch = None;
    let oom = task.oom_kills > 0;
    let restarting = restart.and_then(|r| r.exited(exit, oom));
    task.restarting = restarting.is_some();
    if let Some(path) = &task.exit_record {
        let record = ExitRecord {
            restarting,
            ..ExitRecord::new(exit.pid, exit.status, exit.at, oom)
        };
        if let Err(error) = record.write(path) {
            say(format_args!("cannot write {}: {error}", path.display()));
        }
    }
}

/// The answer to Wait.
pub(super) fn waited(exit: &Exit) -> Vec<u8> {
    WaitResponse {
        exit_status: exit.status,
        exited_at: Some(timestamp(exit.at)),
    }
    .encode_to_vec()
}

impl Process {
    /// The exit, if it was told.
    pub(super) fn exit(&self) -> Option<Exit> {
        match &self.phase {
            Phase::Exited(exit) => Some(*exit),
            _ => None,
        }
    }
}
