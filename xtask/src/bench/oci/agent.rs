//! The place where runtimes are measured: this executable, inside a mount namespace whose control groups are v2
//! alone, v1 alone, or the host's.
//!
//! It takes a request as one JSON line and answers with one. Output of what it runs goes to a file and not to a pipe: a
//! container that stays would keep a pipe open.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Context, Result, failure};

/// How long a container of [`Place::high_water`] gets to come up.
const SETTLE: Duration = Duration::from_millis(150);

/// The near end.
pub struct Place {
    agent: RefCell<Agent>,
}

struct Agent {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Place {
    /// A mount namespace that `prepare`, a line of shell, changes first. `fifo` puts it and all that it starts before
    /// every ordinary process of the machine (SCHED_FIFO).
    pub fn new(prepare: &str, output: &Path, fifo: bool) -> Result<Place> {
        let own = std::env::current_exe().context("cannot find this executable")?;
        let before = if fifo { "chrt -f 10 " } else { "" };
        let script = format!("set -e; {prepare}; exec {before}\"$0\" bench-oci-agent \"$1\"");
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(own)
            .arg(output)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an agent")?;
        let (Some(ask), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failure("an agent started without its pipes"));
        };
        let place = Place {
            agent: RefCell::new(Agent {
                child,
                ask,
                answer: BufReader::new(answer),
            }),
        };
        place.run(&["true".to_owned()])?;
        Ok(place)
    }

    /// The process whose children are measured.
    pub fn pid(&self) -> u32 {
        self.agent.borrow().child.id()
    }

    fn ask(&self, request: &Value) -> Result<Value> {
        let mut agent = self.agent.borrow_mut();
        writeln!(agent.ask, "{request}").context("cannot ask an agent")?;
        let mut line = String::new();
        agent
            .answer
            .read_line(&mut line)
            .context("cannot hear an agent")?;
        let answer: Value = serde_json::from_str(&line).context("an agent ended")?;
        match answer["error"].as_str() {
            Some(why) => Err(failure(why)),
            None => Ok(answer),
        }
    }

    /// Runs a command to its end, in milliseconds. An exit code other than 0 is an error.
    pub fn run(&self, argv: &[String]) -> Result<f64> {
        let answer = self.ask(&json!({"run": argv}))?;
        answer["ms"].as_f64().ok_or_else(|| failure("no time"))
    }

    /// Runs `count` commands with a worker for each of `argvs`, in seconds.
    pub fn many(&self, argvs: &[Vec<String>], count: usize) -> Result<f64> {
        let answer = self.ask(&json!({"many": argvs, "count": count}))?;
        answer["s"].as_f64().ok_or_else(|| failure("no time"))
    }

    /// The peak resident set in KiB of the command's own process, after it has brought its container up.
    pub fn high_water(&self, argv: &[String]) -> Result<f64> {
        let answer = self.ask(&json!({"high_water": argv}))?;
        answer["kib"].as_f64().ok_or_else(|| failure("no size"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It ends at the end of its stdin too; killing is only quicker.
        let child = &mut self.agent.get_mut().child;
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The far end: a request a line until stdin ends.
pub fn serve(args: &[String]) -> Result<()> {
    let [output] = args else {
        return Err(failure("bench-oci-agent is started by bench"));
    };
    let output = PathBuf::from(output);
    for line in io::stdin().lock().lines() {
        let line = line.context("stdin")?;
        let request: Value = serde_json::from_str(&line).context("a request is no JSON")?;
        let answer = answer(&request, &output);
        let answer = answer.unwrap_or_else(|why| json!({"error": why.to_string()}));
        println!("{answer}");
    }
    Ok(())
}

fn answer(request: &Value, output: &Path) -> Result<Value> {
    if let Some(argv) = words(&request["run"]) {
        return Ok(json!({"ms": timed(&argv, output)?.as_secs_f64() * 1e3}));
    }
    if let Some(argv) = words(&request["high_water"]) {
        return Ok(json!({"kib": high_water(&argv, output)?}));
    }
    let argvs = request["many"].as_array().into_iter().flatten();
    let argvs: Vec<Vec<String>> = argvs.filter_map(words).collect();
    let count = request["count"]
        .as_u64()
        .and_then(|n| usize::try_from(n).ok());
    let count = count.ok_or_else(|| failure("a request without a count"))?;
    Ok(json!({"s": many(&argvs, count)?.as_secs_f64()}))
}

fn words(value: &Value) -> Option<Vec<String>> {
    let words = value.as_array()?.iter().filter_map(Value::as_str);
    Some(words.map(str::to_owned).collect())
}

fn command(argv: &[String], output: &Path) -> Result<Command> {
    let [program, args @ ..] = argv else {
        return Err(failure("an empty command"));
    };
    let errors = File::create(output).context(output.display())?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    Ok(command)
}

fn judge(argv: &[String], ended: std::process::ExitStatus, output: &Path) -> Result<()> {
    if ended.success() {
        return Ok(());
    }
    let said = fs::read_to_string(output).unwrap_or_default();
    let said = said.trim();
    Err(failure(format!(
        "`{}` ended with {ended}: {said}",
        argv.join(" ")
    )))
}

fn timed(argv: &[String], output: &Path) -> Result<Duration> {
    let mut command = command(argv, output)?;
    let since = Instant::now();
    let ended = command.status().context(&argv[0])?;
    let took = since.elapsed();
    judge(argv, ended, output)?;
    Ok(took)
}

fn many(argvs: &[Vec<String>], count: usize) -> Result<Duration> {
    let taken = AtomicUsize::new(0);
    let since = Instant::now();
    thread::scope(|scope| {
        let workers = argvs.iter().map(|argv| {
            let taken = &taken;
            scope.spawn(move || -> Result<()> {
                let null = Path::new("/dev/null");
                while taken.fetch_add(1, Ordering::Relaxed) < count {
                    let ended = command(argv, null)?.status().context(&argv[0])?;
                    judge(argv, ended, null)?;
                }
                Ok(())
            })
        });
        let workers: Vec<_> = workers.collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        let ended: Vec<_> = ended.collect();
        ended
            .into_iter()
            .try_for_each(|result| result.unwrap_or_else(|_| Err(failure("a worker panicked"))))
    })?;
    Ok(since.elapsed())
}

fn high_water(argv: &[String], output: &Path) -> Result<f64> {
    let mut child = command(argv, output)?.spawn().context(&argv[0])?;
    thread::sleep(SETTLE);
    let path = format!("/proc/{}/status", child.id());
    let text = fs::read_to_string(&path);
    let ended = child.wait().context(&argv[0])?;
    judge(argv, ended, output)?;
    let text = text.context(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| failure(format!("{path} has no VmHWM: it had ended already")))
}
