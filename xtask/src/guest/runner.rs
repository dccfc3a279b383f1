//! Runs tests inside a guest: each in a process of its own, so that one that hangs or crashes takes none
//! with it, and says at the end what passed, failed, and was not done for which reason.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::console::{self, Outcome};
use super::job::{Binary, Job};
use crate::failure::{Context, Result, failure};

/// A test that takes longer is mentioned.
const SLOW: Duration = Duration::from_secs(10);
/// End to end: these compare the machine before and after, so nothing else may run meanwhile.
const ALONE: &str = "corten::";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct Test<'a> {
    binary: &'a Binary,
    name: String,
}

enum End {
    Passed,
    Failed(String),
    /// With the reasons that it gave.
    Skipped(Vec<String>),
}

pub fn main(job: &Path) -> Result<()> {
    let job = Job::read(job)?;
    console::say_begin();
    if job.shard == 0 {
        println!("{}", place());
    }
    let tests = select(&job)?;
    let queue = Mutex::new(VecDeque::from(tests));
    let outcome = Mutex::new(Outcome::default());
    let machine = RwLock::new(());
    std::thread::scope(|scope| {
        for worker in 0..job.threads.max(1) {
            let (job, queue, outcome, machine) = (&job, &queue, &outcome, &machine);
            scope.spawn(move || work(worker, job, queue, outcome, machine));
        }
    });
    let outcome = outcome
        .into_inner()
        .map_err(|_| failure("a worker panicked"))?;
    console::say_end(&outcome);
    Ok(())
}

/// Which kernel this is, and what it offers, for whoever reads the log.
fn place() -> String {
    let name = rustix::system::uname();
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    format!(
        "Linux {}, controllers: {}",
        name.release().to_string_lossy(),
        controllers.unwrap_or_default().trim()
    )
}

/// The tests that are this guest's part.
fn select(job: &Job) -> Result<Vec<Test<'_>>> {
    let mut all = Vec::new();
    for binary in &job.binaries {
        let out = Command::new(&binary.path)
            .args(["--list", "--format", "terse"])
            .output()
            .context(binary.path.display())?;
        if !out.status.success() {
            return Err(failure(format!("{} does not list its tests", binary.name)));
        }
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        let part = names.filter(|name| binary.only.split(' ').any(|part| name.contains(part)));
        let wanted = part.filter(|name| wanted(name, &job.filters));
        all.extend(wanted.map(|name| Test {
            binary,
            name: name.to_owned(),
        }));
    }
    let mine = all.into_iter().skip(job.shard).step_by(job.of.max(1));
    Ok(mine.collect())
}

fn wanted(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|part| name.contains(part))
}

fn work(
    worker: usize,
    job: &Job,
    queue: &Mutex<VecDeque<Test<'_>>>,
    outcome: &Mutex<Outcome>,
    machine: &RwLock<()>,
) {
    loop {
        let Some(test) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) else {
            return;
        };
        let label = format!("{} {}", test.binary.name, test.name);
        let alone = test.binary.name.starts_with(ALONE);
        // Nothing is in it that a panic could have spoilt.
        let _whole = alone.then(|| machine.write().unwrap_or_else(PoisonError::into_inner));
        let _part = (!alone).then(|| machine.read().unwrap_or_else(PoisonError::into_inner));
        let since = Instant::now();
        let end = run(worker, job, &test).unwrap_or_else(|error| End::Failed(error.to_string()));
        let took = since.elapsed();
        let Ok(mut outcome) = outcome.lock() else {
            return;
        };
        if took > SLOW || !job.filters.is_empty() {
            println!("{:>6.1} s  {label}", took.as_secs_f64());
        }
        match end {
            End::Passed => outcome.passed += 1,
            End::Skipped(reasons) => outcome.skipped.extend(
                reasons
                    .iter()
                    .map(|why| format!("{}: {why}", test.binary.name)),
            ),
            End::Failed(output) => {
                println!("FAILED {label}\n{}", output.trim_end());
                outcome.failed.push(label);
            }
        }
    }
}

fn run(worker: usize, job: &Job, test: &Test<'_>) -> Result<End> {
    let notes = PathBuf::from(format!("/run/corten-skipped-{worker}"));
    let log = PathBuf::from(format!("/run/corten-output-{worker}"));
    let _ = fs::remove_file(&notes); // it is there only if the test before had a reason
    // A file, not a pipe: what a test left running holds it open, and must not hold us up.
    let output = fs::File::create(&log).context(log.display())?;
    let errors = output.try_clone().context(log.display())?;
    let mut child = Command::new(&test.binary.path)
        .args(["--exact", &test.name, "--nocapture"])
        .current_dir(&test.binary.folder)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("TMPDIR", "/tmp")])
        .env("CORTEN_SKIPPED", &notes)
        .envs(&job.environment)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context(test.binary.path.display())?;
    let end = Instant::now() + job.limit;
    // Ends are looked for rather than waited for: process 1 or systemd may reap in any order.
    let mut step = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for a test")? {
            break Some(status);
        }
        if Instant::now() > end {
            stop(child.id());
            child.wait().context("cannot wait for a test")?;
            break None;
        }
        std::thread::sleep(step);
        step = (step * 2).min(Duration::from_millis(20));
    };
    let output = fs::read(&log).context(log.display())?;
    let output = String::from_utf8_lossy(&output).into_owned();
    Ok(match status {
        None => End::Failed(format!("{output}\nstopped after {} s", job.limit.as_secs())),
        Some(status) if !status.success() => End::Failed(format!("{output}\n{status}")),
        Some(_) => passed(&test.name, &output, fs::read_to_string(&notes).ok()),
    })
}

/// The binary's success may still be that of a test that it does not know, or that was not done.
fn passed(name: &str, output: &str, notes: Option<String>) -> End {
    if let Some(notes) = notes {
        return End::Skipped(notes.lines().map(str::to_owned).collect());
    }
    let said: Vec<String> = output
        .lines()
        .filter_map(|line| line.strip_prefix("skipped: "))
        .map(|why| format!("{name}: {why}"))
        .collect();
    if !said.is_empty() {
        return End::Skipped(said);
    }
    if output.contains("1 ignored") {
        return End::Skipped(vec![format!("{name}: marked as ignored")]);
    }
    match output.contains("1 passed") {
        true => End::Passed,
        false => End::Failed(output.to_owned()),
    }
}

fn stop(id: u32) {
    let group = i32::try_from(id).ok().and_then(Pid::from_raw);
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        println!("a test that takes too long cannot be killed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_name_selects_it() {
        let filters = ["limits".to_owned(), "systemd_".to_owned()];
        assert!(wanted("host::limits_are_read", &filters));
        assert!(wanted("systemd_starts", &filters));
        assert!(!wanted("host::kill", &filters));
        assert!(wanted("host::kill", &[]));
    }

    #[test]
    fn a_test_that_did_not_run_has_not_passed() {
        let done = |output, notes| passed("a", output, notes);
        assert!(matches!(
            done("test result: ok. 1 passed;", None),
            End::Passed
        ));
        assert!(matches!(
            done("test result: ok. 0 passed;", None),
            End::Failed(_)
        ));
        let why = done("1 passed", Some("a: no cpuset\n".into()));
        assert!(matches!(why, End::Skipped(reasons) if reasons == ["a: no cpuset"]));
        assert!(matches!(done("0 passed; 1 ignored", None), End::Skipped(_)));
        let why = done("skipped: no bus\n1 passed", None);
        assert!(matches!(why, End::Skipped(reasons) if reasons == ["a: no bus"]));
    }
}
