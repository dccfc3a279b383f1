//! Runs and times commands, here or in another mount namespace.
//!
//! An agent is this executable inside that namespace: it takes a command as one
//! JSON line, runs it, and answers with the time and how it ended. So no
//! `nsenter` is on the clock.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::failure::{Context, Result, failure};

/// Where a command runs.
pub enum Place {
    Here,
    Agent(RefCell<Agent>),
}

pub struct Agent {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

/// How one run went.
pub struct Timing {
    pub millis: f64,
    pub stdout: String,
}

impl Place {
    /// A mount namespace that `prepare`, a line of shell, changes first.
    pub fn prepared(prepare: &str) -> Result<Place> {
        let own = std::env::current_exe().context("cannot find this executable")?;
        let script = format!("set -e; {prepare}; exec \"$0\" bench-agent");
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an agent")?;
        let (Some(ask), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failure("an agent started without its pipes"));
        };
        let mut agent = Agent {
            child,
            ask,
            answer: BufReader::new(answer),
        };
        agent.run(&["true".to_owned()])?;
        Ok(Place::Agent(RefCell::new(agent)))
    }

    /// Runs a command to its end; an exit code other than 0 is an error.
    pub fn run(&self, argv: &[String]) -> Result<Timing> {
        match self {
            Place::Here => timed(argv).and_then(|answer| judge(argv, &answer)),
            Place::Agent(agent) => agent.borrow_mut().run(argv),
        }
    }
}

impl Agent {
    fn run(&mut self, argv: &[String]) -> Result<Timing> {
        writeln!(self.ask, "{}", json!(argv)).context("cannot ask an agent")?;
        let mut line = String::new();
        self.answer
            .read_line(&mut line)
            .context("cannot hear an agent")?;
        let answer: Value = serde_json::from_str(&line).context("an agent ended")?;
        judge(argv, &answer)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends at the end of its stdin too; killing is only quicker.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent's side: a command a line until stdin ends.
pub fn serve() -> Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line.context("stdin")?;
        let argv: Value = serde_json::from_str(&line).context("a command is no JSON")?;
        let words = argv
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let argv: Vec<String> = words.map(str::to_owned).collect();
        let answer = timed(&argv).unwrap_or_else(|why| json!({"error": why.to_string()}));
        println!("{answer}");
    }
    Ok(())
}

fn timed(argv: &[String]) -> Result<Value> {
    let [program, args @ ..] = argv else {
        return Err(failure("an empty command"));
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let since = Instant::now();
    let out = command.output().context(program)?;
    let nanos = u64::try_from(since.elapsed().as_nanos()).context("a run of centuries")?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    Ok(json!({"nanos": nanos, "code": out.status.code(), "stdout": stdout, "stderr": stderr}))
}

fn judge(argv: &[String], answer: &Value) -> Result<Timing> {
    let text = |key: &str| answer[key].as_str().unwrap_or_default().trim().to_owned();
    if let (Some(nanos), Some(0)) = (answer["nanos"].as_u64(), answer["code"].as_i64()) {
        return Ok(Timing {
            millis: nanos as f64 / 1e6,
            stdout: text("stdout"),
        });
    }
    let why = format!("{}{}", text("error"), text("stderr"));
    Err(failure(format!(
        "`{}` ended with {}: {why}",
        argv.join(" "),
        answer["code"]
    )))
}
