//! How the kernel schedules and personalises a process: policy, I/O priority, memory policy,
//! CPU affinity, personality, resource limits.

use rustix::io::Errno;

use crate::call::checked;

/// `struct sched_attr`, version 1 (sched_setattr(2), Linux 5.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduler {
    size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// Of utilisation, from 0 to 1024; looked at with the flags 0x20 and 0x40.
    pub clamp_min: u32,
    pub clamp_max: u32,
}

/// Applies to the calling thread.
pub fn set_scheduler(mut attributes: Scheduler) -> Result<(), Errno> {
    attributes.size = std::mem::size_of::<Scheduler>() as u32;
    // SAFETY: `size` is that of the struct, which the kernel only reads.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
        .map(drop)
}

/// `ioprio_set(2)` for the calling process: class 1 real time, 2 best effort, 3 idle; level 0 to 7.
pub fn set_io_priority(class: u32, level: u32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = class << IOPRIO_CLASS_SHIFT | level;
    // SAFETY: integers only.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// `set_mempolicy(2)`: `nodes` is a bit mask of NUMA nodes in native words.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // SAFETY: the mask is described in bits and only read. The kernel reads one bit fewer than told.
    checked(unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            mode,
            nodes.as_ptr(),
            nodes.len() * 64 + 1,
        )
    })
    .map(drop)
}

/// Binds the calling thread to the CPUs whose bits are set.
pub fn set_affinity(cpus: &[u64]) -> Result<(), Errno> {
    // SAFETY: pointer and length in bytes describe `cpus`, which the kernel only reads.
    checked(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            std::mem::size_of_val(cpus),
            cpus.as_ptr(),
        )
    })
    .map(drop)
}

/// `personality(2)`.
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    checked(unsafe { libc::personality(persona.into()) }.into()).map(drop)
}

/// Sets a resource limit of the calling process; `resource` is the kernel's number.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let new = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the new limit is only read, and the old one may be null.
    checked(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const new,
            std::ptr::null::<libc::rlimit64>(),
        )
    })
    .map(drop)
}
