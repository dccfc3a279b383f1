//! Control groups v1, v2 and hybrid behind one type.
//!
//! [`Layout`] says how this host mounts them; [`Cgroup`] is one container's
//! group in every hierarchy at once. Limits are decided first, by pure code
//! ([`plan`](crate::plan)): an OCI resource list and a few observed values
//! become a list of writes. Thin code then carries the writes out and names
//! the value, the file and the group of whatever the kernel refuses.
//!
//! ```text
//! Layout::probe ── Cgroup::create ── apply ── entry ──▶ (the container lives here)
//!                  Cgroup::open ──── stats, pids, freeze, thaw, kill, oom_events
//!                                                       └── delete (waits until it is empty)
//! ```
//!
//! [`resctrl`] is Intel's way to share caches and memory bandwidth, which is no control group but is asked for
//! like one.
//!
//! This crate keeps nothing on disk, starts no process, and skips no limit: what
//! cannot be applied is refused by name. It speaks to systemd only if it is asked to
//! ([`systemd`]).

#![forbid(unsafe_code)]

mod below;
mod delegate;
pub mod detail;
mod device;
mod dir;
mod error;
mod freeze;
mod group;
mod kill;
mod layout;
mod oom;
mod permit;
pub mod plan;
mod remove;
pub mod resctrl;
pub mod stats;
mod subgroup;
pub mod systemd;

pub use error::Error;
pub use group::{Cgroup, Entry};
pub use layout::{Hierarchy, Layout};
pub use oom::OomWatch;
pub use permit::{is_refusal, own_group};
pub use stats::Stats;
pub use subgroup::Below;
