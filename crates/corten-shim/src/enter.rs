//! The action `enter`: a program in a mount namespace of its own, into which the host's mounts go and out of
//! which none come. So what a foreign shim mounts is seen by nobody else, and ends with it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use corten_sys::mount::{Change, Propagation, change};
use corten_sys::namespace::{Namespaces, unshare};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::Error;

/// Becomes the program. Returns only if that fails.
pub fn enter(program: &[OsString]) -> Error {
    let [path, arguments @ ..] = program else {
        return Error::Usage {
            problem: "enter: no program".into(),
        };
    };
    if let Err(source) = separate() {
        return Error::Kernel {
            step: "make a mount namespace for a shim",
            source,
        };
    }
    Error::Spawn {
        path: path.into(),
        source: Command::new(path).args(arguments).exec(),
    }
}

fn separate() -> Result<(), Errno> {
    unshare(Namespaces::MOUNT)?;
    let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let slaves = Change {
        propagation: Some(Propagation::Slave),
        recursive: true,
        ..Change::default()
    };
    change(&root, &slaves)
}
