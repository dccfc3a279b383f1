//! The `start` action: finds the shim of a container's group, or starts one.
//!
//! ```text
//!   lock the folder of sockets ─▶ somebody answers at the group's? ── yes ──▶ its address
//!                                    └── no ─▶ take the place of a dead one's socket, listen, start `serve`
//! ```
//! The lock makes two `start`s of one pod that run at once end in one shim, and keeps a shim that is about to end from
//! taking away its successor's socket ([`Place::vacate`]).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_cgroup::{Cgroup, Layout};
use corten_spec::Digest;
use corten_sys::spawn::{Program, spawn};
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use crate::Error;
use crate::client::{Client, NAME, PID_FILE};
use crate::command::{Flags, state_root, usage};
use crate::listen::bind_in;
use crate::params::{self, Asked};

const STDIN_MAX: u64 = 4 << 20;
/// The annotations that name the group of a container, in their order.
pub const GROUPS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];
/// A shim may end between our finding it and its answer; then there is place for another.
const TRIES: u32 = 5;
/// For the answer of a shim that runs: it may be making another container, or be waiting for criu.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers `start`: finds the group's shim or starts one, and returns what to print.
pub fn start(flags: &Flags) -> Result<Vec<u8>, Error> {
    let asked = params::read(&stdin()?, flags)?;
    let bundle = flags.bundle()?;
    let path = socket_path(&asked, &group(&bundle, &asked.id)?);
    // First, so that `delete` finds the socket, whoever is killed meanwhile.
    write(&bundle, "address", &format!("unix://{}", path.display()))?;
    let pid = find_or_launch(&asked, flags, &bundle, &path)?;
    write(&bundle, PID_FILE, &pid.to_string())?;
    Ok(asked.answer(&path))
}

fn write(bundle: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = bundle.join(name);
    std::fs::write(&path, text).map_err(|source| Error::File {
        step: "write",
        path,
        source,
    })
}

pub fn stdin() -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let stdin = io::stdin();
    // A person who tries it out would wait for themselves.
    if !stdin.is_terminal() {
        let read = stdin.lock().take(STDIN_MAX).read_to_end(&mut bytes);
        read.map_err(|source| Error::File {
            step: "read",
            path: "/dev/stdin".into(),
            source,
        })?;
    }
    Ok(bytes)
}

/// The containers of a pod share a shim, whose name is that of the group: the annotations of containerd's shim for runc,
/// in its order.
fn group(bundle: &Path, id: &str) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let path = bundle.join("config.json");
    let file = |source| Error::File {
        step: "read",
        path: path.clone(),
        source,
    };
    let bytes = match std::fs::read(&path) {
        // A sandbox has no configuration of its own.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(id.into()),
        answer => answer.map_err(file)?,
    };
    if bytes.is_empty() {
        return Ok(id.into());
    }
    let spec: Option<Annotated> = serde_json::from_slice(&bytes).map_err(|e| file(e.into()))?;
    let annotations = spec.map(|s| s.annotations).unwrap_or_default();
    let named = GROUPS.iter().find_map(|name| annotations.get(*name));
    Ok(named.filter(|g| !g.is_empty()).map_or(id, |g| g).into())
}

fn socket_path(asked: &Asked, group: &str) -> PathBuf {
    let name = format!("{}/{}/{group}", asked.address, asked.namespace);
    asked.sockets.join(Digest::of(name.as_bytes()).hex())
}

fn find_or_launch(asked: &Asked, flags: &Flags, bundle: &Path, path: &Path) -> Result<u32, Error> {
    let socket = |source| Error::Socket {
        path: path.into(),
        source,
    };
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o711).create(&asked.sockets);
    made.map_err(socket)?;
    for _ in 0..TRIES {
        // Who holds it waits for no shim: one that hangs must hold up its own pod only.
        let lock = lock(&asked.sockets).map_err(socket)?;
        let Ok(stream) = UnixStream::connect(path) else {
            return launch(asked, flags, bundle, path);
        };
        drop(lock);
        stream.set_read_timeout(Some(PATIENCE)).map_err(socket)?;
        match Client::new(stream, &asked.id).connect_info() {
            Ok((pid, _)) => return Ok(pid),
            // It is about to end, and its name is free by now.
            Err(Error::Broken { source, .. }) if source.kind() != io::ErrorKind::TimedOut => {}
            Err(error) => return Err(error),
        }
    }
    Err(socket(io::ErrorKind::ConnectionReset.into()))
}

/// Held until it is closed, and by nobody who is dead.
fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let folder = OwnedFd::from(std::fs::File::open(folder)?);
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// Starts `serve` on a listening socket, and leaves it behind.
fn launch(asked: &Asked, flags: &Flags, bundle: &Path, path: &Path) -> Result<u32, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let listener = bind_in(&asked.sockets, &name).map_err(|source| Error::Socket {
        path: path.into(),
        source,
    })?;
    match spawn_serve(asked, flags, bundle, path, &listener) {
        Ok(pid) => Ok(pid),
        Err(error) => {
            // The error is what counts: at worst the next start finds a dead socket.
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}

fn spawn_serve(
    asked: &Asked,
    flags: &Flags,
    bundle: &Path,
    path: &Path,
    listener: &impl AsFd,
) -> Result<u32, Error> {
    // The shim is born where we are.
    enter(&asked.options.shim_cgroup)?;
    yield_to_containerd();
    let log = log(bundle);
    let state_root = state_root(flags, &asked.namespace);
    let mut arguments: Vec<&OsStr> = vec![NAME.as_ref()];
    let pairs: [(&str, &OsStr); 6] = [
        ("-namespace", asked.namespace.as_ref()),
        ("-id", asked.id.as_ref()),
        ("-address", asked.address.as_ref()),
        ("-bundle", bundle.as_os_str()),
        ("-state-root", state_root.as_os_str()),
        ("-socket", path.as_os_str()),
    ];
    for (flag, value) in &pairs {
        arguments.extend([OsStr::new(flag), value]);
    }
    if asked.debug {
        arguments.push("-debug".as_ref());
    }
    arguments.push("serve".as_ref());
    let exe = Path::new("/proc/self/exe");
    spawn(&Program {
        path: exe,
        arguments: &arguments,
        environment: &[("TTRPC_ADDRESS", asked.ttrpc.as_ref())],
        stdio: [None, None, log.as_ref().map(AsFd::as_fd)],
        descriptors: &[listener.as_fd()],
        session: true,
    })
    .map_err(|errno| Error::Spawn {
        path: exe.into(),
        source: errno.into(),
    })
}

/// Moves this process into the control group that the options name for the shim.
fn enter(group: &str) -> Result<(), Error> {
    if group.is_empty() {
        return Ok(());
    }
    let bad = |e: corten_cgroup::Error| {
        usage(format!("ShimCgroup {group:?}: {}", corten_spec::chain(&e)))
    };
    let layout = Layout::probe().map_err(bad)?;
    let entry = Cgroup::open(&layout, group)
        .and_then(|g| g.entry())
        .map_err(bad)?;
    let mut files = entry.v1_tasks;
    if let Some(folder) = &entry.v2 {
        use rustix::fs::{Mode, OFlags, openat};
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = openat(folder, c"cgroup.procs", flags, Mode::empty());
        files.push(procs.map_err(|source| Error::Kernel {
            step: "open the cgroup.procs of ShimCgroup",
            source,
        })?);
    }
    for file in &files {
        rustix::io::write(file, b"0").map_err(|source| Error::Kernel {
            step: "enter ShimCgroup",
            source,
        })?;
    }
    Ok(())
}

/// Where memory runs out, the kernel shall sooner take a shim than the daemon that started it.
fn yield_to_containerd() {
    let read =
        |path: &str| -> Option<i32> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let daemon = rustix::process::getppid().map_or(1, |p| p.as_raw_nonzero().get());
    const OWN: &str = "/proc/self/oom_score_adj";
    if let (Some(daemon), Some(own)) = (read(&format!("/proc/{daemon}/oom_score_adj")), read(OWN))
        && own <= daemon
        && daemon < 1000
    {
        // A preference, which a kernel may refuse.
        let _ = std::fs::write(OWN, (daemon + 1).to_string());
    }
}

/// Where the shim of this bundle listens, or did.
pub fn place(flags: &Flags, bundle: &Path) -> Option<PathBuf> {
    let written = std::fs::read_to_string(bundle.join("address"));
    let written = written.map(|a| PathBuf::from(a.strip_prefix("unix://").unwrap_or(&a)));
    // containerd may be removing the bundle at this moment. The name of a shim that serves nobody else is known.
    written.ok().or_else(|| {
        let asked = params::read(&[], flags).ok()?;
        Some(socket_path(&asked, &asked.id))
    })
}

/// Removes the socket that a dead shim of this bundle has left. A pod's shim that serves others is not dead.
pub fn forget(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let Some(folder) = path.parent().filter(|_| is_socket) else {
        return;
    };
    // Nobody starts a successor between the look and the removal.
    if let Ok(_lock) = lock(folder)
        && UnixStream::connect(path).is_err()
    {
        // Gone already, or the next shim of this name replaces it.
        let _ = std::fs::remove_file(path);
    }
}

/// The name under which a shim is found, as long as it is that shim's.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl Place {
    /// Of the socket at `path`, which must be ours now.
    pub fn of(path: PathBuf) -> Self {
        let file = std::fs::symlink_metadata(&path).ok();
        let file = file.map(|m| (m.dev(), m.ino()));
        Self { path, file }
    }

    /// Takes it away, unless another shim has it by now. From here on nobody finds us.
    pub fn vacate(&mut self) {
        let Some(file) = self.file.take() else {
            return;
        };
        let Ok(_lock) = lock(self.path.parent().unwrap_or(Path::new("/"))) else {
            return;
        };
        let now = std::fs::symlink_metadata(&self.path);
        if now.is_ok_and(|m| (m.dev(), m.ino()) == file) {
            // Whoever removes the bundle may have been faster.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// containerd reads a FIFO named `log`. Opened for both, it neither waits for containerd nor breaks
/// when it goes; lines that nobody reads are lost when it is full.
fn log(bundle: &Path) -> Option<OwnedFd> {
    let mut options = std::fs::OpenOptions::new();
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let path = bundle.join("log");
    let fifo = std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_fifo());
    let file = fifo.then(|| {
        options
            .read(true)
            .write(true)
            .custom_flags(nonblock)
            .open(path)
    });
    file?.ok().map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_the_annotations_of_containerds_shim() {
        let dir = tempfile::tempdir().unwrap();
        let of = |annotations: serde_json::Value| {
            let spec = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations});
            std::fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
            group(dir.path(), "web").unwrap()
        };
        let (sandbox, own) = (
            "io.kubernetes.cri.sandbox-id",
            "io.containerd.runc.v2.group",
        );
        assert_eq!(of(serde_json::json!({})), "web");
        assert_eq!(of(serde_json::json!({sandbox: "pod"})), "pod");
        assert_eq!(of(serde_json::json!({sandbox: "pod", own: "mine"})), "mine");
        assert_eq!(of(serde_json::json!({sandbox: ""})), "web");
        for no_spec in ["", "null"] {
            std::fs::write(dir.path().join("config.json"), no_spec).unwrap();
            assert_eq!(group(dir.path(), "web").unwrap(), "web");
        }
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(group(dir.path(), "web").is_err());
    }

    #[test]
    fn a_place_is_left_to_a_successor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _first = bind_in(dir.path(), "s").unwrap();
        let mut place = Place::of(path.clone());
        let _second = bind_in(dir.path(), "s").unwrap();
        place.vacate();
        assert!(path.exists());
        let mut place = Place::of(path.clone());
        place.vacate();
        assert!(!path.exists());
    }
}
