//! Every way in which a lifecycle call can fail, and how a failure of the container's own side
//! travels back: as data (step, errno, path), never as a formatted text.

use std::path::{Path, PathBuf};

use corten_spec::Kind;
use rustix::io::Errno;

/// Why a container could not be made, started, entered or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The spec contradicts itself or the specification.
    #[error("{field} of the spec {problem}")]
    Spec { field: String, problem: String },
    /// The spec asks for something that this runtime does not honour.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    #[error("container {id} does not exist")]
    NotFound { id: String },
    #[error("container {id} already exists")]
    AlreadyExists { id: String },
    /// The container is in another state than the call needs.
    ///
    /// "container not running" is what containerd looks for when a signal comes too late.
    #[error("cannot {action} container {id}: {}", match *action { "kill" => "container not running", _ => status })]
    Conflict {
        action: &'static str,
        id: String,
        status: &'static str,
    },
    /// The program is not in the container, or is not found on its PATH. Exit code 127.
    ///
    /// "executable file not found in $PATH" and "no such file or directory" are what podman and docker
    /// look for to tell 127.
    #[error("exec {path:?}: {}", not_found_text(path))]
    ExecutableNotFound { path: PathBuf, errno: i32 },
    /// The program is there and cannot be executed. Exit code 126.
    #[error("exec {path:?}: {}", text(*errno))]
    ExecutableDenied { path: PathBuf, errno: i32 },
    /// A system call refused, in this process or in the container's init.
    #[error("cannot {step}{}: {}", of(path), text(*errno))]
    Step {
        step: &'static str,
        path: PathBuf,
        errno: i32,
    },
    #[error("cannot {step}: {source}{}", source.errno().map_or(String::new(), |e| format!(": {}", text(e.raw_os_error()))))]
    Cgroup {
        step: &'static str,
        #[source]
        source: corten_cgroup::Error,
    },
    /// A helper with rights that we do not have would not map the ids of a user namespace.
    #[error("{program} {problem}")]
    IdMap {
        program: &'static str,
        problem: String,
    },
    /// A file of the state folder is damaged or of another version.
    #[error("state file {path:?} {problem}")]
    State { path: PathBuf, problem: String },
    #[error("{kind} hook {path:?} {problem}")]
    Hook {
        kind: &'static str,
        path: PathBuf,
        problem: String,
    },
    /// Init ended before it could say why (killed from outside, or by its own seccomp filter).
    #[error("the container's process ended while it was being set up ({status})")]
    Died { status: String },
}

impl Error {
    /// The sort of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Spec { .. } => Kind::Invalid,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::NotFound { .. } | Self::ExecutableNotFound { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::Conflict { .. } => Kind::Conflict,
            Self::ExecutableDenied { .. } | Self::IdMap { .. } => Kind::Denied,
            Self::Cgroup { source, .. } => source.kind(),
            Self::Step { errno, .. } => match Errno::from_raw_os_error(*errno) {
                Errno::PERM | Errno::ACCESS => Kind::Denied,
                Errno::NOENT => Kind::NotFound,
                Errno::BUSY => Kind::Busy,
                _ => Kind::Internal,
            },
            Self::State { .. } | Self::Hook { .. } | Self::Died { .. } => Kind::Internal,
        }
    }

    /// What was being done, for example `mount`.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Spec { .. } | Self::Unsupported { .. } => "plan",
            Self::NotFound { .. } | Self::AlreadyExists { .. } | Self::State { .. } => "find",
            Self::Conflict { action, .. } => action,
            Self::ExecutableNotFound { .. } | Self::ExecutableDenied { .. } => "execute",
            Self::Step { step, .. } | Self::Cgroup { step, .. } => step,
            Self::Hook { .. } => "run hook",
            Self::IdMap { .. } => "map ids",
            Self::Died { .. } => "set up",
        }
    }

    /// The kernel's error number, where the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::ExecutableNotFound { errno, .. }
            | Self::ExecutableDenied { errno, .. }
            | Self::Step { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// What it was done to.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::ExecutableNotFound { path, .. }
            | Self::ExecutableDenied { path, .. }
            | Self::Step { path, .. }
            | Self::State { path, .. }
            | Self::Hook { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The exit code that a command line gives: 127 and 126 as a shell does, else 1 as runc.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ExecutableNotFound { .. } => 127,
            Self::ExecutableDenied { .. } => 126,
            _ => 1,
        }
    }
}

pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Spec {
        field: field.into(),
        problem: problem.into(),
    }
}

pub(crate) fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into() }
}

/// A step of ours, on this side, that the kernel refused.
pub(crate) fn failed(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Step {
        step,
        path: path.into(),
        errno: errno.raw_os_error(),
    }
}

/// As [`failed`], for the standard library's errors.
pub(crate) fn failed_io(
    step: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::Step {
        step,
        path: path.into(),
        errno: error.raw_os_error().unwrap_or(0),
    }
}

/// The kernel's words, lower case, without the number that the standard library adds.
fn text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

fn of(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" {path:?}"),
    }
}

fn not_found_text(path: &Path) -> &'static str {
    match path.components().count() > 1 || path.is_absolute() {
        true => "no such file or directory",
        false => "executable file not found in $PATH",
    }
}
