//! runc's command line, as podman and containerd call it.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs `corten-oci`. `args[0]` is the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
