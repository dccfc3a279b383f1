//! What a finished command said and how it ended, with the assertions that
//! tests make about it. Assertions panic, with everything that was said.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

#[derive(Debug)]
pub struct Outcome {
    pub command: String,
    /// The exit code as a shell tells it: 128+n after a signal.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn new(command: String, output: Output) -> Outcome {
        let signal = output.status.signal().map_or(0, |signal| 128 + signal);
        Outcome {
            command,
            code: output.status.code().unwrap_or(signal),
            stdout: output.stdout,
            stderr: output.stderr,
        }
    }

    /// Stdout as text, without the line break at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    pub fn talk(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// The command succeeded; returns its stdout.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.exits(0);
        self.text()
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Outcome {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// The command failed with `code` and the three lines that a person gets:
    /// what could not be done, why, and what to do about it.
    #[track_caller]
    pub fn fails(&self, code: i32) -> Complaint {
        self.exits(code);
        let talk = self.talk();
        let find = |mark: &str| {
            talk.lines()
                .find_map(|line| line.strip_prefix(mark))
                .map(str::trim)
        };
        let error = find("error:")
            .unwrap_or_else(|| panic!("no `error:` line: {self}"))
            .to_owned();
        assert!(!error.is_empty(), "an empty `error:` line: {self}");
        for forbidden in ["panicked at", "RUST_BACKTRACE", "Os {"] {
            assert!(
                !talk.contains(forbidden),
                "a person must not read `{forbidden}`: {self}"
            );
        }
        let cause = find("caused by:").unwrap_or_default().to_owned();
        let hint = find("hint:").unwrap_or_default().to_owned();
        Complaint {
            error,
            cause,
            hint,
            whole: talk,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.code,
            cut(&self.stdout),
            cut(&self.stderr)
        )
    }
}

/// The three lines of an error.
#[derive(Debug)]
pub struct Complaint {
    pub error: String,
    pub cause: String,
    pub hint: String,
    pub whole: String,
}

impl Complaint {
    /// Some line names `what`, upper or lower case.
    #[track_caller]
    pub fn names(&self, what: &str) -> &Complaint {
        assert!(
            self.whole.to_lowercase().contains(&what.to_lowercase()),
            "nothing names `{what}`:\n{}",
            self.whole
        );
        self
    }

    /// It says what to do. (A refusal that is its own reason has no cause to name.)
    #[track_caller]
    pub fn complete(&self) -> &Complaint {
        assert!(!self.hint.is_empty(), "no `hint:` line:\n{}", self.whole);
        self
    }
}
