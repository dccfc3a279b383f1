//! `ps`: the processes of a container.
//!
//! runc runs the host's ps(1) with the arguments that it was given, and filters what it prints. We call no
//! command: the formats that callers use are made here from `/proc`, and any other option is refused by name.
//!
//! | asked for | columns |
//! | --- | --- |
//! | nothing, `-ef`, `-f` | UID PID PPID C STIME TTY TIME CMD |
//! | `aux` | USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND |
//! | `-o pid,args=WHAT,…` | those |

use std::ffi::OsString;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::list::{is_json, print_table};
use super::options::{End, parse, value};
use super::{Context, Failure, UsageError, first_id};
use crate::Status;

/// A column: its name, and what is at its head.
type Column = (&'static str, String);

pub(super) fn ps(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let mut parsed = parse(args, &[value("format").or('f')], End::At(0))?;
    let id = first_id(&parsed)?;
    let mut asked = std::mem::take(&mut parsed.rest);
    let format = format_among(&mut asked);
    let json = is_json(format.as_deref().or(parsed.get("format")))?;
    let columns = columns(&asked)?;
    if crate::state(&context.root, &id)?.status == Status::Stopped {
        return Err(Failure::Refused("container not running"));
    }
    let mut pids = crate::pids(&context.root, &id)?;
    pids.sort_unstable();
    if json {
        println!("{}", json!(pids));
        return Ok(0);
    }
    let host = Host::look();
    let head = columns.iter().map(|(_, head)| head.clone()).collect();
    let rows = pids.iter().filter_map(|pid| {
        let process = Process::look(*pid)?;
        let cell = |(name, _): &Column| process.cell(name, &host);
        Some(columns.iter().map(cell).collect())
    });
    print_table(std::iter::once(head).chain(rows).collect());
    Ok(0)
}

/// Takes `--format` behind the id out: it is ours too, while `-f` there is ps's.
fn format_among(asked: &mut Vec<OsString>) -> Option<String> {
    let mut format = None;
    if let Some(at) = asked.iter().position(|a| a == "--format") {
        format = asked.get(at + 1).map(|f| f.to_string_lossy().into_owned());
        asked.drain(at..(at + 2).min(asked.len()));
    }
    asked.retain(
        |a| match a.to_str().and_then(|a| a.strip_prefix("--format=")) {
            Some(given) => {
                format = Some(given.into());
                false
            }
            None => true,
        },
    );
    format
}

const FULL: [(&str, &str); 8] = [
    ("user", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("args", "CMD"),
];

const USER: [(&str, &str); 11] = [
    ("user", "USER"),
    ("pid", "PID"),
    ("pcpu", "%CPU"),
    ("pmem", "%MEM"),
    ("vsz", "VSZ"),
    ("rss", "RSS"),
    ("tty", "TTY"),
    ("stat", "STAT"),
    ("stime", "START"),
    ("time", "TIME"),
    ("args", "COMMAND"),
];

/// What `-o` knows: name, meaning, heading.
const NAMES: &[(&str, &str, &str)] = &[
    ("pid", "pid", "PID"),
    ("tgid", "pid", "TGID"),
    ("ppid", "ppid", "PPID"),
    ("pgid", "pgid", "PGID"),
    ("pgrp", "pgid", "PGRP"),
    ("sid", "sid", "SID"),
    ("sess", "sid", "SESS"),
    ("uid", "uid", "UID"),
    ("euid", "uid", "EUID"),
    ("gid", "gid", "GID"),
    ("user", "user", "USER"),
    ("euser", "user", "EUSER"),
    ("comm", "comm", "COMMAND"),
    ("args", "args", "COMMAND"),
    ("cmd", "args", "CMD"),
    ("command", "args", "COMMAND"),
    ("tty", "tty", "TT"),
    ("tt", "tty", "TT"),
    ("time", "time", "TIME"),
    ("etime", "etime", "ELAPSED"),
    ("etimes", "etimes", "ELAPSED"),
    ("stime", "stime", "STIME"),
    ("start", "stime", "START"),
    ("stat", "stat", "STAT"),
    ("state", "stat", "S"),
    ("s", "stat", "S"),
    ("c", "c", "C"),
    ("ni", "ni", "NI"),
    ("nlwp", "nlwp", "NLWP"),
    ("vsz", "vsz", "VSZ"),
    ("rss", "rss", "RSS"),
    ("pcpu", "pcpu", "%CPU"),
    ("%cpu", "pcpu", "%CPU"),
    ("pmem", "pmem", "%MEM"),
    ("%mem", "pmem", "%MEM"),
];

/// From ps's own options. Those that choose processes mean nothing here: they are chosen.
fn columns(asked: &[OsString]) -> Result<Vec<Column>, UsageError> {
    let fixed = |list: &[(&'static str, &str)]| -> Vec<Column> {
        list.iter()
            .map(|(name, head)| (*name, (*head).to_owned()))
            .collect()
    };
    let mut chosen: Option<Vec<Column>> = None;
    let mut asked = asked.iter().map(|a| a.to_string_lossy());
    while let Some(word) = asked.next() {
        let unknown = || UsageError::Unknown(format!("{word} of ps"));
        // Unix options have a dash, BSD's have none; some give the latter one all the same.
        let letters = word.trim_start_matches('-');
        if let Some(list) = word.strip_prefix("--format=") {
            chosen.get_or_insert_default().extend(named(list)?);
            continue;
        }
        if word.starts_with("--") {
            return Err(unknown());
        }
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            match letter {
                'e' | 'A' | 'a' | 'x' | 'w' => {}
                'f' if word.starts_with('-') => chosen = chosen.or(Some(fixed(&FULL))),
                'u' if letters.contains('a') || letters == "u" => {
                    chosen = chosen.or(Some(fixed(&USER)));
                }
                'o' => {
                    let list = match rest.as_str() {
                        "" => asked.next().ok_or(UsageError::NoValue("o"))?.into_owned(),
                        list => list.to_owned(),
                    };
                    chosen.get_or_insert_default().extend(named(&list)?);
                    break;
                }
                _ => return Err(unknown()),
            }
        }
    }
    Ok(chosen.unwrap_or_else(|| fixed(&FULL)))
}

/// `pid,args`, or a last one with a heading of its own: `pid=WHAT`.
fn named(list: &str) -> Result<Vec<Column>, UsageError> {
    let words = list.split([',', ' ']).filter(|w| !w.is_empty());
    words
        .map(|word| {
            let (name, head) = match word.split_once('=') {
                Some((name, head)) => (name, Some(head)),
                None => (word, None),
            };
            let known = NAMES.iter().find(|(n, _, _)| *n == name);
            let (_, meaning, usual) =
                known.ok_or_else(|| UsageError::Unknown(format!("-o {name} of ps")))?;
            Ok((*meaning, head.unwrap_or(usual).to_owned()))
        })
        .collect()
}

/// What the cells are measured against.
struct Host {
    now: u64,
    booted: u64,
    memory: u64,
    users: String,
}

/// USER_HZ, which the kernel shows to everybody on every architecture of ours (proc(5)).
const TICKS: u64 = 100;
const PAGE: u64 = 4096;

impl Host {
    fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let number = |text: &str, key: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(key));
            let word = line.and_then(|l| l.split_whitespace().next());
            word.and_then(|w| w.parse().ok()).unwrap_or(0)
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            now: now.unwrap_or_default().as_secs(),
            booted: number(&read("/proc/stat"), "btime "),
            memory: number(&read("/proc/meminfo"), "MemTotal:"),
            users: read("/etc/passwd"),
        }
    }

    fn user(&self, uid: &str) -> String {
        let of = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            (fields.nth(1)? == uid).then_some(name)
        };
        self.users
            .lines()
            .find_map(of)
            .unwrap_or_else(|| uid.to_owned())
    }
}

/// One process, as `/proc` has it.
struct Process {
    name: String,
    /// Fields of `stat` from the third on: the first is the state.
    stat: Vec<String>,
    uid: String,
    gid: String,
    arguments: String,
}

impl Process {
    /// `None`: it has ended meanwhile.
    fn look(pid: i32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // The name in parentheses may hold anything.
        let (start, rest) = stat.rsplit_once(')')?;
        let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        // Real, effective, …: the second is shown.
        let id = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key))?;
            line.split_whitespace().nth(1).map(String::from)
        };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let name = start.split_once('(')?.1.to_owned();
        let fields =
            std::iter::once(pid.to_string()).chain(rest.split_whitespace().map(String::from));
        Some(Self {
            arguments: match line.trim() {
                "" => format!("[{name}]"),
                line => line.into(),
            },
            name,
            stat: fields.collect(),
            uid: id("Uid:")?,
            gid: id("Gid:")?,
        })
    }

    /// Number `n` of proc_pid_stat(5), from 1; the name, 2, is left out here.
    fn field(&self, n: usize) -> &str {
        let index = if n == 1 { 0 } else { n - 2 };
        self.stat.get(index).map_or("", String::as_str)
    }

    fn number(&self, n: usize) -> u64 {
        self.field(n).parse().unwrap_or(0)
    }

    fn cell(&self, name: &str, host: &Host) -> String {
        let started = host.booted + self.number(22) / TICKS;
        let age = host.now.saturating_sub(started);
        let busy = (self.number(14) + self.number(15)) / TICKS;
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        match name {
            "pid" => self.field(1).into(),
            "ppid" => self.field(4).into(),
            "pgid" => self.field(5).into(),
            "sid" => self.field(6).into(),
            "ni" => self.field(19).into(),
            "nlwp" => self.field(20).into(),
            "stat" => self.field(3).into(),
            "uid" => self.uid.clone(),
            "gid" => self.gid.clone(),
            "user" => host.user(&self.uid),
            "comm" => self.name.clone(),
            "tty" => tty(self.number(7)),
            "time" => clock(busy),
            "etime" => elapsed(age),
            "etimes" => age.to_string(),
            "stime" => since(started, age),
            "c" => format!("{:.0}", percent(busy, age)),
            "pcpu" => format!("{:.1}", percent(busy, age)),
            "pmem" => format!("{:.1}", percent(self.number(24) * PAGE / 1024, host.memory)),
            "vsz" => (self.number(23) / 1024).to_string(),
            "rss" => (self.number(24) * PAGE / 1024).to_string(),
            _ => self.arguments.clone(),
        }
    }
}

/// Bits of proc_pid_stat(5), `tty_nr`; majors of devices.txt.
fn tty(device: u64) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match (major, minor) {
        (0, _) => "?".into(),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (136..144, _) => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

fn clock(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// `[[days-]hours:]minutes:seconds`
fn elapsed(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600) {
        (0, 0) => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        (0, _) => clock(seconds),
        (days, _) => format!("{days}-{}", clock(seconds % 86_400)),
    }
}

/// The time of a start in the last day, else its date; in UTC, as nothing here reads time zones.
fn since(started: u64, age: u64) -> String {
    let text = crate::state::rfc3339(started, 0);
    let part = if age < 86_400 {
        text.get(11..16)
    } else {
        text.get(5..10)
    };
    part.unwrap_or("?").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let columns = columns(&words).map_err(|e| e.to_string())?;
        Ok(columns.into_iter().map(|(_, head)| head).collect())
    }

    #[test]
    fn formats_of_ps() {
        let full = heads(&[]).unwrap();
        assert_eq!(full, FULL.map(|(_, head)| head));
        assert_eq!(heads(&["-ef"]).unwrap(), full);
        assert_eq!(heads(&["aux"]).unwrap(), USER.map(|(_, head)| head));
        assert_eq!(heads(&["-aux"]).unwrap(), USER.map(|(_, head)| head));
        assert_eq!(heads(&["-eo", "pid,args=WHAT"]).unwrap(), ["PID", "WHAT"]);
        assert_eq!(heads(&["-opid", "-o", "%cpu"]).unwrap(), ["PID", "%CPU"]);
        assert_eq!(heads(&["-Z"]).unwrap_err(), "unknown option -Z of ps");
        assert!(heads(&["-o", "label"]).unwrap_err().contains("label"));
    }

    #[test]
    fn cells() {
        assert_eq!(tty(0), "?");
        assert_eq!(tty(136 << 8 | 3), "pts/3");
        assert_eq!(elapsed(59), "00:59");
        assert_eq!(elapsed(3_661), "01:01:01");
        assert_eq!(elapsed(90_061), "1-01:01:01");
        let own = Process::look(std::process::id() as i32).unwrap();
        let host = Host::look();
        assert_eq!(own.cell("pid", &host), std::process::id().to_string());
        assert!(own.cell("rss", &host).parse::<u64>().unwrap() > 0);
        assert!(own.cell("nlwp", &host).parse::<u32>().is_ok());
    }
}
