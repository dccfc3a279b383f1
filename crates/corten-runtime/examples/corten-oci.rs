//! `corten-oci` by itself, for tests and for trying: the shipped executable dispatches here by its name.

fn main() -> std::process::ExitCode {
    corten_runtime::cli::main(std::env::args_os().collect())
}
