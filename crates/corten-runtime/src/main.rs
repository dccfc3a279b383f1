//! `corten-oci` as a small executable of its own. The engine's executable is the same runtime by that name; this
//! one maps and touches less memory, which is most of what a start costs that is not the kernel's.

#![no_main]
#![forbid(unsafe_code)]

corten_sys::entry!(start);

fn start() -> u8 {
    corten_runtime::cli::run(std::env::args_os().collect())
}
