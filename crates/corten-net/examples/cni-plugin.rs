//! The bundled plugins as one executable: link it under their names into a folder of CNI plugins.
//! (The `corten` binary does the same.)

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    corten_net::plugin::main(&name.to_string_lossy())
}
