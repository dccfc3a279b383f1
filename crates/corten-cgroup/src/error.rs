//! What can go wrong with a control group. Each message names the group, and
//! the file and the value where there is one.

use std::path::PathBuf;

use corten_spec::Kind;
use rustix::io::Errno;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot examine {}", path.display())]
    Probe { path: PathBuf, source: Errno },
    #[error("no control groups are mounted at {}", path.display())]
    NotMounted { path: PathBuf },
    #[error("bad cgroup path {path:?}: {reason}")]
    Path { path: String, reason: &'static str },
    #[error("cannot create cgroup {group} in {}", hierarchy.display())]
    Create {
        group: String,
        hierarchy: PathBuf,
        source: Errno,
    },
    #[error("cgroup {group} exists and holds {pids} processes")]
    Populated { group: String, pids: usize },
    #[error("no cgroup {group}")]
    NotFound { group: String },
    #[error("cannot open cgroup {group} in {}", hierarchy.display())]
    Open {
        group: String,
        hierarchy: PathBuf,
        source: Errno,
    },
    #[error("cannot read {file} of {group}")]
    Read {
        file: String,
        group: String,
        source: Errno,
    },
    #[error("unexpected content {content:?} in {file} of {group}")]
    Content {
        content: String,
        file: String,
        group: String,
    },
    #[error("cannot write {value} to {file} of {group}")]
    Write {
        value: String,
        file: String,
        group: String,
        source: Errno,
    },
    #[error(
        "cannot write {value} to {file} of {group}: this host has no {controller} controller there"
    )]
    NoController {
        controller: String,
        value: String,
        file: String,
        group: String,
    },
    #[error("bad value {value} for {setting}: {reason}")]
    Invalid {
        setting: String,
        value: String,
        reason: &'static str,
    },
    #[error("cannot apply {setting}: {reason}")]
    Unsupported {
        setting: String,
        reason: &'static str,
    },
    #[error("cannot {step} the device program of {group}")]
    Program {
        step: &'static str,
        group: String,
        source: Errno,
    },
    #[error("cannot send signal {signal} to process {pid} of {group}")]
    Signal {
        signal: i32,
        pid: i32,
        group: String,
        source: Errno,
    },
    #[error("cannot give {file} of {group} to user {uid}")]
    Give {
        file: String,
        group: String,
        uid: u32,
        source: Errno,
    },
    #[error("cannot wait for {group}")]
    Wait { group: String, source: Errno },
    #[error("{group} did not become {wanted} within {millis} ms ({pids} processes in it)")]
    Timeout {
        group: String,
        wanted: &'static str,
        millis: u64,
        pids: usize,
    },
    #[error("cannot delete cgroup {group} from {}", hierarchy.display())]
    Delete {
        group: String,
        hierarchy: PathBuf,
        source: Errno,
    },
    #[error("systemd is not running: no {}", path.display())]
    NoSystemd { path: PathBuf },
    #[error("cannot {step} the bus at {address}")]
    Bus {
        step: &'static str,
        address: String,
        source: Errno,
    },
    #[error("no bus to reach systemd by: {problem}")]
    NoBus { problem: &'static str },
    #[error("the bus at {address} does not speak D-Bus: {problem}")]
    Protocol {
        address: String,
        problem: &'static str,
    },
    #[error("systemd refused {method}: {message} ({name})")]
    Refused {
        method: &'static str,
        /// D-Bus' name of the error, such as `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        message: String,
    },
    #[error("systemd's job to {job} {unit} ended as {result:?}")]
    Job {
        job: &'static str,
        unit: String,
        result: String,
    },
    #[error("no answer of systemd's to {step} within {seconds} s")]
    Silent { step: &'static str, seconds: u64 },
    #[error("cannot {step} {}{status}", path.display())]
    Resctrl {
        step: &'static str,
        path: PathBuf,
        /// The kernel's reason, in parentheses, or nothing.
        status: String,
        source: Errno,
    },
    #[error("cannot {step} the process that holds {unit}")]
    Holder {
        step: &'static str,
        unit: String,
        source: Errno,
    },
}

impl Error {
    /// The sort of failure, for exit codes and RPC statuses.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotMounted { .. }
            | Self::NoController { .. }
            | Self::Unsupported { .. }
            | Self::NoSystemd { .. } => Kind::Unsupported,
            Self::NoBus { .. } | Self::Silent { .. } => Kind::Unavailable,
            Self::Protocol { .. } | Self::Job { .. } => Kind::Internal,
            Self::Refused { name, .. } => refusal_kind(name),
            Self::Path { .. } | Self::Invalid { .. } => Kind::Invalid,
            Self::Populated { .. } => Kind::AlreadyExists,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Timeout { .. } => Kind::Busy,
            Self::Content { .. } => Kind::Internal,
            // A missing file is a missing kernel feature: the group itself exists.
            Self::Write {
                source: Errno::NOENT,
                ..
            } => Kind::Unsupported,
            Self::Write {
                source: Errno::INVAL | Errno::RANGE | Errno::NODEV | Errno::OPNOTSUPP,
                ..
            } => Kind::Invalid,
            Self::Probe { source, .. }
            | Self::Create { source, .. }
            | Self::Open { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Program { source, .. }
            | Self::Signal { source, .. }
            | Self::Give { source, .. }
            | Self::Wait { source, .. }
            | Self::Bus { source, .. }
            | Self::Holder { source, .. }
            | Self::Resctrl { source, .. }
            | Self::Delete { source, .. } => errno_kind(*source),
        }
    }

    /// The kernel's answer, where there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Probe { source, .. }
            | Self::Create { source, .. }
            | Self::Open { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Program { source, .. }
            | Self::Signal { source, .. }
            | Self::Give { source, .. }
            | Self::Wait { source, .. }
            | Self::Bus { source, .. }
            | Self::Holder { source, .. }
            | Self::Resctrl { source, .. }
            | Self::Delete { source, .. } => Some(*source),
            _ => None,
        }
    }
}

fn refusal_kind(name: &str) -> Kind {
    match name.rsplit('.').next() {
        Some("NoSuchUnit") => Kind::NotFound,
        Some("UnitExists") => Kind::AlreadyExists,
        Some("AccessDenied" | "InteractiveAuthorizationRequired") => Kind::Denied,
        Some("InvalidArgs" | "PropertyReadOnly" | "BadUnitSetting") => Kind::Invalid,
        _ => Kind::Internal,
    }
}

fn errno_kind(errno: Errno) -> Kind {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::SRCH => Kind::NotFound,
        Errno::EXIST => Kind::AlreadyExists,
        Errno::BUSY => Kind::Busy,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Kind::Denied,
        _ => Kind::Internal,
    }
}
