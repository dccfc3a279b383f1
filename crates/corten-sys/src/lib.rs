//! The kernel, safely: the only unsafe code of the project.
//!
//! `rustix` comes first and callers use it directly. What is here is what it has no call for
//! (`clone3`, `mount_setattr`, seccomp, keyrings, …), and a few parts that are more than a call: a
//! [`seccomp`] compiler, paths that stay inside a root ([`rooted`]), and the executable that stands
//! between us and a container's program ([`trampoline`]).
//!
//! Nothing here holds policy: each function does what its name says or returns the kernel's errno.

pub mod ahead;
pub mod bpf;
mod call;
pub mod capability;
pub mod entry;
pub mod exec;
pub mod inherited;
pub mod keyring;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod overlay;
pub mod packet;
pub mod process;
pub mod pty;
pub mod rooted;
pub mod schedule;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod tap;
pub mod trampoline;
pub mod verity;
pub mod weaken;

pub use rustix::io::Errno;
