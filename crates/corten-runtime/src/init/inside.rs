//! What the maker prepares where it may, done by init where only init may: without root, the right to mount
//! comes with the container's own user and mount namespaces.
//!
//! Until the change of root, init sees the host's tree as its maker does, so the same code does both. It
//! allocates, which is safe here: init is a copy of a process of one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use corten_sys::namespace::{self, Namespaces};
use corten_sys::{process, pty, socket};
use rustix::fs::{CWD, Mode, OFlags, Uid, fchown, openat};
use rustix::io::Errno;

use super::program::Parts;
use crate::Error;
use crate::handshake::{Failure, Step};
use crate::parent::group::View;
use crate::parent::prepare::{self, Prepared};
use crate::plan::Plan;
use crate::request::Rootfs;

/// What it takes to prepare.
#[derive(Debug)]
pub(crate) struct Inside {
    pub rootfs: Rootfs,
    pub view: View,
    /// Of the terminal, if there is to be one.
    pub size: Option<(u16, u16)>,
    /// Where the terminal's master goes.
    pub console: OwnedFd,
}

impl Inside {
    pub fn prepare<'a>(self, plan: &Plan, parts: &mut Parts) -> Result<Prepared, Failure<'a>> {
        let prepared = prepare::prepare(plan, self.rootfs, &self.view, self.size);
        let (prepared, terminal) = prepared.map_err(failure)?;
        if let Some(terminal) = terminal {
            hand_over(&terminal, &self.console)?;
            parts.terminal = Some(terminal.slave);
        }
        Ok(prepared)
    }
}

/// A terminal of the container's devpts, for a process that was added to it.
pub(crate) fn terminal<'a>(
    console: &OwnedFd,
    size: (u16, u16),
    uid: u32,
) -> Result<OwnedFd, Failure<'a>> {
    let open = || -> Result<pty::Terminal, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, c"/", flags, Mode::empty())?;
        let terminal = pty::open_in_root(&root)?;
        if uid != 0 {
            // It was verified to be a slave of devpts.
            fchown(&terminal.slave, Some(Uid::from_raw(uid)), None)?;
        }
        if size != (0, 0) {
            pty::resize(&terminal.master, size.0, size.1)?;
        }
        Ok(terminal)
    };
    let terminal = open().map_err(Failure::at(Step::OpenTerminal, b"/dev/pts"))?;
    hand_over(&terminal, console)?;
    Ok(terminal.slave)
}

/// Sends the terminal's master to the maker.
fn hand_over<'a>(terminal: &pty::Terminal, console: &OwnedFd) -> Result<(), Failure<'a>> {
    socket::send_fd(console, b"/dev/ptmx", terminal.master.as_fd())
        .map_err(Failure::at(Step::Handshake, b""))
}

/// The library's error as what travels to the maker.
fn failure<'a>(error: Error) -> Failure<'a> {
    let errno = error.errno().map_or(Errno::INVAL, Errno::from_raw_os_error);
    let path = error.path().map(|p| p.to_path_buf()).unwrap_or_default();
    // Leaked on purpose: this process reports and ends.
    let path: &'a [u8] = path.into_os_string().into_vec().leak();
    Failure::new(Step::named(error.step()), errno, path)
}

/// A time namespace with clocks of its own, for the process that is forked next; without root, its maker cannot
/// make one for the moment of the clone.
pub(crate) fn time_offsets<'a>(offsets: &str) -> Result<(), Failure<'a>> {
    let write = || -> Result<(), Errno> {
        namespace::unshare(Namespaces::TIME)?;
        // The file is root's unless we may be looked at; so far we are alone.
        process::set_dumpable()?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(CWD, c"/proc/self/timens_offsets", flags, Mode::empty())?;
        process::set_undumpable()?;
        rustix::io::write(&file, offsets.as_bytes()).map(drop)
    };
    write().map_err(Failure::at(Step::TimeOffsets, b""))
}
