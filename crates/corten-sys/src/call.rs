//! The one door to raw system calls.

use rustix::io::Errno;

/// Converts the C library's `-1` into the thread's errno.
pub(crate) fn checked(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 {
        return Err(last());
    }
    Ok(result)
}

/// The errno of the call that has just failed in this thread.
pub(crate) fn last() -> Errno {
    // SAFETY: __errno_location returns a valid pointer to this thread's errno, always.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
