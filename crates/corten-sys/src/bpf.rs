//! The device programs of cgroup v2: load, attach, list, replace.
//!
//! `bpf(2)` has no safe wrapper in rustix or libc. Only the five commands that
//! device control needs are here; what a program says is its caller's affair, and
//! the kernel's verifier has the last word on it.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

const F_ALLOW_MULTI: u32 = 2;
/// Linux 5.6.
const F_REPLACE: u32 = 4;

/// No sane device list needs more; the kernel's own limit for root is a million.
const MAX_INSTRUCTIONS: usize = 65_536;

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// An instruction from its fields; the registers are numbers below 16.
    pub const fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        // The two registers share a byte; which half is which follows the byte order's bit-fields.
        let registers = if cfg!(target_endian = "little") {
            (src << 4) | (dst & 15)
        } else {
            (dst << 4) | (src & 15)
        };
        Self {
            code,
            registers,
            offset,
            immediate,
        }
    }

    /// `(code, dst, src, offset, immediate)`, for tests that interpret a program.
    pub const fn fields(self) -> (u8, u8, u8, i16, i32) {
        let (low, high) = (self.registers & 15, self.registers >> 4);
        let (dst, src) = if cfg!(target_endian = "little") {
            (low, high)
        } else {
            (high, low)
        };
        (self.code, dst, src, self.offset, self.immediate)
    }
}

/// `BPF_PROG_LOAD`'s part of `union bpf_attr`, as of Linux 4.15; the kernel takes
/// a shorter structure for one that ends in zeros.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetFd {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Calls `bpf(2)`.
///
/// # Safety
/// `attr` is the structure of `command`, and each pointer in it is valid for what
/// `command` does with it until the call returns.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<libc::c_long, Errno> {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: `attr` is valid for `size` bytes; its content is the caller's promise.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if answer < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(answer)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd() as u32
}

fn owned(answer: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = libc::c_int::try_from(answer).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Verifies and loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` (Linux 4.15).
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(Errno::INVAL);
    }
    let mut name = [0; 16];
    name[..14].copy_from_slice(b"corten_devices");
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: name,
        ..Load::default()
    };
    // SAFETY: `insns` points to `insn_cnt` instructions and `license` to a C string; both outlive the call.
    owned(unsafe { bpf(PROG_LOAD, &mut attr) }?)
}

/// Adds a program to a group's. A device must pass all of them.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    // SAFETY: no pointers in it.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Puts `program` in the place of `old`, in one step.
pub fn replace_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | F_REPLACE,
        replace_bpf_fd: raw(old),
    };
    // SAFETY: no pointers in it.
    match unsafe { bpf(PROG_ATTACH, &mut attr) } {
        // Before 5.6, or the old one was attached without ALLOW_MULTI: add, then take off.
        Err(Errno::INVAL) => {
            attach_device_program(cgroup, program)?;
            detach_device_program(cgroup, old)
        }
        answer => answer.map(drop),
    }
}

/// Takes a program off a group.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: no pointers in it.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// The programs attached to this very group, not to its ancestors.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    // The kernel's limit is 64 a group (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0u32; 64];
    let mut attr = Query {
        target_fd: raw(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    // SAFETY: `prog_ids` points to `prog_cnt` u32, writable, which outlive the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let count = (attr.prog_cnt as usize).min(ids.len());
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        let mut attr = GetFd {
            prog_id: *id,
            ..GetFd::default()
        };
        // SAFETY: no pointers in it.
        match unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) } {
            Ok(fd) => programs.push(owned(fd)?),
            // Detached between the two calls.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}
