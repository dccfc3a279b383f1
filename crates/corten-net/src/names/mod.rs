//! Names of containers: the resolver that answers for them, and the texts of their `/etc/hosts` and
//! `/etc/resolv.conf`.
//!
//! ```text
//!  engine ── Resolver::register ──▶ FOLDER/ID.json ──▶ server: one process, one thread
//!                                                        │ in each container's network namespace:
//!  a container ── 127.0.0.11:53 ── nf_tables ──▶ its socket, UDP and TCP
//!                                                        │ names of its own networks: from memory
//!                                                        └ other names: the host's servers, asked
//!                                                          from the host's namespace
//! ```
//!
//! A container hears only the names of networks that it is on itself. The process is started by
//! whoever finds none, ends with the last container, and may be killed at any time: the next
//! [`Resolver::ensure`] starts another that reads the same folder. Why so: docs/design/0013-names.md.

mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod packet;
mod registration;
mod resolver;
pub mod server;
mod zone;

pub use files::{ResolverOverrides, hosts, resolv_conf, resolv_conf_of_served, upstream};
pub use registration::{Entry, Membership, Registration};
pub use resolver::Resolver;

use std::net::Ipv4Addr;

/// Where a container's lookups go: an address of every container's own loopback, so that it is the
/// same on every network, of either family, and nobody else's packets get there.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port of DNS.
pub const PORT: u16 = 53;
