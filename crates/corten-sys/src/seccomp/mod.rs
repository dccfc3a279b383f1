//! Seccomp filters: from names of system calls to a program for the kernel.
//!
//! ```text
//!   Policy ──names──▶ numbers of each ABI ──merge──▶ ranges ──▶ binary search tree ──▶ Filter
//! ```
//! Neighbouring numbers with one verdict become one range, so Docker's policy of 400 names takes about
//! a hundred instructions, and a call is judged in seven or eight of them. (A chain of comparisons, one a
//! name, costs the kernel 20 times as much to check and translate at each start.)
//!
//! Meaning, where the runtime specification is silent: the conditional rules of a call are tried in the
//! order given, then its first unconditional rule, then the default. Two conditions of one rule on the
//! same argument are alternatives, as in runc. (In libseccomp an unconditional rule cancels the conditional
//! ones of its call, before and after it; what a policy says of one argument is lost then.) Names that no ABI knows are ignored, as libseccomp does.
//! Calls newer than every name of a policy that refuses by default give `ENOSYS`, so that C libraries
//! fall back to older calls.

mod compile;
pub mod listener;
mod names;
pub mod probe;
mod program;

pub use names::Abi;
pub use program::{Call, Filter};

/// What the kernel does with a call: a `SECCOMP_RET_*` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action(u32);

impl Action {
    pub const KILL_PROCESS: Self = Self(0x8000_0000);
    pub const KILL_THREAD: Self = Self(0);
    pub const TRAP: Self = Self(0x0003_0000);
    pub const NOTIFY: Self = Self(0x7fc0_0000);
    pub const LOG: Self = Self(0x7ffc_0000);
    pub const ALLOW: Self = Self(0x7fff_0000);

    /// The call fails with this error number; the kernel caps it at 4095.
    pub const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    /// A tracer is told this message; without a tracer the call fails with `ENOSYS`.
    pub const fn trace(message: u16) -> Self {
        Self(0x7ff0_0000 | message as u32)
    }

    pub fn bits(self) -> u32 {
        self.0
    }

    /// Does a call judged so reach the kernel?
    pub fn lets_pass(self) -> bool {
        self == Self::ALLOW || self == Self::LOG
    }
}

/// A comparison of one argument, all 64 bits of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Equal(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    /// `argument & mask == value & mask`
    Masked {
        mask: u64,
        value: u64,
    },
}

/// A test of the argument number `index` (0 to 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub index: u8,
    pub test: Test,
}

/// Calls of these names that meet all conditions get `action`.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    pub names: &'a [String],
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// A whole policy.
#[derive(Clone, Debug)]
pub struct Policy<'a> {
    pub default: Action,
    /// The ABIs to be judged by name. Calls by any other kill the process.
    pub abis: Vec<Abi>,
    pub rules: Vec<Rule<'a>>,
    /// `SECCOMP_FILTER_FLAG_*` for the installation.
    pub flags: u32,
}

/// All threads at once: nothing to a process that has one.
pub const FLAG_TSYNC: u32 = 1;
pub const FLAG_LOG: u32 = 2;
pub const FLAG_SPEC_ALLOW: u32 = 4;
/// The installation gives a descriptor on which the calls judged [`Action::NOTIFY`] are heard (Linux 5.0).
pub const FLAG_NEW_LISTENER: u32 = 8;
/// A call that a listener has taken up is interrupted by fatal signals only (Linux 5.19). Without a listener
/// the kernel refuses the flag.
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Why a policy makes no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("argument index {0} is above 5")]
    Argument(u8),
    #[error("the filter has {0} instructions, the kernel takes 4096")]
    Long(usize),
}

impl Policy<'_> {
    pub fn compile(&self) -> Result<Filter, CompileError> {
        compile::compile(self)
    }
}

#[cfg(test)]
mod tests;
