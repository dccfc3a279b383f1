//! `fuzz`: libFuzzer on one of the runtime's or registry's parsers, with the stable compiler.
//!
//! cargo-fuzz wants a nightly compiler for the address sanitizer, of which code without `unsafe` has little use.
//! The coverage that guides the fuzzer is an ordinary pass of LLVM.

use std::path::Path;
use std::process::Command;

use crate::failure::{Context, Result, failure};

/// In place of the workspace's own flags: libFuzzer looks functions up at run time, so it cannot be static.
const FLAGS: &str = "--cfg fuzzing -C codegen-units=4 -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares";

pub fn run(args: &[String]) -> Result<()> {
    let [target, rest @ ..] = args else {
        return Err(failure(
            "fuzz: which target? They are the folders of fuzz/corpus",
        ));
    };
    let seconds = rest.first().map_or("1800", String::as_str);
    let corpus = Path::new("fuzz/corpus").join(target);
    if !corpus.is_dir() {
        return Err(failure(format!("fuzz: {} is no folder", corpus.display())));
    }
    // What is found goes to the first folder; what is worth keeping is then moved by hand.
    let found = Path::new("target/fuzz/found").join(target);
    std::fs::create_dir_all(&found).context(found.display())?;
    let status = Command::new(env!("CARGO"))
        .args(["run", "--release", "--manifest-path", "fuzz/Cargo.toml"])
        .args(["--target-dir", "target/fuzz", "--"])
        .args([
            "-max_len=16384",
            "-timeout=20",
            "-dict=fuzz/dictionaries/words",
        ])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix=target/fuzz/{target}-"))
        .args([&found, &corpus])
        .env("RUSTFLAGS", FLAGS)
        .env("CORTEN_FUZZ", target)
        .status()
        .context("cannot run cargo")?;
    match status.success() {
        true => Ok(()),
        false => Err(failure(format!("fuzz {target} has found something"))),
    }
}
