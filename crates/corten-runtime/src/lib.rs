//! The OCI Runtime Specification: from a `config.json` to a process in its own
//! namespaces, and back to nothing.
//!
//! ```text
//!   spec ──plan──▶ Plan ──prepare──▶ descriptors ──clone3──▶ init ──gate──▶ execve
//!   (pure)        (data)  (parent)                 (one)    (syscalls only)
//! ```
//!
//! The two types to know are [`Create`] (what is asked for) and [`Created`] (a container whose
//! init waits at its gate). [`exec`] adds a process to a running container; [`state`], [`kill`],
//! [`delete`] and the rest find the container by its id in a state folder. [`cli::main`] is all of
//! this behind runc's command line.
//!
//! The library owns the state folder and the container's cgroup. It does not own stdio after the
//! start, does not reap (new processes are children of the caller) and does not configure networks.
//! Callers must be single-threaded around [`create`] and [`exec`]: the clone copies one thread.

#![forbid(unsafe_code)]

pub mod cli;
mod criu;
pub mod document;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod init;
mod lifecycle;
mod parent;
mod plan;
mod request;
pub mod rootfs;
pub mod seccomp_profile;
pub mod spec;
mod state;
#[cfg(feature = "weaken")]
mod weak;

pub use criu::message::ManageCgroups;
pub use error::Error;
pub use lifecycle::{
    cgroup, checkpoint, config, create, delete, exec, kill, list, pause, pids, restore, resume,
    run, start, state, update,
};
pub use request::{
    Checkpoint, Create, Created, Exec, Execed, Images, Options, Restore, Rootfs, Stdio,
};
pub use state::{State, Status};

/// What this runtime can, as JSON: the `features` document of the runtime specification.
pub fn features() -> String {
    cli::features().to_string()
}

/// The kernel settings that a specification asks for, as files below `/proc` and their values; refused where they are not of a
/// namespace that it makes or joins. For who makes the namespaces of a pod without a container.
pub fn sysctls(
    linux: &oci_spec::runtime::Linux,
) -> Result<Vec<(std::path::PathBuf, String)>, Error> {
    let namespaces = plan::namespaces::plan(linux, &plan::namespaces::Around::default())?;
    let settings = plan::sysctl::plan(linux, &namespaces)?;
    Ok(settings.into_iter().map(|s| (s.file, s.value)).collect())
}

/// The newest version of the runtime specification whose words this library knows.
pub const OCI_VERSION: &str = "1.3.0";
