//! The command line, as containerd calls it.
//!
//! ```text
//! containerd-shim-corten-v2 -namespace NS -address SOCK -publish-binary BIN -id ID [-bundle DIR] [-debug] start|delete
//! containerd-shim-corten-v2 -v | -info
//! ```
//!
//! Two more actions are ours: `serve`, the resident part, which `start` and the engine run with a
//! listening socket as descriptor 3, and `enter PROGRAM`, which runs it with mounts of its own. Flags are Go's: one dash or two, the value apart or after `=`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use corten_spec::{ContainerId, Kind};
use prost::Message;

use crate::Error;
use crate::proto::task::{DeleteResponse, RuntimeInfo, RuntimeVersion};
use crate::serve::{Config, STATE_ROOT_FILE, run};
use crate::time::timestamp;

/// Where state of containerd's containers is kept, a folder a namespace.
const STATE_ROOT: &str = "/run/corten/containerd";

/// What the flags say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub namespace: String,
    pub id: String,
    /// containerd's gRPC socket; a name in ours.
    pub address: String,
    bundle: PathBuf,
    pub state_root: PathBuf,
    socket: PathBuf,
    inherit: usize,
    until_idle: bool,
    version: bool,
    info: bool,
    action: String,
    /// Whether containerd is new enough to read JSON.
    pub max_version: bool,
}

impl Flags {
    /// The bundle: given, or the working folder.
    pub fn bundle(&self) -> Result<PathBuf, Error> {
        if !self.bundle.as_os_str().is_empty() {
            return Ok(self.bundle.clone());
        }
        std::env::current_dir().map_err(|source| Error::File {
            step: "find",
            path: ".".into(),
            source,
        })
    }
}

/// The program. `args` is the command line with the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match act(args) {
        Ok(output) => match std::io::stdout().write_all(&output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!(
                "{}: {}",
                crate::client::NAME,
                crate::ttrpc::status::chain(&error)
            );
            ExitCode::FAILURE
        }
    }
}

fn act(args: Vec<OsString>) -> Result<Vec<u8>, Error> {
    if args.get(1).is_some_and(|a| a == "enter") {
        return Err(crate::enter::enter(&args[2..]));
    }
    let flags = parse(args)?;
    if flags.version {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(format!("{}:\n  Version:  {version}\n", crate::client::NAME).into_bytes());
    }
    if flags.info {
        return Ok(info());
    }
    match flags.action.as_str() {
        "start" => crate::bootstrap::start(&flags),
        "delete" => delete(&flags),
        "serve" => serve(flags).map(|()| Vec::new()),
        "" => Err(usage("no action: start or delete")),
        other => Err(usage(format!("no action {other:?}"))),
    }
}

fn usage(problem: impl Into<String>) -> Error {
    Error::Usage {
        problem: problem.into(),
    }
}

fn parse(args: Vec<OsString>) -> Result<Flags, Error> {
    let mut flags = Flags {
        max_version: std::env::var_os("MAX_SHIM_VERSION").is_some(),
        ..Flags::default()
    };
    let mut args = args.into_iter().skip(1);
    while let Some(arg) = args.next() {
        let text = |arg: OsString| {
            arg.into_string()
                .map_err(|arg| usage(format!("argument {arg:?} is not UTF-8")))
        };
        let arg = text(arg)?;
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            flags.action = arg;
            continue;
        };
        let (name, mut given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (flag, None),
        };
        let mut value = || {
            let next = given.take().map(OsString::from).or_else(|| args.next());
            text(next.ok_or_else(|| usage(format!("flag -{name} needs a value")))?)
        };
        match name {
            "namespace" => flags.namespace = value()?,
            "id" => flags.id = value()?,
            "address" => flags.address = value()?,
            "bundle" => flags.bundle = value()?.into(),
            "state-root" => flags.state_root = value()?.into(),
            "socket" => flags.socket = value()?.into(),
            "inherit" => {
                let text = value()?;
                let count = text.parse().ok().filter(|n| *n <= 1024);
                flags.inherit =
                    count.ok_or_else(|| usage(format!("-inherit {text:?}: no count")))?;
            }
            "until-idle" => flags.until_idle = true,
            "v" | "version" => flags.version = true,
            "info" => flags.info = true,
            // Events go over ttrpc without containerd's help, and complaints are never many.
            "publish-binary" => drop(value()?),
            "debug" => {}
            other => return Err(usage(format!("no flag -{other}"))),
        }
    }
    if !flags.namespace.is_empty() {
        // Both become parts of paths.
        let name: Result<ContainerId, _> = flags.namespace.parse();
        name.map_err(|e| usage(format!("-namespace: {e}")))?;
    }
    if flags.state_root.as_os_str().is_empty() {
        flags.state_root = Path::new(STATE_ROOT).join(&flags.namespace);
    }
    Ok(flags)
}

fn info() -> Vec<u8> {
    RuntimeInfo {
        name: "io.containerd.corten.v2".into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: String::new(),
        }),
        options: None,
        features: None,
        annotations: Default::default(),
    }
    .encode_to_vec()
}

/// Cleans up after a shim that is gone: containerd calls it, with the bundle as working folder.
fn delete(flags: &Flags) -> Result<Vec<u8>, Error> {
    let id: Result<ContainerId, _> = flags.id.parse();
    let id = id.map_err(|e| usage(format!("-id: {e}")))?;
    let written = std::fs::read_to_string(flags.bundle()?.join(STATE_ROOT_FILE));
    let state_root = written.map_or_else(|_| flags.state_root.clone(), PathBuf::from);
    match corten_runtime::delete(&state_root, &id, true) {
        Ok(warnings) => warnings.iter().for_each(|w| eprintln!("warning: {w}")),
        Err(e) if e.kind() == Kind::NotFound => {}
        Err(source) => {
            return Err(Error::Cleanup {
                id: flags.id.clone(),
                source: Box::new(source),
            });
        }
    }
    crate::bootstrap::forget(&flags.bundle()?);
    Ok(DeleteResponse {
        pid: 0,
        // Nobody saw it end; it was killed at the latest just now.
        exit_status: 128 + 9,
        exited_at: Some(timestamp(SystemTime::now())),
    }
    .encode_to_vec())
}

fn serve(flags: Flags) -> Result<(), Error> {
    let inherited = corten_sys::spawn::inherited(1 + flags.inherit);
    let mut inherited = inherited.map_err(|source| Error::Kernel {
        step: "take the inherited descriptors",
        source,
    })?;
    let listener = UnixListener::from(inherited.remove(0));
    let bundle = flags.bundle()?;
    std::env::set_current_dir(&bundle).map_err(|source| Error::File {
        step: "enter",
        path: bundle.clone(),
        source,
    })?;
    let publish = match flags.until_idle {
        true => None,
        false => std::env::var("TTRPC_ADDRESS")
            .ok()
            .filter(|a| !a.is_empty()),
    };
    let publish = publish.map(|a| PathBuf::from(a.strip_prefix("unix://").unwrap_or(&a)));
    let leavings = match flags.until_idle {
        true => vec![bundle.join(crate::client::SOCKET)],
        false => vec![flags.socket],
    };
    run(Config {
        namespace: flags.namespace,
        bundle,
        state_root: flags.state_root,
        listener,
        inherited: inherited.into_iter().map(Some).collect(),
        publish,
        until_idle: flags.until_idle,
        leavings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Flags, Error> {
        let name = std::iter::once("shim");
        parse(
            name.chain(args.iter().copied())
                .map(OsString::from)
                .collect(),
        )
    }

    #[test]
    fn containerds_own_words() {
        let flags = parsed(&[
            "-namespace",
            "default",
            "--address=/run/c.sock",
            "-publish-binary",
            "/usr/bin/containerd",
            "-id",
            "web",
            "-debug",
            "start",
        ])
        .unwrap();
        assert_eq!(flags.id, "web");
        assert_eq!(flags.address, "/run/c.sock");
        assert_eq!(flags.action, "start");
        assert_eq!(
            flags.state_root,
            Path::new("/run/corten/containerd/default")
        );
    }

    #[test]
    fn bad_lines_are_refused() {
        for bad in [
            &["-id"][..],
            &["-nonsense"],
            &["-inherit", "x"],
            &["-namespace", "../x"],
        ] {
            assert!(matches!(parsed(bad), Err(Error::Usage { .. })), "{bad:?}");
        }
    }
}
