//! Names of system calls to their numbers, for each ABI of this machine's kernel.
//!
//! The tables come from the `syscalls` crate; its own lookup compares a name with each entry in turn,
//! so hash tables are laid out at compile time.

use syscalls::Sysno as Native;
#[cfg(target_arch = "x86_64")]
use syscalls::x86::Sysno as X86;

/// A way to enter the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// This build's own.
    Native,
    /// 32-bit programs on x86-64.
    X86,
    /// 64-bit registers, 32-bit pointers; x86-64's numbers with bit 30, and 36 of its own.
    X32,
}

/// Bit 30 of a number marks an x32 call.
pub(super) const X32_BIT: u32 = 0x4000_0000;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;

impl Abi {
    /// The `AUDIT_ARCH_*` value that the kernel reports with a call.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86 => AUDIT_X86,
            Self::X32 => AUDIT_X86_64,
            Self::Native if cfg!(target_arch = "aarch64") => AUDIT_AARCH64,
            Self::Native => AUDIT_X86_64,
        }
    }

    /// The number of `name`, if this ABI has such a call.
    pub fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::Native => find(&NATIVE, name, |n| Native::new(n).map(|s| s.name())),
            #[cfg(target_arch = "x86_64")]
            Self::X86 => find(&X86_TABLE, name, |n| X86::new(n).map(|s| s.name())),
            #[cfg(not(target_arch = "x86_64"))]
            Self::X86 => None,
            Self::X32 => {
                let own = X32_OWN.iter().position(|n| *n == name);
                let own = own.map(|index| 512 + index as u32);
                own.or_else(|| Self::Native.number(name))
                    .map(|n| n | X32_BIT)
            }
        }
    }
}

/// x32's own numbers, 512 to 547 (arch/x86/entry/syscalls/syscall_64.tbl).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

const SLOTS: usize = 2048;
/// No number in this slot.
const EMPTY: u16 = u16::MAX;

/// Open addressing over [`hash`]; a slot holds a number.
type Table = [u16; SLOTS];

/// FNV-1a.
const fn hash(name: &str) -> usize {
    let bytes = name.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    (hash ^ (hash >> 15)) as usize % SLOTS
}

macro_rules! table {
    ($sysno:ty) => {{
        let mut table = [EMPTY; SLOTS];
        let mut number = 0;
        while number < 600 {
            if let Some(call) = <$sysno>::new(number) {
                let mut slot = hash(call.name());
                while table[slot] != EMPTY {
                    slot = (slot + 1) % SLOTS;
                }
                table[slot] = number as u16;
            }
            number += 1;
        }
        table
    }};
}

static NATIVE: Table = table!(Native);
#[cfg(target_arch = "x86_64")]
static X86_TABLE: Table = table!(X86);

fn find(table: &Table, name: &str, name_of: impl Fn(usize) -> Option<&'static str>) -> Option<u32> {
    let mut slot = hash(name);
    while table[slot] != EMPTY {
        if name_of(table[slot].into()) == Some(name) {
            return Some(table[slot].into());
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_every_table_is_found() {
        for call in Native::iter() {
            assert_eq!(Abi::Native.number(call.name()), Some(call.id() as u32));
        }
        #[cfg(target_arch = "x86_64")]
        for call in X86::iter() {
            assert_eq!(Abi::X86.number(call.name()), Some(call.id() as u32));
        }
        assert_eq!(Abi::Native.number("no_such_call"), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn x32_has_numbers_of_its_own() {
        assert_eq!(Abi::X32.number("execve"), Some(X32_BIT | 520));
        assert_eq!(Abi::X32.number("pwritev2"), Some(X32_BIT | 547));
        assert_eq!(Abi::X32.number("openat"), Some(X32_BIT | 257));
    }
}
