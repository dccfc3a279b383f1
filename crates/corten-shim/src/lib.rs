//! containerd's Task API for containers: stdio, logs, exit status.
//!
//! A shim is the process that stands beside a container, or the containers of one
//! pod. It is their parent, holds their stdio, writes their log, keeps their exit status, and
//! answers on a socket; engines come and go. For our own engine it also starts them again and checks their health.
//!
//! ```text
//!   containerd ──ttrpc──┐                        ┌── pipes, pty ── init, execs, health checks
//!   Corten's engine ────┤  one thread, one poll  ├── log, FIFOs, loggers
//!   attached clients ───┘        (serve)         ├── events to containerd, exit record
//!                                                └── or another's shim, which has the container
//! ```
//!
//! [`main`] is the program; [`client`] starts one and speaks to it; [`attach`] is the
//! protocol of its second socket; [`foreign`] is about others' shims, and cleans up after them. It owns no network, no image and
//! no database, and never mounts anything on the host.

#![forbid(unsafe_code)]

pub mod attach;
mod bootstrap;
mod cleanup;
pub mod client;
mod command;
mod enter;
mod error;
pub mod foreign;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod health;
mod listen;
pub mod log;
mod metrics;
mod options;
mod params;
mod pod;
mod pod_files;
pub mod proto;
mod record;
mod serve;
mod stdio;
mod time;
mod toml;
pub mod ttrpc;
mod whole;

/// What Corten's engine asks beyond containerd's API.
const OWN_SERVICE: &str = "corten.shim.v1.Supervisor";
const SANDBOX_SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

pub use command::main;
pub use error::Error;
pub use health::{Entry as HealthEntry, Report as HealthReport};
pub use record::{ExitRecord, Restarting};
