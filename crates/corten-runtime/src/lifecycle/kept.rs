//! Settings of the namespaces that a restored container shares with others.
//!
//! criu sees no difference between a namespace that it has made and one that it has joined: what the images say of the host's name and
//! of the limits of System V IPC it writes into either. A pod whose container goes on from a checkpoint would have the name
//! of the pod that it was in. So what is set there is read before, and set again before the container's processes run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use corten_sys::namespace::{Namespaces, enter};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, failed, failed_io};
use crate::plan::Plan;

/// Files below `/proc/sys`, which show the namespace of the thread that reads them.
const UTS: &[&str] = &["kernel/hostname", "kernel/domainname"];
const IPC: &[&str] = &[
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "fs/mqueue/msg_default",
    "fs/mqueue/msg_max",
    "fs/mqueue/msgsize_default",
    "fs/mqueue/msgsize_max",
    "fs/mqueue/queues_max",
];

/// What was set.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<Shared>);

#[derive(Debug)]
struct Shared {
    kind: Namespaces,
    namespace: OwnedFd,
    values: Vec<(&'static str, Vec<u8>)>,
}

impl Kept {
    /// Of the namespaces that the plan joins.
    pub fn read(plan: &Plan) -> Result<Self, Error> {
        let mut kept = Self::default();
        for (kind, path) in &plan.namespaces.join {
            let names = match *kind {
                Namespaces::UTS => UTS,
                Namespaces::IPC => IPC,
                _ => continue,
            };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let namespace = openat(CWD, path, flags, Mode::empty())
                .map_err(failed("open the namespace", path))?;
            let values = within(&namespace, *kind, || {
                names.iter().map(|n| read(n)).collect()
            });
            let values: Vec<_> = values.map_err(failed_io("read the settings of", path))?;
            kept.0.push(Shared {
                kind: *kind,
                namespace,
                values: values.into_iter().flatten().collect(),
            });
        }
        Ok(kept)
    }

    pub fn put_back(&self) -> Result<(), Error> {
        for shared in &self.0 {
            let write = || {
                let mut values = shared.values.iter();
                values.try_for_each(|(name, value)| write(name, value))
            };
            within(&shared.namespace, shared.kind, write)
                .map_err(failed_io("put back", "the settings of a shared namespace"))?;
        }
        Ok(())
    }
}

/// Does this on a thread that has gone to the namespace, and ends.
fn within<T: Send>(
    namespace: impl AsFd,
    kind: Namespaces,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = namespace.as_fd();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            enter(namespace, kind)?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

/// `None`: this kernel has no such setting.
fn read(name: &'static str) -> io::Result<Option<(&'static str, Vec<u8>)>> {
    match std::fs::read(Path::new("/proc/sys").join(name)) {
        Ok(value) => Ok(Some((name, value))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(name: &'static str, value: &[u8]) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    match std::fs::read(&path)? == value {
        true => Ok(()),
        false => std::fs::write(&path, value),
    }
}
