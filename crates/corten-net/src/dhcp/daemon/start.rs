//! How a daemon begins: for whoever needs one, as nobody's child, and no second one beside it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_spec::chain;
use corten_sys::spawn::{self, Program};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::super::lease::{Folder, key};
use super::super::protocol::{self, Ask};
use super::flags::Flags;
use super::{CLIENT_PATIENCE, LEASES};
use crate::Error;
use crate::error::file_error;

/// How long a daemon that begins waits for one that ends.
const HANDOVER: Duration = Duration::from_secs(2);
/// How long a daemon that was started for containers stays without a lease.
const IDLE: Duration = Duration::from_secs(30);

/// Sees to it that a daemon serves at `socket`: starts `executable` as one, that ends after [`IDLE`] without a lease.
pub fn ensure(executable: &Path, socket: &Path) -> Result<(), Error> {
    let is_there = || protocol::ask(socket, &Ask::status());
    if is_there().is_ok() {
        return Ok(());
    }
    let failed = |e: Errno| file_error("run the DHCP daemon", executable)(e.into());
    let mut at = OsString::from("-socketpath=");
    at.push(socket);
    let idle = format!("-idle={}s", IDLE.as_secs());
    let arguments = [
        "dhcp".as_ref(),
        "daemon".as_ref(),
        at.as_os_str(),
        idle.as_ref(),
        "-detach".as_ref(),
    ];
    let pid = start(executable, &arguments).map_err(failed)?;
    rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::empty()))
        .map_err(failed)?;
    is_there().map(drop)
}

/// DEL where no daemon serves: drops the lease, which then runs out by itself. `false`: a daemon is
/// just beginning or ending, whose leases are its own.
pub fn forget(socket: &Path, ask: &Ask) -> Result<bool, Error> {
    let folder = Folder {
        path: socket.with_extension(LEASES),
    };
    if !folder.path.is_dir() {
        return Ok(true);
    }
    let Some(_lock) = try_lock(&folder.path)? else {
        return Ok(false);
    };
    folder.remove(&key(&ask.container, &ask.network, &ask.ifname))?;
    Ok(true)
}

fn start(executable: &Path, arguments: &[&OsStr]) -> Result<u32, Errno> {
    spawn::spawn(&Program {
        path: executable,
        arguments,
        environment: &[],
        stdio: [None, None, None],
        descriptors: &[],
        session: true,
    })
}

/// `-detach`: the daemon as nobody's child, awaited.
pub fn detach(args: &[OsString], socket: &Path) -> Result<(), String> {
    let failed = |e: Errno| format!("cannot start the daemon: {e}");
    corten_sys::process::cloexec_from(3).map_err(failed)?;
    let mut arguments: Vec<&OsStr> = vec!["dhcp".as_ref(), "daemon".as_ref()];
    let is_detach = |a: &&OsString| a.to_string_lossy().trim_start_matches('-') == "detach";
    arguments.extend(
        args.iter()
            .filter(|a| !is_detach(a))
            .map(OsString::as_os_str),
    );
    let pid = start(Path::new("/proc/self/exe"), &arguments).map_err(failed)?;
    let pid = Pid::from_raw(pid.cast_signed());
    let deadline = Instant::now() + CLIENT_PATIENCE;
    loop {
        // Looked at before the question: one that ended has said why, or found another one serving.
        let ended = !matches!(waitpid(pid, WaitOptions::NOHANG), Ok(None));
        match protocol::ask(socket, &Ask::status()) {
            Ok(_) => return Ok(()),
            Err(e) if ended || Instant::now() > deadline => return Err(chain(&e)),
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Leaves the folder that the daemon was started in, which may be on a file system that is to be
/// unmounted while it lives.
pub fn settle(flags: Flags) -> std::io::Result<Flags> {
    let absolute = |path: PathBuf| match path.as_os_str().is_empty() {
        true => Ok(path),
        false => std::path::absolute(path),
    };
    let flags = Flags {
        pidfile: flags.pidfile.map(std::path::absolute).transpose()?,
        prefix: absolute(flags.prefix)?,
        socket: absolute(flags.socket)?,
        ..flags
    };
    std::env::set_current_dir("/")?;
    Ok(flags)
}

/// `None` while another process holds it.
fn try_lock(folder: &Path) -> Result<Option<File>, Error> {
    use rustix::fs::{FlockOperation, flock};
    let file = File::open(folder).map_err(file_error("open", folder))?;
    let locked = || flock(&file, FlockOperation::NonBlockingLockExclusive);
    match rustix::io::retry_on_intr(locked) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(file_error("lock", folder)(e.into())),
    }
}

/// Held as long as the daemon lives: a second one would renew the same leases. One that holds it and
/// does not answer is just beginning, or ending: that is waited for.
pub fn lock(folder: &Path, socket: &Path) -> Result<File, Error> {
    let deadline = Instant::now() + HANDOVER;
    loop {
        if let Some(file) = try_lock(folder)? {
            return Ok(file);
        }
        if protocol::ask(socket, &Ask::status()).is_ok() || Instant::now() > deadline {
            return Err(Error::Invalid {
                what: "folder of DHCP leases",
                value: folder.display().to_string(),
                reason: "is another daemon's".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The socket that systemd hands over (sd_listen_fds(3)), or one of our own.
pub fn listen(path: &Path) -> Result<UnixListener, Error> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_FDS") == "1" && variable("LISTEN_PID") == std::process::id().to_string() {
        let given = corten_sys::spawn::inherited(1);
        let given = given.map_err(|e| file_error("take over", path)(e.into()))?;
        if let Some(fd) = given.into_iter().next() {
            return Ok(UnixListener::from(fd));
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(file_error("replace", path)(e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(file_error("listen on", path))?;
    // Who may ask may enter any namespace by its path: root alone.
    let owned = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, owned).map_err(file_error("protect", path))?;
    Ok(listener)
}
