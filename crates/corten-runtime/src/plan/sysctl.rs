//! Kernel settings of the container's own namespaces, and of none else.

use std::path::PathBuf;

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::Linux;

use super::namespaces;
use crate::error::{Error, invalid};

/// A value for a file below `/proc`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// `sys/net/ipv4/ip_forward`
    pub file: PathBuf,
    pub value: String,
}

pub(crate) fn plan(linux: &Linux, namespaces: &namespaces::Plan) -> Result<Vec<Setting>, Error> {
    const FIELD: &str = "linux.sysctl";
    let mut settings = Vec::new();
    let mut names: Vec<_> = linux.sysctl().iter().flatten().collect();
    names.sort();
    for (name, value) in names {
        // As sysctl(8): with a slash first, slashes separate and dots belong to names.
        let slash = name
            .find(['/', '.'])
            .is_some_and(|at| name.as_bytes()[at] == b'/');
        let path = match slash {
            true => name.clone(),
            false => name
                .chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    c => c,
                })
                .collect(),
        };
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(plain) || path.contains('\0') {
            return Err(invalid(
                FIELD,
                format!("names {name:?}, which is no setting"),
            ));
        }
        let Some(kind) = owner(&path) else {
            let problem = format!("names {name:?}, which is the host's: no namespace separates it");
            return Err(invalid(FIELD, problem));
        };
        if !namespaces.own(kind) {
            let problem =
                format!("names {name:?}, and the container shares that namespace with the host");
            return Err(invalid(FIELD, problem));
        }
        settings.push(Setting {
            file: PathBuf::from("sys").join(path),
            value: value.clone(),
        });
    }
    Ok(settings)
}

/// The kind of namespace that keeps a setting apart (namespaces(7), ipc_namespaces(7)).
fn owner(path: &str) -> Option<Namespaces> {
    const IPC: [&str; 10] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/msg_next_id",
        "kernel/shm_next_id",
    ];
    if path.starts_with("net/") {
        return Some(Namespaces::NETWORK);
    }
    if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        return Some(Namespaces::IPC);
    }
    // Limits on what a user namespace may make (namespaces(7)).
    if path.starts_with("user/") {
        return Some(Namespaces::USER);
    }
    matches!(path, "kernel/domainname" | "kernel/hostname").then_some(Namespaces::UTS)
}
