//! Prints the `linux.seccomp` section that the engine gives a container without options: our default policy, resolved
//! for Docker's fourteen capabilities. The bench puts it into its bundles.

use std::process::ExitCode;

use corten_runtime::seccomp_profile::docker_default;
use oci_spec::runtime::{Arch, Capability};

const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

fn main() -> ExitCode {
    let arch = match std::env::consts::ARCH {
        "aarch64" => Arch::ScmpArchAarch64,
        "riscv64" => Arch::ScmpArchRiscv64,
        _ => Arch::ScmpArchX86_64,
    };
    match serde_json::to_string_pretty(&docker_default(&CAPABILITIES, arch)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("default-seccomp: {why}");
            ExitCode::FAILURE
        }
    }
}
