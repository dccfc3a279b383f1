//! The resolver of containers' names as an executable of its own: `corten-dns FOLDER`. (The
//! `corten` binary does the same under that name.)

use std::process::ExitCode;

fn main() -> ExitCode {
    corten_net::names::server::main(std::env::args_os())
}
