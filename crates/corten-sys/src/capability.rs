//! Capability sets of the calling thread, as 64-bit masks (bit n is capability n).

use rustix::io::Errno;

use crate::call::checked;

/// The three sets of `capset(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit halves.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The calling thread's sets.
pub fn get() -> Result<Sets, Errno> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 makes the kernel write exactly two halves.
    checked(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) })?;
    let join = |f: fn(&Half) -> u32| u64::from(f(&halves[0])) | u64::from(f(&halves[1])) << 32;
    Ok(Sets {
        effective: join(|h| h.effective),
        permitted: join(|h| h.permitted),
        inheritable: join(|h| h.inheritable),
    })
}

/// Sets all three at once.
pub fn set(sets: Sets) -> Result<(), Errno> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Half {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: version 3 makes the kernel read exactly two halves.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) }).map(drop)
}

fn prctl(option: i32, a: u64, b: u64) -> Result<libc::c_long, Errno> {
    // SAFETY: every option that is used below takes integers only.
    checked(unsafe { libc::prctl(option, a, b, 0, 0) }.into())
}

/// Is it in the bounding set? `None`: this kernel does not know the capability.
pub fn in_bounding(capability: u32) -> Option<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0)
        .ok()
        .map(|r| r == 1)
}

/// Removes it from the bounding set: nothing that this thread execs can have it again.
pub fn drop_bounding(capability: u32) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// Adds it to the ambient set; it must be permitted and inheritable.
pub fn raise_ambient(capability: u32) -> Result<(), Errno> {
    const PR_CAP_AMBIENT_RAISE: u64 = 2;
    prctl(
        libc::PR_CAP_AMBIENT,
        PR_CAP_AMBIENT_RAISE,
        capability.into(),
    )
    .map(drop)
}

/// Empties the ambient set.
pub fn clear_ambient() -> Result<(), Errno> {
    const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
    prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0).map(drop)
}

/// Keeps the permitted set when the user id changes from 0; until the next exec.
pub fn keep(on: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on), 0).map(drop)
}

/// No program that this thread execs gains privileges by set-user-id bits or file capabilities.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Sets user, group and supplementary groups of the calling thread, in the one order that works.
pub fn set_identity(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    set_groups(groups)?;
    set_user(uid, gid)
}

/// Sets the supplementary groups of the calling thread. By raw calls, this and the next: the C library
/// would tell other threads, of which a fresh process has none.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: pointer and count describe `groups`, which the kernel only reads.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets group and user of the calling thread; supplementary groups stay.
pub fn set_user(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integers only.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}
