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
            let path = PathBuf::from(path);
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
        eprintln!("error: {message}");
        self.line("error", message);
    }

    pub fn warning(&self, message: &str) {
        match self.file {
            Some(_) => self.line("warning", message),
            None => eprintln!("warning: {message}"),
        }
    }

    pub fn debug(&self, message: &str) {
        if self.debug {
            self.line("debug", message);
        }
    }

    fn line(&self, level: &str, message: &str) {
        let Some(mut file) = self.file.as_ref() else {
            return;
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let time = crate::state::rfc3339(now.as_secs(), now.subsec_nanos());
        let line = match self.json {
            true => serde_json::json!({"level": level, "msg": message, "time": time}).to_string(),
            false => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        // Nowhere is left to complain to.
        let _ = writeln!(file, "{line}");
    }
}
