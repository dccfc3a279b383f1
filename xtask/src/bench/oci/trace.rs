//! Where a run's time goes, from the kernel's own trace: every system call of a command and its descendants, with
//! microseconds, by an instance of tracefs of our own. Unlike ptrace it stops nobody; it adds about 0.3 us a call.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::call;
use super::agent::Place;
use crate::failure::{Context, Result};

/// A tracing instance, gone with this value.
pub struct Tracer {
    instance: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub pid: u32,
    /// Microseconds of the monotonic clock.
    pub at: f64,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Enter(String),
    /// The call's name, and whether it succeeded.
    Leave(String, bool),
    End,
}

impl Tracer {
    /// Traces what `place` runs. `folder` is where the file system is mounted.
    pub fn new(folder: &Path, place: &Place) -> Result<Tracer> {
        fs::create_dir_all(folder).context(folder.display())?;
        call(
            "mount",
            &["-t", "tracefs", "bench", &super::bundle::text(folder)],
        )?;
        let instance = folder.join(format!("instances/corten-bench-{}", std::process::id()));
        fs::create_dir(&instance).context(instance.display())?;
        let tracer = Tracer { instance };
        tracer.set("tracing_on", "0")?;
        tracer.set("trace_clock", "mono")?;
        tracer.set("buffer_size_kb", "8192")?;
        // Children of the agent join by themselves.
        tracer.set("options/event-fork", "1")?;
        tracer.set("set_event_pid", &place.pid().to_string())?;
        tracer.set("events/syscalls/enable", "1")?;
        tracer.set("events/sched/sched_process_exit/enable", "1")?;
        Ok(tracer)
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = self.instance.join(name);
        fs::write(&path, value).context(path.display())
    }

    /// All that happened while `place` ran `argv`, in order.
    pub fn record(&self, place: &Place, argv: &[String]) -> Result<Vec<Event>> {
        self.set("trace", "")?;
        self.set("tracing_on", "1")?;
        let ran = place.run(argv);
        self.set("tracing_on", "0")?;
        ran?;
        let path = self.instance.join("trace");
        let text = fs::read(&path).context(path.display())?;
        Ok(parse(&String::from_utf8_lossy(&text)))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let quiet = self
            .set("events/enable", "0")
            .and_then(|()| fs::remove_dir(&self.instance).context(self.instance.display()));
        if let Err(why) = quiet {
            eprintln!("bench: {why}");
        }
    }
}

/// `NAME-PID [CPU] FLAGS SECONDS: sys_NAME(…)`, `sys_NAME -> RESULT`, or the end of a process.
fn parse(text: &str) -> Vec<Event> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(event).collect()
}

fn event(line: &str) -> Option<Event> {
    // The name may have anything in it; the brackets of the processor come after it.
    let (task, rest) = line.split_once(" [")?;
    let pid = task.trim_end().rsplit_once('-')?.1.parse().ok()?;
    let (before, what) = rest.split_once(": ")?;
    let seconds: f64 = before.split_whitespace().last()?.parse().ok()?;
    let what = if what.starts_with("sched_process_exit:") {
        What::End
    } else if let Some((name, result)) = what.strip_prefix("sys_")?.split_once(" -> ") {
        // A pointer-sized number; errors are the last page of them.
        What::Leave(name.to_owned(), !result.starts_with("0xfffffffffffff"))
    } else {
        let call = what.strip_prefix("sys_")?;
        What::Enter(call.split('(').next()?.to_owned())
    };
    Some(Event {
        pid,
        at: seconds * 1e6,
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_become_events() {
        let text = "# tracer: nop\n\
            a b-c-391   [000] ..... 11965.036660: sys_execve(filename: 0x55, argv: 0x1, envp: 0x2)\n\
            a b-c-391   [000] .N... 11965.037001: sys_execve -> 0x0\n\
            true-392    [001] ..... 11965.037002: sys_openat -> 0xfffffffffffffffe\n\
            true-392    [001] ..... 11965.042936: sched_process_exit: comm=true pid=392 prio=120 group_dead=true\n";
        let events = parse(text);
        assert_eq!(events.len(), 4);
        assert_eq!(events[0].pid, 391);
        assert_eq!(events[0].what, What::Enter("execve".to_owned()));
        assert!((events[1].at - events[0].at - 341.0).abs() < 0.5);
        assert_eq!(events[2].what, What::Leave("openat".to_owned(), false));
        assert_eq!(events[3].what, What::End);
    }
}
