//! Container networks: links, addresses, routes and published ports, all over netlink;
//! the CNI caller, and the bundled CNI plugins.
//!
//! - [`cni::Caller`] attaches a container to the network of a [`cni::NetworkConfigList`] and
//!   takes it off again; our plugins run in process, others by exec.
//! - [`network::Bridge`] describes the network that `corten run` uses.
//! - [`recover`] tells what a network still holds, and frees it.
//! - [`plugin::main`] is the plugins' command line.
//!
//! ```text
//!   engine ──▶ cni::Caller ──▶ plugin::{bridge, ptp, portmap, …}, or exec of another's
//!                                 │        │
//!              address::Store ◀───┤        ├───▶ firewall::Firewall   (nf_tables)
//!                 (host-local)    └────────┴───▶ link::Links          (rtnetlink)
//! ```
//!
//! Everything here blocks. Nothing runs a command-line tool, and what belongs to a container
//! carries its id: a link in its alias, the address in its file, the port in its map element.

#![forbid(unsafe_code)]

pub mod address;
pub mod cni;
pub mod definition;
pub mod dhcp;
pub mod error;
mod failpoint;
pub mod firewall;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod link;
mod nameless;
pub mod names;
pub mod network;
pub mod owner;
pub mod plugin;
mod process;
pub mod recover;
mod sysctl;
pub mod wayout;

pub use error::Error;
