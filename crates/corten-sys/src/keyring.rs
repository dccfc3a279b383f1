//! Session keyrings: a container must not see the keys of whoever started it.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::call::checked;

const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
const KEYCTL_SETPERM: i32 = 5;
/// Possessor: everything. User: view, read, search (keyctl_setperm(3)). The kernel's default lets
/// the owner's other processes link into it as well.
const PERMISSIONS: u32 = 0x3f0b_0000;

/// Replaces the session keyring by a new one of this name. `Ok(false)`: this kernel has no keyrings.
pub fn new_session(name: &CStr) -> Result<bool, Errno> {
    // SAFETY: the name is a valid C string that the kernel only reads.
    let joined = checked(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    });
    let serial = match joined {
        Ok(serial) => serial,
        Err(Errno::NOSYS) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    // SAFETY: integers only.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, PERMISSIONS) })?;
    Ok(true)
}
