//! A supervisor of our own, started.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use corten_spec::ContainerId;
use corten_sys::spawn::{Program, spawn as start_program};

use super::{Client, NAME, PID_FILE, SOCKET, connect};
use crate::{Error, listen};

/// A shim to be started for one container.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// The binary; [`Self::own_exe`] is this very program.
    pub exe: &'a Path,
    /// Has `config.json`; gets `shim.sock`, `shim.pid` and, if asked for, `attach.sock`.
    pub bundle: &'a Path,
    pub id: &'a ContainerId,
    pub namespace: &'a str,
    pub state_root: &'a Path,
    /// Sockets for [`LoopbackForward`], which refers to them by their place here.
    pub inherit: Vec<OwnedFd>,
    /// Where the shim's own complaints go; `None`: nowhere.
    pub log: Option<OwnedFd>,
}

impl SpawnRequest<'_> {
    pub fn own_exe() -> &'static Path {
        Path::new("/proc/self/exe")
    }
}

/// Starts a shim. Returns as soon as it was started: requests wait in its socket until it reads.
pub fn spawn(request: &SpawnRequest<'_>) -> Result<Client, Error> {
    let path = request.bundle.join(SOCKET);
    let socket = |source| Error::Socket {
        path: path.clone(),
        source,
    };
    let listener = listen::bind_in(request.bundle, SOCKET).map_err(socket)?;
    // Waits in the queue before there is anybody to accept: the shim ends when its last visitor goes, and a visitor who
    // only looked in (`ps`) must not be the last one before us.
    let mut client = connect(request.bundle, request.id)?;
    let count = request.inherit.len().to_string();
    let arguments: [&OsStr; 13] = [
        NAME.as_ref(),
        "-namespace".as_ref(),
        request.namespace.as_ref(),
        "-id".as_ref(),
        request.id.as_str().as_ref(),
        "-bundle".as_ref(),
        request.bundle.as_os_str(),
        "-state-root".as_ref(),
        request.state_root.as_os_str(),
        "-inherit".as_ref(),
        count.as_ref(),
        "-until-idle".as_ref(),
        "serve".as_ref(),
    ];
    let mut descriptors = vec![listener.as_fd()];
    descriptors.extend(request.inherit.iter().map(AsFd::as_fd));
    let started = start_program(&Program {
        path: request.exe,
        arguments: &arguments,
        environment: &[],
        stdio: [None, None, request.log.as_ref().map(AsFd::as_fd)],
        descriptors: &descriptors,
        session: true,
    });
    let pid = started.map_err(|errno| Error::Spawn {
        path: request.exe.into(),
        source: errno.into(),
    })?;
    let pid_file = request.bundle.join(PID_FILE);
    std::fs::write(&pid_file, pid.to_string()).map_err(|source| Error::File {
        step: "write",
        path: pid_file,
        source,
    })?;
    client.child = Some(pid);
    Ok(client)
}
