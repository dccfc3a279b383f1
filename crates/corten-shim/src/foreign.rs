//! Other people's shims under our supervisor: what one is told, what it answers, and how it is cleaned up after.
//!
//! ```text
//!   BUNDLE/foreign/ID/         the bundle that the foreign shim sees; some look for it beside themselves by its id
//!     order.json               what runs here; written before anything is started, gone when all is given back
//!     config.json  rootfs/  log (FIFO)  stdin, stdout, stderr (FIFOs)
//!     address  shim.pid        written by the shim itself
//! ```
//!
//! The order is what makes a crash harmless: whoever finds it knows whose shim is to be called with `delete`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corten_spec::ContainerId;
use prost::Message;
use prost_types::Any;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::client::{Client, NAME};
use crate::proto::bootstrap::BootstrapResult;
use crate::proto::corten::RuntimeOptions;
pub use crate::proto::task::RuncOptions;

/// What a shim may be told about how to run a container, by the kind of shim.
#[derive(Clone, Debug, PartialEq)]
pub enum Options {
    /// For containerd's own.
    Runc(RuncOptions),
    /// For others, as containerd passes them on: a file, or what would be in it.
    Other {
        type_url: String,
        config_path: String,
        config_body: String,
    },
}

impl Options {
    pub fn encode(self) -> Any {
        match self {
            Self::Runc(options) => Any {
                type_url: RUNC_OPTIONS.into(),
                value: options.encode_to_vec(),
            },
            Self::Other {
                type_url,
                config_path,
                config_body,
            } => Any {
                type_url: "runtimeoptions.v1.Options".into(),
                value: RuntimeOptions {
                    type_url,
                    config_path,
                    config_body: config_body.into_bytes(),
                }
                .encode_to_vec(),
            },
        }
    }
}

/// The foreign shim's bundle, in ours.
pub fn folder(bundle: &Path, id: &str) -> PathBuf {
    bundle.join("foreign").join(id)
}

const ORDER: &str = "order.json";
/// The container's root, on which its shim mounts.
pub(crate) const ROOT: &str = "rootfs";
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// How long a shim may take for `start` and `delete`.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long an orphaned shim may take to end its container, and then to end itself.
const FAREWELL: Duration = Duration::from_millis(200);
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What runs in a foreign bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The shim's executable.
    pub binary: PathBuf,
    pub namespace: String,
    pub id: String,
    /// Whether its mounts are made in the host's mount namespace: only then can they be shared with it.
    pub host_mounts: bool,
    /// Where the OCI runtime that the shim calls keeps its state, if that is known.
    #[serde(default)]
    pub state: Option<PathBuf>,
}

/// Where containerd's shim for runc has its runtime keep state, if it was told so.
pub(crate) fn state_root(options: &Any) -> Option<PathBuf> {
    let is_runc = options.type_url == RUNC_OPTIONS;
    let options = is_runc.then(|| RuncOptions::decode(options.value.as_slice()).ok())??;
    (!options.root.is_empty()).then(|| options.root.into())
}

impl Order {
    /// Half an order could not be carried out.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        crate::whole::write(&folder.join(ORDER), &serde_json::to_vec(self)?)
    }

    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(ORDER)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All was given back.
    pub fn forget(folder: &Path) -> io::Result<()> {
        fs::remove_file(folder.join(ORDER))
    }

    /// The folder of the container in the runtime's state.
    fn runtime_state(&self) -> Option<PathBuf> {
        let root = self.state.as_ref()?;
        Some(root.join(&self.namespace).join(&self.id))
    }

    /// The shim's command line for an action, with its bundle as the working folder. `events` is where it finds us.
    pub fn command(&self, folder: &Path, events: &str, action: &str) -> Command {
        let words: [OsString; 8] = [
            "-namespace".into(),
            self.namespace.clone().into(),
            "-address".into(),
            events.into(),
            "-publish-binary".into(),
            "/bin/true".into(),
            "-id".into(),
            self.id.clone().into(),
        ];
        let mut command = match self.host_mounts {
            true => Command::new(&self.binary),
            false => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0(NAME).arg("enter").arg(&self.binary);
                command
            }
        };
        command.args(words);
        if action == "delete" {
            command.arg("-bundle").arg(folder);
        }
        command.arg(action).current_dir(folder);
        for (name, value) in [
            ("TTRPC_ADDRESS", events),
            ("GRPC_ADDRESS", events),
            ("NAMESPACE", self.namespace.as_str()),
            // The bootstrap protocol that an answer may have; see `bootstrap`.
            ("MAX_SHIM_VERSION", "2"),
        ] {
            command.env(name, value);
        }
        // Its runtime passes on to the container what it has itself.
        corten_sys::spawn::unmask(&mut command);
        command
    }
}

/// A shim's answer to `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Of the Task API.
    pub version: u32,
    pub socket: PathBuf,
}

/// Reads an answer in any of its three forms: a plain address, JSON, or a binary `BootstrapResult`.
pub(crate) fn parse_answer(bytes: &[u8]) -> Result<Answer, String> {
    #[derive(Deserialize)]
    struct Json {
        version: u32,
        address: String,
        #[serde(default)]
        protocol: String,
    }
    let (version, address, protocol) = match bytes {
        // A field's tag: no text begins with such a byte.
        [0x08 | 0x12 | 0x1a, ..] => {
            let result = BootstrapResult::decode(bytes);
            let result = result.map_err(|e| format!("its binary answer is broken: {e}"))?;
            let version = u32::try_from(result.version).unwrap_or(0);
            (version, result.address, result.protocol)
        }
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|_| "its answer is no text")?;
            let text = text.trim();
            match text.starts_with('{') {
                true => {
                    let json: Json = serde_json::from_str(text)
                        .map_err(|e| format!("its answer {text:?} is broken: {e}"))?;
                    (json.version, json.address, json.protocol)
                }
                false => (2, text.to_owned(), String::new()),
            }
        }
    };
    if !protocol.is_empty() && protocol != "ttrpc" {
        return Err(format!(
            "it speaks {protocol}, and only ttrpc is spoken here"
        ));
    }
    if !(2..=3).contains(&version) {
        return Err(format!(
            "it has version {version} of the Task API, and only 2 and 3 are spoken here"
        ));
    }
    let path = address.strip_prefix("unix://").unwrap_or(&address);
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(Answer {
            version,
            socket: path.into(),
        }),
        false => Err(format!("its address {address:?} is no path of a socket")),
    }
}

/// The service of a version of the Task API.
pub(crate) fn service(version: u32) -> &'static str {
    match version {
        3 => "containerd.task.v3.Task",
        _ => "containerd.task.v2.Task",
    }
}

/// Ends and removes what a foreign shim has made for a container of ours whose supervisor is gone. `bundle` is ours.
/// There may be nothing to do. Processes that are left in the container's cgroup are the caller's to end.
pub fn clean(bundle: &Path, id: &ContainerId) -> Result<(), Error> {
    let folder = folder(bundle, id.as_str());
    let file = |step, path: PathBuf| move |source| Error::File { step, path, source };
    let order = Order::read(&folder).map_err(file("read", folder.join(ORDER)))?;
    if let Some(order) = &order {
        give_back(order, &folder)?;
    }
    // Whatever was ended in whatever way: who removes the bundle must not reach into the container's root.
    detach_mounts(&folder).map_err(file("detach the mounts on", folder.join(ROOT)))?;
    match order {
        Some(_) => Order::forget(&folder).map_err(file("remove", folder.join(ORDER))),
        None => Ok(()),
    }
}

/// Ends the shim in an orderly way if it still answers, and has its `delete` remove what is left.
fn give_back(order: &Order, folder: &Path) -> Result<(), Error> {
    let socket = socket_of(folder);
    if let Some(socket) = &socket {
        // What it does not do in an orderly way, `delete` does by force.
        let _ended = end(socket, &order.id);
    }
    let deleted = run_delete(order, folder);
    end_processes(folder);
    if let Some(socket) = &socket
        && UnixStream::connect(socket).is_err()
    {
        let _gone = fs::remove_file(socket);
    }
    match deleted {
        Err(e) if !is_nothing_left(order, &e) => return Err(e),
        _ => {}
    }
    // It cannot be the shim's any more; an uninstalled runtime, say, was not there to remove it.
    match order.runtime_state().map(fs::remove_dir_all) {
        Some(Err(source)) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
            step: "remove",
            path: order.runtime_state().unwrap_or_default(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Whether a `delete` that failed had nothing to delete. A shim that was killed before it got to its container fails to find its
/// own files; a runtime makes the folder of its state before anything else, so where there is none it has made nothing, and
/// processes on the way there are in the container's cgroup. An uninstalled shim will never delete anything.
fn is_nothing_left(order: &Order, error: &Error) -> bool {
    let uninstalled = match error {
        Error::Spawn { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    uninstalled || order.runtime_state().is_some_and(|state| !state.exists())
}

/// Empties a foreign bundle after a run, for the next one. Refused while its order is there.
pub(crate) fn clear(folder: &Path) -> io::Result<()> {
    if folder.join(ORDER).exists() {
        let text = format!("{} still names what ran here", folder.join(ORDER).display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    end_processes(folder);
    detach_mounts(folder)?;
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The socket that the shim has written down: an older one just so, a newer one as its engine would.
fn socket_of(folder: &Path) -> Option<PathBuf> {
    let text = fs::read(folder.join("address")).ok()?;
    parse_answer(&text).ok().map(|a| a.socket)
}

/// Asks an orphaned shim to kill its container, to delete it, and to end.
fn end(socket: &Path, id: &str) -> Result<(), Error> {
    let stream = UnixStream::connect(socket).map_err(|source| Error::Connect {
        path: socket.into(),
        source,
    })?;
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        // Zero is the only duration that is refused.
        let _set = set(&stream, Some(KILL_PATIENCE));
    }
    let mut until_it_ends = stream.try_clone().map_err(|source| Error::Connect {
        path: socket.into(),
        source,
    })?;
    let mut client = Client::of_version(stream, id, 2);
    // One that does not answer, because it is stuck in a creation, say, is ended by force.
    answered(client.kill("", 9, true))?;
    answered(client.wait("").map(drop))?;
    answered(client.delete("").map(drop))?;
    client.shutdown()?;
    // Its answer comes before its end, and that may take long: some try again and again to tell of events.
    let _set = until_it_ends.set_read_timeout(Some(FAREWELL));
    let _gone = io::Read::read(&mut until_it_ends, &mut [0]);
    Ok(())
}

/// What it says is no matter, but that it says something.
fn answered(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(e @ Error::Broken { .. }) => Err(e),
        _ => Ok(()),
    }
}

/// Kills what still works in the bundle, which is the shim's own or its runtime's: it has nothing left to do. As often as there is
/// something, since one that is killed may just have started another.
pub fn end_processes(folder: &Path) {
    for _ in 0..10 {
        if !kill_processes(folder) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether there were any.
fn kill_processes(folder: &Path) -> bool {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Ok(all) = fs::read_dir("/proc") else {
        return false;
    };
    // The kernel's way to write a folder that was removed.
    let mut removed = folder.as_os_str().to_owned();
    removed.push(" (deleted)");
    let works_here = |pid: Pid| {
        let cwd = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
        cwd.is_ok_and(|cwd| cwd == folder || cwd.as_os_str() == removed)
    };
    let pids = all
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut found = false;
    for pid in pids
        .filter_map(Pid::from_raw)
        .filter(|pid| works_here(*pid))
    {
        // Once more, now that its number cannot become another's.
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && works_here(pid)
        {
            found = true;
            let _killed = pidfd_send_signal(&process, Signal::KILL);
        }
    }
    found
}

fn run_delete(order: &Order, folder: &Path) -> Result<(), Error> {
    let spawn = |source| Error::Spawn {
        path: order.binary.clone(),
        source,
    };
    let mut command = Order {
        // Whatever namespace its mounts were made in, nobody else sees a new one.
        host_mounts: true,
        ..order.clone()
    }
    .command(folder, "", "delete");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(spawn)?;
    match wait(&mut child, PATIENCE).map_err(spawn)? {
        true => Ok(()),
        false => {
            let text = child.stderr.take().map(io::read_to_string);
            let text = text.and_then(Result::ok).unwrap_or_default();
            Err(Error::Foreign {
                binary: order.binary.clone(),
                action: "delete",
                reason: text.trim().to_owned(),
            })
        }
    }
}

/// Whether it ended well, and in time.
fn wait(child: &mut Child, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a shim has mounted on the host and left: removing the bundle must not reach into the container's root.
fn detach_mounts(folder: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    use rustix::mount::{UnmountFlags, unmount};
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    // Several may lie on one another, and the last answer is that there is none.
    loop {
        match unmount(folder.join(ROOT), flags) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_three_forms() {
        let plain = Answer {
            version: 2,
            socket: "/run/s/x".into(),
        };
        assert_eq!(parse_answer(b"unix:///run/s/x\n"), Ok(plain.clone()));
        assert_eq!(parse_answer(b"/run/s/x"), Ok(plain));
        let newer = Answer {
            version: 3,
            socket: "/run/s/x".into(),
        };
        let json = br#"{"version":3,"address":"unix:///run/s/x","protocol":"ttrpc"}"#;
        assert_eq!(parse_answer(json), Ok(newer.clone()));
        let binary = BootstrapResult {
            version: 3,
            address: "unix:///run/s/x".into(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        };
        assert_eq!(parse_answer(&binary.encode_to_vec()), Ok(newer));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (bytes, word) in [
            (
                &br#"{"version":3,"address":"unix:///x","protocol":"grpc"}"#[..],
                "grpc",
            ),
            (br#"{"version":9,"address":"unix:///x"}"#, "version 9"),
            (b"{\"version\":", "broken"),
            (b"vsock://3:1024", "vsock://3:1024"),
            (b"", "\"\""),
            (b"\xff\xfe", "no text"),
            (b"\x12\xff", "broken"),
        ] {
            let error = parse_answer(bytes).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn without_an_order_there_is_nothing_to_clean() {
        let bundle = tempfile::tempdir().unwrap();
        let id: ContainerId = "i".parse().unwrap();
        clean(bundle.path(), &id).unwrap();
        let folder = folder(bundle.path(), "i");
        fs::create_dir_all(&folder).unwrap();
        let order = Order {
            binary: "/bin/false".into(),
            namespace: "n".into(),
            id: "i".into(),
            host_mounts: false,
            state: None,
        };
        order.write(&folder).unwrap();
        assert_eq!(Order::read(&folder).unwrap().as_ref(), Some(&order));
        // Its shim cannot: that is an error, and the order stays, and its bundle is not used again.
        assert!(matches!(
            clean(bundle.path(), &id),
            Err(Error::Foreign { .. })
        ));
        assert!(Order::read(&folder).unwrap().is_some());
        assert!(clear(&folder).is_err());
        // What the runtime still knows keeps it a failure; what it never knew does not.
        let root = bundle.path().join("runc");
        let order = Order {
            state: Some(root.clone()),
            ..order
        };
        order.write(&folder).unwrap();
        fs::create_dir_all(root.join("n/i")).unwrap();
        assert!(clean(bundle.path(), &id).is_err());
        fs::remove_dir(root.join("n/i")).unwrap();
        clean(bundle.path(), &id).unwrap();
        assert!(Order::read(&folder).unwrap().is_none());
        clear(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn an_uninstalled_shim_keeps_nobody_from_removing_its_container() {
        let bundle = tempfile::tempdir().unwrap();
        let id: ContainerId = "i".parse().unwrap();
        let folder = folder(bundle.path(), "i");
        let root = bundle.path().join("runc");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(root.join("n/i")).unwrap();
        let order = Order {
            binary: "/none/containerd-shim-runc-v2".into(),
            namespace: "n".into(),
            id: "i".into(),
            host_mounts: false,
            state: Some(root.clone()),
        };
        order.write(&folder).unwrap();
        clean(bundle.path(), &id).unwrap();
        assert!(!root.join("n/i").exists());
        assert!(Order::read(&folder).unwrap().is_none());
    }

    #[test]
    fn an_order_of_an_older_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = br#"{"binary":"/b","namespace":"n","id":"i","host_mounts":true}"#;
        fs::write(dir.path().join(ORDER), text).unwrap();
        let order = Order::read(dir.path()).unwrap().unwrap();
        assert_eq!((order.host_mounts, order.state), (true, None));
    }

    #[test]
    fn an_order_is_never_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let order = Order {
            binary: "/bin/false".into(),
            namespace: "n".into(),
            id: "i".into(),
            host_mounts: false,
            state: None,
        };
        fs::write(folder.path().join(ORDER), "before").unwrap();
        let held = folder.path().join("held");
        fs::hard_link(folder.path().join(ORDER), &held).unwrap();
        order.write(folder.path()).unwrap();
        // The file in its place is another one; the old one was not written to.
        assert_eq!(fs::read(held).unwrap(), b"before");
        assert_eq!(Order::read(folder.path()).unwrap(), Some(order));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = parse_answer(&bytes);
        }
    }
}
