//! A network namespace that is made while the caller does something else.
//!
//! Of all that a container needs, its network namespace takes the kernel longest: 0.3 to 0.6 ms of a clone
//! that takes 0.15 without it. It depends on nothing that a runtime finds out first, so a
//! thread of the kernel's makes it meanwhile: unshares, sets `lo` up, opens a handle on it, and is gone.
//!
//! The thread is none of the C library's or of Rust's. It has no thread-local storage of its own,
//! allocates nothing, takes no lock and touches nothing but its [`State`]; so the caller may `clone3`
//! while it is at work, which with an ordinary thread could copy a held lock of the allocator for ever.

use std::ffi::{c_int, c_void};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::thread::futex;

use crate::call::{checked, last};

/// The lowest page is a guard.
const STACK: usize = 64 << 10;
const PAGE: usize = 4096;

/// Shared with the thread, at the upper end of its stack's mapping.
#[repr(C, align(64))]
struct State {
    /// Not 0 while the thread lives: the kernel clears it and wakes who waits (`CLONE_CHILD_CLEARTID`).
    alive: AtomicU32,
    /// The handle, or a negated error number.
    answer: AtomicI32,
}

/// A network namespace in the making.
#[derive(Debug)]
pub struct NewNetwork {
    mapping: NonNull<c_void>,
}

// SAFETY: the mapping is owned by this value alone, and the thread that shares it does so through atomics.
unsafe impl Send for NewNetwork {}

impl NewNetwork {
    /// Begins. The new namespace belongs to the caller's user namespace.
    pub fn begin() -> Result<Self, Errno> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping, where the kernel likes; nothing is replaced.
        let mapping = unsafe { libc::mmap(std::ptr::null_mut(), STACK, protection, flags, -1, 0) };
        if mapping == libc::MAP_FAILED {
            return Err(last());
        }
        let this = Self {
            mapping: NonNull::new(mapping).ok_or(Errno::NOMEM)?,
        };
        let state = this.state();
        state
            .answer
            .store(-Errno::IO.raw_os_error(), Ordering::Relaxed);
        // SAFETY: the lowest page of our own mapping, in which nothing is.
        checked(unsafe { libc::mprotect(mapping, PAGE, libc::PROT_NONE) }.into())?;
        state.alive.store(1, Ordering::Relaxed);
        let flags = libc::CLONE_VM
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_CHILD_CLEARTID;
        let state: *const State = state;
        // SAFETY: the stack ends where the state begins, aligned to 64 bytes, and is used by the new thread
        // only. Stack and state stay mapped until `wait` or `drop` has seen the thread's end. `work`
        // keeps to what the module's page promises. Without CLONE_SETTLS the thread-local storage is the
        // caller's, which `work` does not use.
        let thread = unsafe {
            libc::clone(
                work,
                state.cast_mut().cast(),
                flags,
                state.cast_mut().cast(),
                std::ptr::null_mut::<c_void>(),
                std::ptr::null_mut::<c_void>(),
                (&raw const (*state).alive).cast_mut(),
            )
        };
        if thread == -1 {
            let errno = last();
            this.state().alive.store(0, Ordering::Relaxed);
            return Err(errno);
        }
        Ok(this)
    }

    fn state(&self) -> &State {
        let offset = STACK - size_of::<State>();
        // SAFETY: within the mapping, aligned (the mapping is to pages, the size of the state a multiple of its
        // alignment), of integers for which all bytes are valid, and only changed through atomics.
        unsafe { self.mapping.byte_add(offset).cast::<State>().as_ref() }
    }

    /// Waits for it, and returns a handle on it.
    pub fn wait(self) -> Result<OwnedFd, Errno> {
        self.join();
        match self
            .state()
            .answer
            .swap(-Errno::IO.raw_os_error(), Ordering::Acquire)
        {
            // SAFETY: the thread has opened it for us, and the swap gives it to one taker only.
            fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            errno => Err(Errno::from_raw_os_error(-errno)),
        }
    }

    fn join(&self) {
        let alive = &self.state().alive;
        loop {
            let now = alive.load(Ordering::Acquire);
            if now == 0 {
                return;
            }
            // The kernel's wake is not a private one. Whatever the answer, the word is looked at again.
            let _ = futex::wait(alive, futex::Flags::empty(), now, None);
        }
    }
}

impl Drop for NewNetwork {
    fn drop(&mut self) {
        self.join();
        let answer = self.state().answer.load(Ordering::Acquire);
        if answer >= 0 {
            // SAFETY: nobody has taken it.
            drop(unsafe { OwnedFd::from_raw_fd(answer) });
        }
        // SAFETY: our own mapping; the thread that used it has ended.
        let unmapped = unsafe { libc::munmap(self.mapping.as_ptr(), STACK) };
        debug_assert!(unmapped == 0, "a mapping of ours");
    }
}

/// The thread. Its result is its exit status, which nobody looks at.
extern "C" fn work(state: *mut c_void) -> c_int {
    // SAFETY: `begin` has passed the state, which outlives this thread.
    let state = unsafe { &*state.cast::<State>() };
    let answer = match make() {
        Ok(fd) => fd.into_raw_fd(),
        Err(errno) => -errno.raw_os_error(),
    };
    state.answer.store(answer, Ordering::Release);
    0
}

/// Calls of `rustix` only: they give the kernel's answer back without the C library's `errno`, which is
/// thread-local.
fn make() -> Result<OwnedFd, Errno> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: a new network namespace for this thread; descriptors and memory stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    crate::namespace::loopback_up()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn inode(fd: impl AsFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn a_namespace_is_made_meanwhile_and_the_caller_stays_where_it_is() {
        let own = || std::fs::File::open("/proc/self/ns/net").unwrap();
        let before = inode(own());
        let (one, two) = (NewNetwork::begin().unwrap(), NewNetwork::begin().unwrap());
        let (one, two) = (one.wait().unwrap(), two.wait().unwrap());
        assert_ne!(inode(&one), before);
        assert_ne!(inode(&one), inode(&two));
        assert_eq!(inode(own()), before);
        drop(NewNetwork::begin().unwrap());
    }
}
