//! Commands of the engine's, which it has given us to run.

use std::io;
use std::process::{Command, Stdio};

use corten_sys::spawn::unmask;

/// Starts one: an absolute path, and arguments. Its end is reaped like any child's.
pub fn start(command: &[String]) -> io::Result<u32> {
    let [program, arguments @ ..] = command else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(unmask(&mut command).spawn()?.id())
}
