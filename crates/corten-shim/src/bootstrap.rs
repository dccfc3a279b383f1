//! How containerd starts a shim: the `start` action, and its answer in three forms.
//!
//! | containerd | stdin | answer on stdout |
//! | --- | --- | --- |
//! | up to 1.6 | options, or nothing | the address |
//! | 1.7 to 2.2 (`MAX_SHIM_VERSION` is set) | options, or nothing | JSON |
//! | 2.3 and later | binary `BootstrapParams` | binary `BootstrapResult` |

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use corten_spec::Digest;
use corten_sys::spawn::{Program, spawn};
use prost::Message;
use serde::Deserialize;

use crate::Error;
use crate::client::{Client, NAME, PID_FILE};
use crate::command::Flags;
use crate::listen::bind_in;
use crate::proto::bootstrap::{BootstrapParams, BootstrapResult};

/// Where containerd's shims have their sockets; the full path must fit into 108 bytes.
const SOCKETS: &str = "/run/containerd/s";
const STDIN_MAX: u64 = 4 << 20;
/// The version of the Task API that is announced; containerd 1.7 and all later speak it.
const VERSION: i32 = 2;

/// Answers `start`: finds the pod's shim or starts one, and returns what to print.
pub fn start(flags: &Flags) -> Result<Vec<u8>, Error> {
    let stdin = stdin()?;
    let bundle = flags.bundle()?;
    let path = socket_path(flags, &group(&bundle, &flags.id)?);
    let address = format!("unix://{}", path.display());
    let pid = match UnixStream::connect(&path) {
        // The pod's shim runs already.
        Ok(socket) => Client::new(socket, &flags.id).connect_info()?.0,
        Err(_) => launch(flags, &bundle, &path)?,
    };
    for (name, text) in [("address", address.clone()), (PID_FILE, pid.to_string())] {
        let path = bundle.join(name);
        std::fs::write(&path, text).map_err(|source| Error::File {
            step: "write",
            path,
            source,
        })?;
    }
    Ok(answer(&stdin, flags, address))
}

fn stdin() -> Result<Vec<u8>, Error> {
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

/// The form that this containerd understands.
fn answer(stdin: &[u8], flags: &Flags, address: String) -> Vec<u8> {
    // Older ones send an `Any` there, which has a string and bytes as its first two fields as
    // well: what tells them apart is that the strings are the flags'.
    let params = BootstrapParams::decode(stdin).ok();
    if params.is_some_and(|p| p.instance_id == flags.id && p.namespace == flags.namespace) {
        return BootstrapResult {
            version: VERSION,
            address,
            protocol: "ttrpc".into(),
            capabilities: Vec::new(),
            metadata: BTreeMap::new(),
        }
        .encode_to_vec();
    }
    match flags.max_version {
        true => format!(r#"{{"version":{VERSION},"address":"{address}","protocol":"ttrpc"}}"#),
        false => address,
    }
    .into_bytes()
}

/// The containers of a pod share a shim: its name is the sandbox's id.
fn group(bundle: &Path, id: &str) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
    let path = bundle.join("config.json");
    let file = |source| Error::File {
        step: "read",
        path: path.clone(),
        source,
    };
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(id.into()),
        answer => answer.map_err(file)?,
    };
    let spec: Annotated = serde_json::from_slice(&bytes).map_err(|e| file(e.into()))?;
    let sandbox = spec.annotations.get(SANDBOX).filter(|s| !s.is_empty());
    Ok(sandbox.cloned().unwrap_or_else(|| id.into()))
}

fn socket_path(flags: &Flags, group: &str) -> PathBuf {
    let name = format!("{}/{}/{group}", flags.address, flags.namespace);
    Path::new(SOCKETS).join(Digest::of(name.as_bytes()).hex())
}

/// Starts `serve` on a listening socket, and leaves it behind.
fn launch(flags: &Flags, bundle: &Path, path: &Path) -> Result<u32, Error> {
    let socket = |source| Error::Socket {
        path: path.into(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .map_err(socket)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let listener = bind_in(folder, &name).map_err(socket)?;
    let log = log(bundle);
    let arguments: [&OsStr; 14] = [
        NAME.as_ref(),
        "-namespace".as_ref(),
        flags.namespace.as_ref(),
        "-id".as_ref(),
        flags.id.as_ref(),
        "-address".as_ref(),
        flags.address.as_ref(),
        "-bundle".as_ref(),
        bundle.as_os_str(),
        "-state-root".as_ref(),
        flags.state_root.as_os_str(),
        "-socket".as_ref(),
        path.as_os_str(),
        "serve".as_ref(),
    ];
    let exe = Path::new("/proc/self/exe");
    spawn(&Program {
        path: exe,
        arguments: &arguments,
        environment: &[],
        stdio: [None, None, log.as_ref().map(AsFd::as_fd)],
        descriptors: &[listener.as_fd()],
        session: true,
    })
    .map_err(|errno| Error::Spawn {
        path: exe.into(),
        source: errno.into(),
    })
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

    fn flags(max_version: bool) -> Flags {
        let mut flags = Flags::default();
        flags.id = "web".into();
        flags.namespace = "default".into();
        flags.max_version = max_version;
        flags
    }

    #[test]
    fn each_containerd_gets_its_form() {
        let address = || "unix:///s".to_string();
        assert_eq!(answer(b"", &flags(false), address()), b"unix:///s");
        let json = answer(b"", &flags(true), address());
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["address"], "unix:///s");
        assert_eq!(json["version"], 2);
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            ..BootstrapParams::default()
        };
        let result = answer(&params.encode_to_vec(), &flags(true), address());
        assert_eq!(
            BootstrapResult::decode(result.as_slice()).unwrap().address,
            "unix:///s"
        );
        // An option of an older one is no BootstrapParams.
        let any = prost_types::Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![8, 1],
        };
        assert_eq!(
            answer(&any.encode_to_vec(), &flags(false), address()),
            b"unix:///s"
        );
    }

    proptest::proptest! {
        #[test]
        fn garbage_on_stdin_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..500)) {
            answer(&bytes, &flags(false), "unix:///s".into());
        }
    }
}
