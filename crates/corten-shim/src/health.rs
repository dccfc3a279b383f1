//! The report of a container's health, as it is on disk: what the last checks said, and what follows from it.
//!
//! ```text
//!   starting ── success ──▶ healthy ── RETRIES failures in a row ──▶ unhealthy ── success ──▶ healthy
//!      └─────────── RETRIES failures in a row, after the start period ─────▲
//! ```

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How much of a check's output is kept, and how many checks: docker's numbers.
pub(crate) const OUTPUT_MAX: usize = 4096;
const LOG_MAX: usize = 5;
/// The exit code of a check that was not one: it ran into its timeout, or could not be run.
pub(crate) const NO_CODE: i32 = -1;

/// What is known of a container's health; on disk as JSON, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row, up to now.
    pub failing_streak: u32,
    /// The last checks, the newest at the end.
    pub log: Vec<Entry>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    /// RFC 3339 with nanoseconds.
    pub start: String,
    pub end: String,
    pub exit_code: i32,
    pub output: String,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            status: STARTING.into(),
            failing_streak: 0,
            log: Vec::new(),
        }
    }
}

pub(crate) const STARTING: &str = "starting";
const HEALTHY: &str = "healthy";
pub(crate) const UNHEALTHY: &str = "unhealthy";

impl Report {
    /// Enters a check. `excused`: it began within the start period.
    pub(crate) fn enter(&mut self, entry: Entry, excused: bool, retries: u32) {
        if entry.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HEALTHY.into();
        } else if !(excused && self.status == STARTING) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= retries {
                self.status = UNHEALTHY.into();
            }
        }
        self.log.push(entry);
        if self.log.len() > LOG_MAX {
            self.log.remove(0);
        }
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        crate::whole::write(path, &serde_json::to_vec(self)?)
    }

    /// Reads a report. `None`: there is none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            // Five outputs, each byte of which JSON may write as six.
            Ok(bytes) if bytes.len() > 1 << 18 => Err(io::ErrorKind::InvalidData.into()),
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(exit_code: i32) -> Entry {
        Entry {
            start: String::new(),
            end: String::new(),
            exit_code,
            output: String::new(),
        }
    }

    /// The states after these checks: exit code, and whether it was within the start period.
    fn states(checks: &[(i32, bool)]) -> Vec<String> {
        let mut report = Report::default();
        let each = checks.iter().map(|(code, excused)| {
            report.enter(entry(*code), *excused, 3);
            format!("{} {}", report.status, report.failing_streak)
        });
        each.collect()
    }

    #[test]
    fn three_failures_in_a_row_are_unhealthy_and_one_success_is_healthy() {
        let seen = states(&[
            (0, false),
            (1, false),
            (1, false),
            (NO_CODE, false),
            (0, false),
        ]);
        let want = [
            "healthy 0",
            "healthy 1",
            "healthy 2",
            "unhealthy 3",
            "healthy 0",
        ];
        assert_eq!(seen, want);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_the_first_success() {
        let seen = states(&[(1, true), (1, true), (1, true), (1, true)]);
        assert_eq!(seen, ["starting 0"; 4]);
        let seen = states(&[(1, true), (0, true), (1, true), (1, true), (1, true)]);
        assert_eq!(seen[4], "unhealthy 3");
    }

    #[test]
    fn the_report_keeps_five_checks_and_comes_back_from_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("health.json");
        assert_eq!(Report::read(&path).unwrap(), None);
        let mut report = Report::default();
        for code in 0..9 {
            report.enter(entry(code), false, 3);
        }
        assert_eq!(
            report.log.iter().map(|e| e.exit_code).collect::<Vec<_>>(),
            [4, 5, 6, 7, 8]
        );
        report.log[0].output = "\u{1}".repeat(OUTPUT_MAX);
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), Some(report));
        fs::write(&path, vec![b' '; (1 << 18) + 1]).unwrap();
        assert!(Report::read(&path).is_err());
    }
}
