//! Messages: to stderr for people, to `--log` for callers, in logrus' two formats.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::options::Parsed;
use super::{Failure, UsageError};

pub(super) struct Log {
    file: Option<File>,
    json: bool,
    debug: bool,
}

impl Log {
    pub fn open(global: &Parsed) -> Result<Self, Failure> {
        let json = match global.get("log-format") {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => {
                return Err(UsageError::Bad {
                    name: "log-format",
                    text: other.into(),
                    must: "text or json",
                }
                .into());
            }
        };
        let open = |path: &str| {
            // crun's other forms. A file of such a name would be a log that nobody finds.
            if path.starts_with("journald:") || path.starts_with("syslog:") {
                return Err(Failure::Refused(
                    "--log is supported as a file only, not to journald: or syslog:",
                ));
            }
            let path = PathBuf::from(path.strip_prefix("file:").unwrap_or(path));
            let file = File::options().append(true).create(true).open(&path);
            file.map_err(|source| Failure::File {
                what: "open the log",
                path,
                source,
            })
        };
        Ok(Self {
            file: global
                .get("log")
                .filter(|p| !p.is_empty())
                .map(open)
                .transpose()?,
            json,
            debug: global.has("debug") || global.get("log-level") == Some("debug"),
        })
    }

    /// The reason of a failure: the last line of the log, and of stderr.
    pub fn error(&self, message: &str) {
        // A caller that asks for JSON and names no file reads stderr.
        if self.file.is_some() || !self.json {
            eprintln!("error: {message}");
        }
        self.line("error", message);
    }

    pub fn warning(&self, message: &str) {
        if self.file.is_none() && !self.json {
            eprintln!("warning: {message}");
        }
        self.line("warning", message);
    }

    pub fn debug(&self, message: &str) {
        if self.debug {
            self.line("debug", message);
        }
    }

    fn line(&self, level: &str, message: &str) {
        if self.file.is_none() && !self.json && level != "debug" {
            return; // said in words already
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let time = crate::state::rfc3339(now.as_secs(), now.subsec_nanos());
        let line = match self.json {
            true => serde_json::json!({"level": level, "msg": message, "time": time}).to_string(),
            false => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        // One write a line: several commands share a file. Nowhere is left to complain to.
        let line = format!("{line}\n");
        let _ = match self.file.as_ref() {
            Some(mut file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
