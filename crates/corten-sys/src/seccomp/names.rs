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
        resolve(name).of(self)
    }
}

/// The numbers of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    native: u16,
    x86: u16,
}

impl Numbers {
    const NONE: Self = Self {
        native: EMPTY,
        x86: EMPTY,
    };

    pub fn of(self, abi: Abi) -> Option<u32> {
        let known = |number: u16| (number != EMPTY).then_some(u32::from(number));
        match abi {
            Abi::Native => known(self.native),
            Abi::X86 => known(self.x86),
            Abi::X32 => {
                let own = X32_NUMBERS.get(usize::from(self.native)).copied();
                own.and_then(known)
                    .or_else(|| known(self.native))
                    .map(|number| number | X32_BIT)
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

/// For each native number that x32 replaces, its own.
static X32_NUMBERS: [u16; NUMBERS] = {
    let mut numbers = [EMPTY; NUMBERS];
    let mut index = 0;
    while index < X32_OWN.len() {
        let mut number = 0;
        while number < NUMBERS {
            if let Some(call) = Native::new(number)
                && same(call.name(), X32_OWN[index])
            {
                numbers[number] = 512 + index as u16;
            }
            number += 1;
        }
        index += 1;
    }
    numbers
};

const SLOTS: usize = 2048;
/// No table goes further.
const NUMBERS: usize = 600;
/// No number.
const EMPTY: u16 = u16::MAX;

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

/// Equality, at compile time too. For names this short a loop is quicker than `memcmp`.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// Open addressing over [`hash`]: one probe finds a name's numbers in all tables. Numbers only, no
/// names: nothing that the loader would have to relocate at each start.
static TABLE: [Numbers; SLOTS] = {
    let mut table = [Numbers::NONE; SLOTS];
    let mut number = 0;
    while number < NUMBERS {
        if let Some(call) = Native::new(number) {
            table[slot(&table, call.name())].native = number as u16;
        }
        number += 1;
    }
    #[cfg(target_arch = "x86_64")]
    {
        number = 0;
        while number < NUMBERS {
            if let Some(call) = X86::new(number) {
                table[slot(&table, call.name())].x86 = number as u16;
            }
            number += 1;
        }
    }
    table
};

/// The slot of a name, or the empty one where it belongs.
const fn slot(table: &[Numbers; SLOTS], name: &str) -> usize {
    let mut slot = hash(name);
    while let Some(found) = name_of(table[slot]) {
        if same(found, name) {
            break;
        }
        slot = (slot + 1) % SLOTS;
    }
    slot
}

const fn name_of(numbers: Numbers) -> Option<&'static str> {
    if let Some(call) = Native::new(numbers.native as usize) {
        return Some(call.name());
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(call) = X86::new(numbers.x86 as usize) {
        return Some(call.name());
    }
    None
}

pub(super) fn resolve(name: &str) -> Numbers {
    let mut slot = hash(name);
    loop {
        match name_of(TABLE[slot]) {
            None => return Numbers::NONE,
            Some(found) if same(found, name) => return TABLE[slot],
            Some(_) => slot = (slot + 1) % SLOTS,
        }
    }
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
