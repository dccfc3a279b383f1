//! The bundled CNI plugins: `bridge`, `host-local`, `loopback`, `portmap`.

use std::process::ExitCode;

/// The names that [`main`] answers to.
pub const NAMES: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// The command line of the plugin `name`: configuration on stdin, `CNI_*` in the environment,
/// result or error object on stdout.
pub fn main(name: &str) -> ExitCode {
    let _ = name;
    unimplemented!()
}
