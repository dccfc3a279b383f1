//! `corten-oci` with walls that `CORTEN_WEAKEN` takes down, for the hostile suite: it must be seen to break.

fn main() -> std::process::ExitCode {
    corten_runtime::cli::main(std::env::args_os().collect())
}
