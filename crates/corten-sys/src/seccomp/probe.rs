//! What this kernel's seccomp knows, asked without changing anything.

use rustix::io::Errno;

use super::{Action, FLAG_NEW_LISTENER, FLAG_WAIT_KILLABLE_RECV};
use crate::call::checked;

/// Would a filter with this `SECCOMP_FILTER_FLAG_*` be taken?
pub fn has_flag(flag: u32) -> bool {
    const SET_MODE_FILTER: u32 = 1;
    let flags = match flag {
        // Refused alone.
        FLAG_WAIT_KILLABLE_RECV => flag | FLAG_NEW_LISTENER,
        flag => flag,
    };
    // SAFETY: a null program is never installed: a kernel that knows the flags goes on to read it, and fails with
    // EFAULT (seccomp(2), NOTES).
    let answer = checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    });
    answer == Err(Errno::FAULT)
}

/// Does it know this action (Linux 4.14)?
pub fn has_action(action: Action) -> bool {
    const GET_ACTION_AVAIL: u32 = 2;
    // The number in it is not asked for.
    let action = action.bits() & 0xffff_0000;
    // SAFETY: the kernel reads four bytes, which outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked() {
        assert!(has_flag(super::super::FLAG_LOG));
        assert!(!has_flag(1 << 30));
        assert!(has_action(Action::NOTIFY) && has_action(Action::errno(7)));
        assert!(!has_action(Action(0x1234_0000)));
    }
}
