//! Staying small: what a resident process can give back after a burst of work.

use std::ffi::c_void;

/// Gives free heap pages back to the kernel, and unmaps the program's own code until it is next used.
///
/// A supervisor runs most of its code once, at start. Those pages are clean and stay in the page
/// cache, where other processes of the same program find them; but mapped they count as this
/// process's, and each first use maps sixteen pages around it. The few that the idle loop needs come
/// back by minor faults, of about a microsecond each.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
    unmap_code();
}

fn unmap_code() {
    unsafe extern "C" {
        /// The first byte of the executable's image, and the byte after its code: the linker's own
        /// symbols (ld, lld). Between them are headers, constants and code, all mapped read-only.
        static __executable_start: u8;
        static etext: u8;
    }
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = usize::try_from(page).ok().filter(|p| p.is_power_of_two()) else {
        return;
    };
    let (start, end) = (
        &raw const __executable_start as usize,
        &raw const etext as usize,
    );
    let start = start.next_multiple_of(page);
    let end = end & !(page - 1);
    // Position-independent code has constants that the loader has written to: dropping
    // such a page would lose the relocations. Ours is linked at a fixed address, far below.
    if cfg!(not(target_pointer_width = "64")) || start >= end || start >= 1 << 32 {
        return;
    }
    // SAFETY: the range is whole pages of private, read-only mappings of the executable's file that
    // nobody has ever written to, so the kernel gives back the same bytes at the next access; code that
    // runs in the range meanwhile faults it in again. An error means that nothing was dropped.
    unsafe {
        libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED);
    }
}

/// At most so many heaps for all threads together, from now on. By default the C library gives up to eight a processor, each of which
/// keeps what its busiest moment took.
pub fn few_heaps(count: u16) {
    #[cfg(target_env = "gnu")]
    // SAFETY: M_ARENA_MAX takes any positive number, at any time. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count.max(1).into());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}
