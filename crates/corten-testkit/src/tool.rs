//! Foreign commands, run to the end: their words are kept for the error.

use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Runs a command that must succeed; returns what it wrote to stdout.
pub fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // Many tools complain on stdout; and how far a script came is there too.
    let said = [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).trim_end().to_owned());
    let stderr = said.join("\n");
    Err(Error::Tool {
        command: describe(command),
        status: output.status,
        stderr,
    })
}

/// `run` for a command without more settings than its arguments.
pub fn call(program: &str, args: &[&str]) -> Result<String> {
    run(Command::new(program).args(args))
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
