//! A guest's console: its lines are shown as they come, its last word is the result, and its time is bounded.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::failure::{Context, Result, failure};

/// What the runner says to us begins with this.
const MARK: &str = "corten-guest:";
/// Set in xtask's environment, the boot is shown as well.
const VERBOSE: &str = "CORTEN_GUEST_VERBOSE";
/// Lines of a boot that are kept for the case that it fails.
const KEPT: usize = 40;

/// How a guest's tests ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    pub failed: Vec<String>,
    /// Name and reason.
    pub skipped: Vec<String>,
}

impl Outcome {
    pub fn add(&mut self, other: Outcome) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    pub fn print(&self, guest: &str) {
        let mut skipped: Vec<&String> = self.skipped.iter().collect();
        skipped.sort();
        for line in skipped {
            println!("guest {guest}: skipped {line}");
        }
        for name in &self.failed {
            println!("guest {guest}: FAILED {name}");
        }
        println!(
            "guest {guest}: {} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        );
    }

    /// Why this is no success. A run in which nothing ran is none either.
    pub fn failure(&self) -> Option<String> {
        if !self.failed.is_empty() {
            return Some(format!("{} tests failed", self.failed.len()));
        }
        (self.passed + self.skipped.len() == 0).then(|| "no test was run".to_owned())
    }

    fn json(&self) -> Value {
        json!({"passed": self.passed, "failed": self.failed, "skipped": self.skipped})
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let names = |key: &str| {
            let list = value[key].as_array()?.iter();
            list.map(|name| Some(name.as_str()?.to_owned()))
                .collect::<Option<Vec<String>>>()
        };
        Some(Self {
            passed: value["passed"].as_u64()? as usize,
            failed: names("failed")?,
            skipped: names("skipped")?,
        })
    }
}

/// The runner's words to whom watches the console.
pub fn say_begin() {
    println!("{MARK} begin");
}

pub fn say_end(outcome: &Outcome) {
    println!("{MARK} end {}", outcome.json());
}

pub fn say_broken(reason: impl std::fmt::Display) {
    println!("{MARK} broken {reason}");
}

/// Runs a guest to its end, or to `limit`.
pub fn follow(label: &str, command: &mut Command, limit: Duration) -> Result<Outcome> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context(format!("cannot start {program}"))?;
    let lines = lines_of(&mut child)?;
    let result = listen(label, &lines, Instant::now() + limit);
    // It powers itself off after the last word; one that did not say it will not go by itself.
    if result.is_err() || !ends_soon(&mut child) {
        stop(&mut child);
    }
    child.wait().context(format!("cannot wait for {program}"))?;
    result
}

/// Whether the guest's kernel and systemd should speak, and be heard.
pub fn verbose() -> bool {
    std::env::var_os(VERBOSE).is_some()
}

fn lines_of(child: &mut Child) -> Result<Receiver<String>> {
    let output = child.stdout.take();
    let output = output.ok_or_else(|| failure("the guest has no console"))?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    Ok(lines)
}

fn listen(label: &str, lines: &Receiver<String>, end: Instant) -> Result<Outcome> {
    let mut begun = verbose();
    let mut kept = VecDeque::new();
    let why = loop {
        let left = end.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => break "did not end in time".to_owned(),
            Err(RecvTimeoutError::Disconnected) => break "ended without a result".to_owned(),
        };
        // A firmware's escape sequences may precede the first word.
        if let Some((_, word)) = line.split_once(MARK) {
            let word = word.trim();
            if let Some(outcome) = word.strip_prefix("end ").and_then(Outcome::parse) {
                return Ok(outcome);
            }
            if let Some(reason) = word.strip_prefix("broken ") {
                break format!("could not run the tests: {reason}");
            }
            begun |= word == "begin";
            continue;
        }
        if begun {
            println!("{label} | {line}");
        }
        kept.push_back(line);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    };
    for line in kept {
        eprintln!("{label} | {line}");
    }
    Err(failure(format!("the guest {label} {why}")))
}

fn ends_soon(child: &mut Child) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// First by request: User Mode Linux is many processes, and takes the others with it.
fn stop(child: &mut Child) {
    for signal in [Signal::TERM, Signal::KILL] {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            eprintln!("the guest cannot be stopped: {error}");
        }
        if ends_soon(child) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Result<Outcome> {
        let (sender, receiver) = mpsc::channel();
        for line in lines {
            sender.send(line.to_string()).unwrap();
        }
        drop(sender);
        listen("test", &receiver, Instant::now() + Duration::from_secs(5))
    }

    #[test]
    fn the_last_word_is_the_result() {
        let said = Outcome {
            passed: 2,
            failed: vec!["a::b".into()],
            skipped: vec!["c: no d".into()],
        };
        let end = format!("{MARK} end {}", said.json());
        assert_eq!(
            heard(&["boot", "x corten-guest: begin", &end]).unwrap(),
            said
        );
        assert_eq!(said.failure().unwrap(), "1 tests failed");
        assert_eq!(Outcome::default().failure().unwrap(), "no test was run");
    }

    #[test]
    fn a_guest_without_a_last_word_is_no_success() {
        let error = heard(&["corten-guest: begin", "Kernel panic"]).unwrap_err();
        assert!(error.to_string().contains("without a result"), "{error}");
        let error = heard(&["corten-guest: broken no overlay"]).unwrap_err();
        assert!(error.to_string().contains("no overlay"), "{error}");
    }
}
