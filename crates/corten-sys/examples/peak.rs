//! Runs a command and writes its peak resident set, in KiB, to a file: `peak FILE COMMAND…`.
//!
//! A measuring program of its own, because the figure of a child starts at what its maker had when it made it:
//! a large maker would measure itself.

#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let [file, program, arguments @ ..] = &words[..] else {
        eprintln!("usage: peak FILE COMMAND...");
        return ExitCode::FAILURE;
    };
    let status = match Command::new(program).args(arguments).status() {
        Ok(status) => status,
        Err(why) => {
            eprintln!("peak: cannot run {}: {why}", program.display());
            return ExitCode::FAILURE;
        }
    };
    let written = corten_sys::process::peak_of_children()
        .map_err(std::io::Error::from)
        .and_then(|peak| std::fs::write(file, peak.to_string()));
    if let Err(why) = written {
        eprintln!("peak: {}: {why}", file.display());
        return ExitCode::FAILURE;
    }
    ExitCode::from(
        status
            .code()
            .and_then(|c| u8::try_from(c).ok())
            .unwrap_or(1),
    )
}
