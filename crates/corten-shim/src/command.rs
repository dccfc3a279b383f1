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

use corten_spec::ContainerId;
use prost::Message;
use prost_types::Any;

use crate::Error;
use crate::bootstrap::Place;
use crate::proto::task::{RuntimeInfo, RuntimeVersion};
use crate::serve::{Config, run};

/// Where state of containerd's containers is kept, a folder a namespace.
const STATE_ROOT: &str = "/run/corten/containerd";

/// The runtime specification's `features` document, as containerd registers it.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// What the flags say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub namespace: String,
    pub id: String,
    /// containerd's gRPC socket; a name in ours.
    pub address: String,
    pub bundle: PathBuf,
    pub state_root: PathBuf,
    pub socket: PathBuf,
    pub inherit: usize,
    pub until_idle: bool,
    pub version: bool,
    pub info: bool,
    pub action: String,
    /// Whether requests are logged as well.
    pub debug: bool,
    /// containerd's ttrpc socket.
    pub ttrpc: String,
    /// The newest version of the shim's API that containerd names; only one that reads JSON names any.
    pub max_version: Option<i32>,
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
            eprintln!("{}: {}", crate::client::NAME, corten_spec::chain(&error));
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
        return info();
    }
    match flags.action.as_str() {
        "start" => crate::bootstrap::start(&flags),
        "delete" => crate::cleanup::delete(&flags),
        "serve" => serve(flags).map(|()| Vec::new()),
        "" => Err(usage("no action: start or delete")),
        other => Err(usage(format!("no action {other:?}"))),
    }
}

pub fn usage(problem: impl Into<String>) -> Error {
    Error::Usage {
        problem: problem.into(),
    }
}

fn parse(args: Vec<OsString>) -> Result<Flags, Error> {
    let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let mut flags = Flags {
        // It is 2 wherever it is known.
        max_version: variable("MAX_SHIM_VERSION").map(|v| v.parse().unwrap_or(2)),
        ttrpc: variable("TTRPC_ADDRESS").unwrap_or_default(),
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
            "debug" => flags.debug = true,
            // Events go over ttrpc without containerd's help.
            "publish-binary" => drop(value()?),
            other => return Err(usage(format!("no flag -{other}"))),
        }
    }
    if !flags.namespace.is_empty() {
        // Both become parts of paths.
        let name: Result<ContainerId, _> = flags.namespace.parse();
        name.map_err(|e| usage(format!("-namespace: {e}")))?;
    }
    Ok(flags)
}

/// Where state is kept: as the flag says, or the namespace's usual place.
pub fn state_root(flags: &Flags, namespace: &str) -> PathBuf {
    match flags.state_root.as_os_str().is_empty() {
        true => Path::new(STATE_ROOT).join(namespace),
        false => flags.state_root.clone(),
    }
}

/// What this runtime is and can, and with which options: those on stdin, checked.
fn info() -> Result<Vec<u8>, Error> {
    let stdin = crate::bootstrap::stdin()?;
    let options = match stdin.is_empty() {
        true => None,
        false => {
            let any = Any::decode(stdin.as_slice());
            let any = any.map_err(|e| usage(format!("stdin holds no options: {e}")))?;
            let checked = crate::options::runc(&any);
            checked.map_err(|status| usage(status.message))?;
            Some(any)
        }
    };
    let features = Any {
        type_url: FEATURES.into(),
        value: corten_runtime::features().into_bytes(),
    };
    Ok(RuntimeInfo {
        name: "io.containerd.corten.v2".into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: String::new(),
        }),
        options,
        features: Some(features),
        annotations: Default::default(),
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
    let publish = Some(flags.ttrpc.as_str()).filter(|a| !flags.until_idle && !a.is_empty());
    let publish = publish.map(|a| PathBuf::from(a.strip_prefix("unix://").unwrap_or(a)));
    let socket = match flags.until_idle {
        true => bundle.join(crate::client::SOCKET),
        false => flags.socket.clone(),
    };
    run(Config {
        state_root: state_root(&flags, &flags.namespace),
        publish,
        namespace: flags.namespace,
        bundle,
        listener,
        inherited: inherited.into_iter().map(Some).collect(),
        until_idle: flags.until_idle,
        debug: flags.debug,
        place: Place::of(socket),
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
            state_root(&flags, &flags.namespace),
            Path::new("/run/corten/containerd/default")
        );
        assert!(flags.debug);
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
