//! What comes of a pulled image: the first instruction of an absent one, a second container's share of the page cache, removal.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::super::report::{Series, skipped};
use super::subject::{Kind, Ready, Subject};
use super::{Rig, print};
use crate::failure::{Context, Result, failure};

const KINDS: [Kind; 4] = [Kind::Corten, Kind::Folders, Kind::Podman, Kind::Docker];
/// Reads some hundreds of megabytes of the image.
const READ: &str = "cat $(find /usr/local/lib/python3.11 -name '*.so*' -type f) | wc -c";

#[derive(Default)]
struct Measured {
    first: Series,
    cache: Series,
    read: Series,
    removal: Series,
}

pub fn measure(rig: &Rig, left_out: &[&str]) {
    let mut measured = Measured::default();
    for subject in KINDS.map(Subject::named) {
        if left_out.contains(&subject.name) {
            continue;
        }
        let outcome = subject.ready(rig, "after").and_then(|ready| {
            let outcome = one(rig, &subject, &ready, &mut measured);
            ready.close();
            outcome
        });
        if let Err(why) = outcome {
            skipped(subject.name, why);
        }
    }
    print(
        &measured.first,
        "run of an absent image, until its first instruction",
        "s",
    );
    print(
        &measured.read,
        "reading its libraries: a first container, cold, and a second beside it",
        "s",
    );
    print(
        &measured.cache,
        "page cache that this took: the first container, and the second",
        "MB",
    );
    print(&measured.removal, "removal of the image", "s");
}

fn one(rig: &Rig, subject: &Subject, ready: &Ready, into: &mut Measured) -> Result<()> {
    rig.settle()?;
    let start = now()?;
    let said = output(subject, ready, "date +%s%N")?;
    let at: f64 = said.trim().parse().context("date")?;
    into.first.add(subject.name, at / 1e9 - start);
    rig.settle()?;
    // The first one stays while the second reads.
    let argv = subject
        .run(ready, &format!("{READ}; echo read; read x"))
        .ok_or_else(|| failure("no run"))?;
    let mut argv = argv;
    argv.insert(ready.program.len() + 1, "--interactive".to_owned());
    let before = cached()?;
    let since = Instant::now();
    let mut first = First(
        Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(&argv[0])?,
    );
    let stdout = first.0.stdout.take().ok_or_else(|| failure("no pipe"))?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    let done = lines.any(|line| line.is_ok_and(|l| l == "read"));
    let between = cached()?;
    let names = ["first", "second"].map(|n| format!("{}: {n}", subject.name));
    into.read.add(&names[0], since.elapsed().as_secs_f64());
    into.cache.add(&names[0], between - before);
    if !done {
        return Err(failure("the first container ended early"));
    }
    let since = Instant::now();
    output(subject, ready, READ)?;
    into.read.add(&names[1], since.elapsed().as_secs_f64());
    into.cache.add(&names[1], cached()? - between);
    drop(first);
    let argv = subject.remove(ready).ok_or_else(|| failure("no removal"))?;
    let since = Instant::now();
    run(&argv)?;
    into.removal
        .add(subject.name, since.elapsed().as_secs_f64());
    Ok(())
}

/// The container that reads first. Its `read` ends with its input, and it with that.
struct First(Child);

impl Drop for First {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if let Err(why) = self.0.wait() {
            eprintln!("bench: cannot wait for a container: {why}");
        }
    }
}

fn output(subject: &Subject, ready: &Ready, script: &str) -> Result<String> {
    let argv = subject
        .run(ready, script)
        .ok_or_else(|| failure("no run"))?;
    run(&argv)
}

fn run(argv: &[String]) -> Result<String> {
    let out = Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .output()
        .context(&argv[0])?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(failure(format!(
            "`{}`: {}",
            argv.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        ))),
    }
}

fn now() -> Result<f64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since.context("the clock")?.as_secs_f64())
}

/// MB of file pages in memory.
fn cached() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("Cached:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    let kib: f64 = kib.unwrap_or_default().parse().context("Cached")?;
    Ok(kib * 1024.0 / 1e6)
}
