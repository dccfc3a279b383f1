//! The fuzzer of the runtime's, the registry's, the store's, the engine's, the shim's and the CRI's parsers: one executable, whose target is named by `CORTEN_FUZZ`.
//!
//! Started by `cargo xtask fuzz TARGET [SECONDS]`. The entrances themselves, and what they promise, are
//! in `corten_runtime::fuzz`, `corten_registry::fuzz`, `corten_store::fuzz`, `corten_engine::fuzz`,
//! `corten_net::fuzz`, `corten_shim::fuzz` and `corten_cri::fuzz`.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("CORTEN_FUZZ").unwrap_or_default();
    let runtime = corten_runtime::fuzz::TARGETS.into_iter();
    let mut all = runtime
        .chain(corten_registry::fuzz::TARGETS)
        .chain(corten_store::fuzz::TARGETS)
        .chain(corten_engine::fuzz::TARGETS)
        .chain(corten_net::fuzz::TARGETS)
        .chain(corten_shim::fuzz::TARGETS)
        .chain(corten_cri::fuzz::TARGETS);
    match all.find(|(known, _)| *known == name) {
        Some((_, target)) => target,
        None => panic!("CORTEN_FUZZ is {name:?}, which is none of the targets"),
    }
}

fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(chosen)(bytes));
