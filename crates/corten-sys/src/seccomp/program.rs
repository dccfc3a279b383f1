//! A finished filter: installed into the kernel, or run here to learn what it would say.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::{Abi, Action, FLAG_NEW_LISTENER};
use crate::call::checked;

/// `struct sock_filter` of `linux/filter.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

/// Load the 32-bit word at offset k of `struct seccomp_data`.
pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `struct sock_filter` after `struct sock_filter`, in native byte order.
    bytes: Vec<u8>,
    flags: u32,
}

/// A system call, as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub audit: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

impl Filter {
    pub(super) fn new(instructions: &[Instruction], flags: u32) -> Self {
        let mut bytes = Vec::with_capacity(instructions.len() * 8);
        for i in instructions {
            bytes.extend_from_slice(&i.code.to_ne_bytes());
            bytes.extend_from_slice(&[i.jump_true, i.jump_false]);
            bytes.extend_from_slice(&i.k.to_ne_bytes());
        }
        Self { bytes, flags }
    }

    /// The instructions, eight bytes each.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.bytes.len() / 8
    }

    /// Never: even a policy without rules returns its default.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Installs it for the calling thread and all that it starts. Needs CAP_SYS_ADMIN or
    /// no-new-privileges. There is no way back. With a listener, its descriptor is returned: close-on-exec,
    /// and with its last copy gone the calls in question fail with `ENOSYS`.
    pub fn install(&self) -> Result<Option<OwnedFd>, Errno> {
        const SECCOMP_SET_MODE_FILTER: u32 = 1;
        let program = libc::sock_fprog {
            len: self.len() as u16,
            filter: self.bytes.as_ptr().cast_mut().cast(),
        };
        // SAFETY: `len` instructions of eight bytes are there; the kernel copies them, at any alignment.
        let answer = checked(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        })?;
        Ok(self.listens().then(|| {
            // SAFETY: with the flag, success is a new descriptor that nobody else owns.
            unsafe { OwnedFd::from_raw_fd(answer as RawFd) }
        }))
    }

    /// Does it come with a listener?
    pub fn listens(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// Does a call of this name, with no particular arguments, pass?
    pub fn lets_pass(&self, name: &str) -> bool {
        self.verdict(name).is_some_and(Action::lets_pass)
    }

    /// As [`lets_pass`](Self::lets_pass), or is it up to a listener?
    pub fn may_pass(&self, name: &str) -> bool {
        let may = |a: Action| a.lets_pass() || a == Action::NOTIFY;
        self.verdict(name).is_some_and(may)
    }

    fn verdict(&self, name: &str) -> Option<Action> {
        let number = Abi::Native.number(name)?;
        Some(Action(self.judge(&Call {
            audit: Abi::Native.audit(),
            number,
            arguments: [0; 6],
        })))
    }

    fn instruction(&self, index: usize) -> Option<Instruction> {
        let b = self.bytes.get(index * 8..index * 8 + 8)?;
        Some(Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jump_true: b[2],
            jump_false: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
    }

    /// Runs the filter as the kernel would. A program that leaves its bounds kills, as there.
    pub fn judge(&self, call: &Call) -> u32 {
        let mut accumulator = 0u32;
        let mut next = 0;
        while let Some(i) = self.instruction(next) {
            next += 1;
            let branch = |taken: bool| usize::from(if taken { i.jump_true } else { i.jump_false });
            match i.code {
                LOAD => accumulator = word(call, i.k),
                AND => accumulator &= i.k,
                JUMP => next += i.k as usize,
                JUMP_EQUAL => next += branch(accumulator == i.k),
                JUMP_GREATER => next += branch(accumulator > i.k),
                JUMP_GREATER_EQUAL => next += branch(accumulator >= i.k),
                RETURN => return i.k,
                _ => break,
            }
        }
        Action::KILL_PROCESS.bits()
    }
}

/// `struct seccomp_data`: number, audit architecture, instruction pointer, six arguments.
fn word(call: &Call, offset: u32) -> u32 {
    match offset {
        0 => call.number,
        4 => call.audit,
        16.. => {
            let argument = call
                .arguments
                .get((offset as usize - 16) / 8)
                .copied()
                .unwrap_or(0);
            let high = (offset % 8 == 4) == cfg!(target_endian = "little");
            (if high { argument >> 32 } else { argument }) as u32
        }
        _ => 0,
    }
}
