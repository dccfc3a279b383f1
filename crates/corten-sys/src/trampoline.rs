//! The last executable of ours that a container could get hold of: a page of code in a sealed memfd.
//!
//! Problem (CVE-2019-5736): whatever a container execs may be, or name as its interpreter,
//! `/proc/self/exe`. Executed by our process that link is our own file on the host, which then runs
//! as a process of the container, and a container whose root is the host's can open it for writing.
//! Checking the path first does not help: an interpreter line is read again at exec.
//!
//! So our process never execs a container's path. It execs this trampoline, and the trampoline does:
//! `/proc/self/exe` now is a sealed memfd, in which nobody can write. Before that our process is
//! not dumpable, so that `/proc/PID/exe` of it opens for nobody but who may ptrace the host's root.
//!
//! Roads not taken: copying our whole binary into a memfd (0.6 to 3 ms), and executing ourselves again
//! from a read-only overlay (about 0.5 ms, and nothing that a library inside a shim can do). A
//! process that was itself started from a read-only file system needs no trampoline ([`is_sealed`]).
//!
//! ```text
//!   ELF header │ program header │ code │ calls: [nr, a0…a4, tag] … │ argv │ envp │ strings │ filter
//! ```
//! The code makes one call after the other; the last one is `execve`. The first that fails ends it: 16
//! bytes (tag u64, errno u32, 0 u32) go to the report descriptor.
//!
//! A filter with a listener makes one call more: its descriptor goes to the report descriptor too. The
//! kernel gives the lowest free number, and which that will be is known before the trampoline is entered,
//! so the message lies ready in the image.
//!
//! It can also fork on its way ([`Fork`]): then a process that has joined another pid namespace for its
//! children shows itself in there as this page of code only, with nothing of the host in its memory, its
//! descriptors or its root (CVE-2016-9962). Who has forked reports the child's process id, and ends.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::{
    CWD, MemfdFlags, OFlags, SealFlags, StatVfsMountFlags, fcntl_add_seals, fcntl_get_seals,
};
use rustix::io::Errno;

use crate::call::last;
use crate::exec::Program;
use crate::seccomp::Filter;

/// Where the image is mapped; above `vm.mmap_min_addr`, below everything else.
const BASE: u64 = 0x1000_0000;
const HEADERS: usize = 64 + 56;
/// One call: number, five arguments (no call needs six), the tag of a parent's report if the call is a
/// fork (otherwise 0), the tag of its failure.
const CALL: usize = 64;
const CALLS: usize = 7;
/// `struct msghdr`, `struct iovec`, the report's 16 bytes, `struct cmsghdr` with one descriptor.
const MESSAGE: usize = 56 + 16 + 16 + 24;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.corten_trampoline, \"a\"",
    ".globl corten_trampoline_start",
    ".globl corten_trampoline_end",
    "corten_trampoline_start:",
    // The table follows the code; its first two words are the report descriptor and padding.
    "lea rbx, [rip + corten_trampoline_end]",
    "mov r12, [rbx]",
    "add rbx, 16",
    "2:",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "syscall",
    "test rax, rax",
    "js 3f",
    "jz 4f",
    "mov rcx, [rbx + 48]",
    "test rcx, rcx",
    "jnz 5f",
    "4:",
    "add rbx, 64",
    "jmp 2b",
    // A call has failed.
    "3:",
    "neg eax",
    "mov rcx, [rbx + 56]",
    "mov r13d, 126",
    "jmp 6f",
    // A fork, seen by the parent.
    "5:",
    "xor r13d, r13d",
    "6:",
    "push rax",
    "push rcx",
    "mov eax, 1",
    "mov rdi, r12",
    "mov rsi, rsp",
    "mov edx, 16",
    "syscall",
    "mov eax, 231",
    "mov edi, r13d",
    "syscall",
    "ud2",
    ".balign 16",
    "corten_trampoline_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.corten_trampoline, \"a\"",
    ".balign 16",
    ".globl corten_trampoline_start",
    ".globl corten_trampoline_end",
    "corten_trampoline_start:",
    "adr x19, corten_trampoline_end",
    "ldr x20, [x19]",
    "add x19, x19, #16",
    "2:",
    "ldr x8, [x19]",
    "ldp x0, x1, [x19, #8]",
    "ldp x2, x3, [x19, #24]",
    "ldr x4, [x19, #40]",
    "svc #0",
    "tbnz x0, #63, 3f",
    "cbz x0, 4f",
    "ldr x2, [x19, #48]",
    "cbnz x2, 5f",
    "4:",
    "add x19, x19, #64",
    "b 2b",
    // A call has failed.
    "3:",
    "neg w1, w0",
    "ldr x2, [x19, #56]",
    "mov x21, #126",
    "b 6f",
    // A fork, seen by the parent.
    "5:",
    "mov x1, x0",
    "mov x21, #0",
    "6:",
    "stp x2, x1, [sp, #-16]!",
    "mov x8, #64",
    "mov x0, x20",
    "mov x1, sp",
    "mov x2, #16",
    "svc #0",
    "mov x8, #94",
    "mov x0, x21",
    "svc #0",
    "brk #1",
    ".balign 16",
    "corten_trampoline_end:",
    ".popsection",
);

unsafe extern "C" {
    static corten_trampoline_start: u8;
    static corten_trampoline_end: u8;
}

fn code() -> &'static [u8] {
    let (start, end) = (
        &raw const corten_trampoline_start,
        &raw const corten_trampoline_end,
    );
    // SAFETY: both symbols are of the same read-only section above, end after start.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Tags that name the trampoline's calls in its report.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    pub report: u64,
    pub filter: u64,
    /// Sending the listener has failed.
    pub send: u64,
    /// No failure: the first word of the message that brings the listener.
    pub listener: u64,
    pub execute: u64,
}

/// The image, ready in a sealed memfd.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

/// A fork before everything else: what follows happens in a sibling of this process, which leads a session
/// of its own.
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    /// Tag of the report of this process, whose second word is the sibling's process id.
    pub told: u64,
    pub failed: u64,
    pub session: u64,
    /// Descriptor 0 becomes the session's terminal; the tag of its failure.
    pub terminal: Option<u64>,
}

/// What happens on the way to the program.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    pub fork: Option<Fork>,
    /// Needs no-new-privileges: no capability survives the first exec.
    pub filter: Option<&'a Filter>,
    pub tags: Tags,
}

/// Space for the image, taken before the clone.
#[derive(Debug)]
pub struct Trampoline {
    image: Vec<u8>,
    capacity: usize,
}

impl Trampoline {
    /// Reserves what `program`, and `filter` if the trampoline is to install one, will need.
    pub fn reserve(program: &Program, filter: Option<&Filter>) -> Self {
        let (bytes, count) = program.size();
        let filter = filter.map_or(0, |f| f.as_bytes().len());
        let fixed = HEADERS + code().len() + 16 + CALL * CALLS + MESSAGE + 64;
        let capacity = fixed + 8 * count + bytes + filter;
        Self {
            image: Vec::with_capacity(capacity),
            capacity,
        }
    }

    /// Makes the trampoline that executes `path`: it makes `report` close-on-exec and does what is on the
    /// way. `report` and everything else that is not close-on-exec is there after [`Sealed::enter`].
    pub fn seal(
        mut self,
        program: &Program,
        path: &CStr,
        report: impl AsFd,
        way: &Way<'_>,
    ) -> Result<Sealed, Errno> {
        let report = report.as_fd();
        crate::process::inherit(report)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // MFD_EXEC (Linux 6.3) says that an executable is meant; older kernels refuse the flag.
        let memfd = match rustix::fs::memfd_create(c"corten-init", flags | MemfdFlags::EXEC) {
            Err(Errno::INVAL) => rustix::fs::memfd_create(c"corten-init", flags)?,
            other => other?,
        };
        self.build(program, path, report.as_raw_fd(), way);
        debug_assert!(self.image.len() <= self.capacity, "reserved too little");
        let mut rest = self.image.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&memfd, rest)?;
            rest = &rest[written..];
        }
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&memfd, seals)?;
        Ok(Sealed(memfd))
    }

    fn word(&mut self, value: u64) {
        self.image.extend_from_slice(&value.to_ne_bytes());
    }

    fn address(&self) -> u64 {
        BASE + self.image.len() as u64
    }

    fn call(&mut self, number: libc::c_long, arguments: [u64; 5], tag: u64) {
        self.forking_call(number, arguments, 0, tag);
    }

    fn forking_call(&mut self, number: libc::c_long, arguments: [u64; 5], told: u64, tag: u64) {
        self.word(number as u64);
        for argument in arguments {
            self.word(argument);
        }
        self.word(told);
        self.word(tag);
    }

    /// `clone`, not `clone3`: common policies let nobody call that. Its arguments but the flags are 0, so
    /// that their order, which is not the same on all machines, is no matter.
    fn fork(&mut self, fork: &Fork) {
        let sibling = [libc::CLONE_PARENT as u64, 0, 0, 0, 0];
        self.forking_call(libc::SYS_clone, sibling, fork.told, fork.failed);
        self.call(libc::SYS_setsid, [0; 5], fork.session);
        if let Some(tag) = fork.terminal {
            self.call(libc::SYS_ioctl, [0, libc::TIOCSCTTY, 0, 0, 0], tag);
        }
    }

    fn build(&mut self, program: &Program, path: &CStr, report: i32, way: &Way<'_>) {
        const SET_MODE_FILTER: u64 = 1;
        let Way { fork, filter, tags } = way;
        let listens = filter.is_some_and(Filter::listens);
        let calls = 2
            + usize::from(filter.is_some())
            + usize::from(listens)
            + fork.map_or(0, |f| 2 + usize::from(f.terminal.is_some()));
        let table = HEADERS + code().len();
        let arguments = table + 16 + CALL * calls;
        let environment = arguments + 8 * (program.arguments().count() + 1);
        let strings = environment + 8 * (program.environment().count() + 1);
        let at = |offset: usize| BASE + offset as u64;
        let path_len = path.to_bytes_with_nul().len();
        let string_bytes: usize = path_len
            + program
                .arguments()
                .map(|s| s.to_bytes_with_nul().len())
                .sum::<usize>()
            + program
                .environment()
                .map(|s| s.to_bytes_with_nul().len())
                .sum::<usize>();
        let message = (strings + string_bytes).next_multiple_of(8);
        let fprog = message + if listens { MESSAGE } else { 0 };
        let len = fprog + 16 + filter.map_or(0, |f| f.as_bytes().len());

        self.headers(len as u64);
        self.image.extend_from_slice(code());
        self.word(report as u64);
        self.word(0);
        if let Some(fork) = fork {
            self.fork(fork);
        }
        let close = [
            report as u64,
            libc::F_SETFD as u64,
            libc::FD_CLOEXEC as u64,
            0,
            0,
        ];
        self.call(libc::SYS_fcntl, close, tags.report);
        if let Some(filter) = filter {
            let install = [SET_MODE_FILTER, filter.flags().into(), at(fprog), 0, 0];
            self.call(libc::SYS_seccomp, install, tags.filter);
        }
        if listens {
            let flags = libc::MSG_NOSIGNAL as u64;
            let send = [report as u64, at(message), flags, 0, 0];
            self.call(libc::SYS_sendmsg, send, tags.send);
        }
        let execute = [at(strings), at(arguments), at(environment), 0, 0];
        self.call(libc::SYS_execve, execute, tags.execute);

        let mut next = at(strings) + path_len as u64;
        for list in 0..2 {
            let mut point = |this: &mut Self, string: &CStr| {
                this.word(next);
                next += string.to_bytes_with_nul().len() as u64;
            };
            match list {
                0 => program.arguments().for_each(|s| point(self, s)),
                _ => program.environment().for_each(|s| point(self, s)),
            }
            self.word(0);
        }
        self.image.extend_from_slice(path.to_bytes_with_nul());
        for string in program.arguments().chain(program.environment()) {
            self.image.extend_from_slice(string.to_bytes_with_nul());
        }
        self.image.resize(message, 0);
        if listens {
            self.message(tags.listener);
        }
        // struct sock_fprog: length u16, padding, pointer.
        let instructions = filter.map_or(0, |f| f.as_bytes().len() / 8);
        self.word(instructions as u64);
        self.word(self.address() + 8);
        if let Some(filter) = filter {
            self.image.extend_from_slice(filter.as_bytes());
        }
    }

    /// A report that carries the listener: `struct msghdr` and all that it points to.
    fn message(&mut self, tag: u64) {
        let start = self.address();
        let (iovec, report, control) = (start + 56, start + 72, start + 88);
        for word in [0, 0, iovec, 1, control, 24, 0] {
            self.word(word);
        }
        for word in [report, 16, tag, 0] {
            self.word(word);
        }
        self.word(20); // CMSG_LEN of one descriptor
        for half in [libc::SOL_SOCKET, libc::SCM_RIGHTS, lowest_free(), 0] {
            self.image.extend_from_slice(&half.to_ne_bytes());
        }
    }

    /// An ELF64 executable of one read-and-execute segment. No stack segment is named, so the kernel
    /// gives an ordinary one.
    fn headers(&mut self, len: u64) {
        const MACHINE: u16 = if cfg!(target_arch = "aarch64") {
            183
        } else {
            62
        };
        self.image.clear();
        self.image
            .extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        for half in [2u16, MACHINE, 1, 0] {
            self.image.extend_from_slice(&half.to_ne_bytes());
        }
        self.word(BASE + HEADERS as u64); // entry
        self.word(64); // program headers
        self.word(0); // no sections
        self.image.extend_from_slice(&0u32.to_ne_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            self.image.extend_from_slice(&half.to_ne_bytes());
        }
        // PT_LOAD, readable and executable.
        self.image.extend_from_slice(&1u32.to_ne_bytes());
        self.image.extend_from_slice(&5u32.to_ne_bytes());
        for word in [0, BASE, BASE, len, len, 0x1000] {
            self.word(word);
        }
    }
}

impl Sealed {
    /// Executes the trampoline in place of this process. Returns only if the kernel refuses.
    pub fn enter(&self) -> Errno {
        let arguments = [c"corten-init".as_ptr(), std::ptr::null()];
        // SAFETY: an empty C string with AT_EMPTY_PATH, and null-terminated arrays of C strings.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                arguments[1..].as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        last()
    }
}

/// The lowest descriptor that is free once an exec has closed what is close-on-exec.
fn lowest_free() -> RawFd {
    let closes = |number: RawFd| {
        // SAFETY: F_GETFD takes no argument, and fails on a closed descriptor.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        flags < 0 || flags & libc::FD_CLOEXEC != 0
    };
    (0..RawFd::MAX).find(|n| closes(*n)).unwrap_or(RawFd::MAX)
}

/// Was this process started from a file that cannot be opened for writing through
/// `/proc/self/exe`: on a read-only mount, or a sealed memfd?
pub fn is_sealed() -> Result<bool, Errno> {
    let exe = rustix::fs::openat(
        CWD,
        c"/proc/self/exe",
        OFlags::RDONLY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    if rustix::fs::fstatvfs(&exe)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY)
    {
        return Ok(true);
    }
    match fcntl_get_seals(&exe) {
        Ok(seals) => Ok(seals.contains(SealFlags::WRITE)),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}
