//! A program's start without the standard library's.
//!
//! Rust's own start looks for the main thread's stack in `/proc/self/maps` and makes it a signal stack, to
//! say "stack overflow" before the process dies of it: a score of system calls and 50 µs, which a
//! program that lives for a millisecond pays each time it is called. Without it an overflow is
//! a plain SIGSEGV. What matters for safety is done here: descriptors 0 to 2 are open, so
//! that no file of ours is taken for stdio, and a closed pipe is an error and no signal.

use std::os::fd::{AsRawFd, IntoRawFd};

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Defines the program's `main`, which calls `$main`, a `fn() -> u8`, for the exit status. The crate says
/// `#![no_main]`. Arguments are in [`std::env::args_os`]: the GNU C library gives them to
/// the standard library by another way.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _: std::ffi::c_int,
            _: *const *const std::ffi::c_char,
        ) -> std::ffi::c_int {
            $crate::entry::begin();
            // Ends the standard library's buffers too.
            std::process::exit(i32::from($main()))
        }
    };
}

/// What must be so before any other code of ours runs.
#[doc(hidden)]
pub fn begin() {
    // SAFETY: SIG_IGN is a valid disposition, and no handler of anybody is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    for number in 0..3 {
        // SAFETY: F_GETFD takes no memory, and fails on a closed descriptor.
        let open = unsafe { libc::fcntl(number, libc::F_GETFD) } != -1;
        if !open {
            fill(number);
        }
    }
}

/// The lowest free number is `number`: those below are open.
fn fill(number: i32) {
    match openat(CWD, c"/dev/null", OFlags::RDWR, Mode::empty()) {
        Ok(null) if null.as_raw_fd() == number => {
            // Stays open for the life of the process, as stdio does.
            let _ = null.into_raw_fd();
        }
        _ => crate::process::exit_now(125),
    }
}
