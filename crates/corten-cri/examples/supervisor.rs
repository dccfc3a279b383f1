//! The shim as a program of its own, for tests of what speaks to it. The shipped binary is `corten`, which calls the
//! same function under this name.

fn main() -> std::process::ExitCode {
    corten_shim::main(std::env::args_os().collect())
}
