//! One static binary with many names. The name that it was called by is looked at before
//! anything else is done, so that none pays for the others: `corten-oci` never builds the
//! argument tree of `corten`, and the shim never starts a runtime that it does not use.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod failure;
mod hint;
mod init;
mod output;
mod serve;
mod session;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let name = name.to_string_lossy();
    let name = name.rsplit('/').next().unwrap_or_default();
    match name {
        "corten-oci" => corten_runtime::cli::main(std::env::args_os().collect()),
        "containerd-shim-corten-v2" => corten_shim::main(std::env::args_os().collect()),
        corten_engine::network::RESOLVER => corten_net::names::server::main(std::env::args_os()),
        _ if corten_net::plugin::is_bundled(name) => corten_net::plugin::main(name),
        init::NAME => init::main(args.collect()),
        _ => cli::main(),
    }
}
