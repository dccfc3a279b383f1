//! runc's command line, as podman and containerd call it.
//!
//! Data goes to stdout. What went wrong goes to stderr and, with `--log`, as one more line to that file,
//! whose last line callers show to people.

mod checkpoint;
mod create;
mod events;
mod exec;
mod features;
pub(crate) use features::document as features;
mod foreground;
mod help;
mod list;
mod log;
mod options;
mod passing;
mod process;
mod ps;
mod restore;
mod simple;
mod spec;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use corten_spec::ContainerId;

use crate::Error;
use log::Log;
use options::{End, Known, Parsed, UsageError, flag, parse, value};

/// Where state is kept unless `--root` says otherwise.
const ROOT: &str = "/run/corten/oci";

const USAGE: &str = "usage: corten-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug]
                  [--systemd-cgroup] [--rootless true|false|auto] COMMAND

commands:
  create, run     make a container from a bundle (run: start it and wait)
  start           start a created container
  exec            run a process more in a container
  state, list, ps show containers and their processes
  kill            send a signal
  pause, resume   freeze and thaw
  update          change limits
  events          show what a container uses
  checkpoint      write a container's processes to files, by criu
  restore         make them of such files again
  delete          remove a container
  features, spec  print what this runtime can, or a configuration to start from
";

/// What ends a command.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Runtime(#[from] Error),
    #[error("unknown command {0:?}")]
    Command(String),
    #[error("container id: {0}")]
    Id(#[from] corten_spec::IdError),
    #[error("cannot {what} {path:?}: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot parse {path:?}: {source}")]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot {what}: {source}")]
    Kernel {
        what: &'static str,
        source: corten_sys::Errno,
    },
    #[error("{0}")]
    Refused(&'static str),
}

impl Failure {
    /// 127 and 126 for a program that is not there or cannot be executed, as a shell does. Otherwise 255 of
    /// `exec`, whose other codes are its program's, and 1, as runc.
    fn exit_code(&self, command: &str) -> u8 {
        let code = match self {
            Self::Runtime(error) => error.exit_code(),
            _ => 1,
        };
        match (command, code) {
            ("exec", 1) => 255,
            (_, code) => code,
        }
    }
}

/// What every command gets.
struct Context {
    root: PathBuf,
    /// Containers are scopes of systemd's.
    systemd_cgroup: bool,
    /// `None`: to be found out.
    rootless: Option<bool>,
    /// crun's `--cgroup-manager disabled`, which podman sends for `--cgroups=disabled`.
    no_cgroup: bool,
    log: Log,
}

const GLOBAL: [Known; 10] = [
    value("root"),
    value("log"),
    value("log-format"),
    value("rootless"),
    value("cgroup-manager"),
    flag("debug"),
    flag("systemd-cgroup"),
    flag("help").or('h'),
    flag("version").or('v'),
    value("log-level"),
];

/// Runs `corten-oci`. `args[0]` is the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    ExitCode::from(run(args))
}

/// [`main`] for callers that end the process themselves: the exit status.
pub fn run(args: Vec<OsString>) -> u8 {
    let global = match parse(args.into_iter().skip(1), &GLOBAL, End::At(0)) {
        Ok(global) => global,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            return 1;
        }
    };
    if global.has("version") {
        version();
        return 0;
    }
    let Some(command) = global.positional.first().filter(|_| !global.has("help")) else {
        print!("{USAGE}");
        return 0;
    };
    let log = match Log::open(&global) {
        Ok(log) => log,
        Err(failure) => {
            eprintln!("error: {failure}");
            return 1;
        }
    };
    let context = Context {
        root: root(&global),
        // crun's name for it, which podman does not use but people do.
        systemd_cgroup: global.has("systemd-cgroup")
            || global.get("cgroup-manager") == Some("systemd"),
        rootless: global.get("rootless").and_then(truth),
        no_cgroup: global.get("cgroup-manager") == Some("disabled"),
        log,
    };
    let command = command.to_string_lossy().into_owned();
    if let Some(text) = help::asked(&command, &global.rest) {
        print!("{text}");
        return 0;
    }
    let result = check(&global).and_then(|()| dispatch(&command, global.rest, &context));
    match result {
        Ok(status) => status,
        Err(failure) => {
            context.log.error(&failure.to_string());
            failure.exit_code(&command)
        }
    }
}

/// Settings of others that would mean something else here.
fn check(global: &Parsed) -> Result<(), Failure> {
    if !matches!(
        global.get("cgroup-manager"),
        None | Some("cgroupfs" | "systemd" | "disabled")
    ) {
        return Err(Failure::Refused(
            "--cgroup-manager: only cgroupfs, systemd and disabled are supported",
        ));
    }
    match global.get("rootless") {
        Some(other) if other != "auto" && truth(other).is_none() => {
            Err(Failure::Usage(UsageError::Bad {
                name: "rootless",
                text: other.into(),
                must: "true, false or auto",
            }))
        }
        _ => Ok(()),
    }
}

/// As Go's `strconv.ParseBool`, which runc's callers write for.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The state folder: of the user, where that is not the host's root (runc has the same rule).
fn root(global: &Parsed) -> PathBuf {
    let own = || {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|f| !f.is_empty())?;
        let user = std::env::var_os("USER");
        let is_root = rustix::process::geteuid().is_root();
        // Root of a user namespace counts as the user, unless it says that it is not. Where that cannot be
        // told, /proc is missing, and every command will say so.
        let honour = !is_root
            || (user.is_none_or(|u| u != "root")
                && crate::parent::place::in_user_namespace().unwrap_or(false));
        honour.then(|| PathBuf::from(folder).join("corten-oci"))
    };
    match global.get("root") {
        Some(root) => root.into(),
        None => own().unwrap_or_else(|| ROOT.into()),
    }
}

fn dispatch(command: &str, args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    match command {
        "checkpoint" => checkpoint::checkpoint(args, context),
        "create" => create::create(args, context),
        "restore" => restore::restore(args, context),
        "run" => create::run(args, context),
        "start" => simple::start(args, context),
        "exec" => exec::exec(args, context),
        "state" => list::state(args, context),
        "list" => list::list(args, context),
        "ps" => ps::ps(args, context),
        "events" => events::events(args, context),
        "kill" => simple::kill(args, context),
        "delete" => simple::delete(args, context),
        "pause" => simple::pause(args, context),
        "resume" => simple::resume(args, context),
        "update" => update::update(args, context),
        "features" => features::features(args),
        "spec" => spec::spec(args),
        "help" | "h" => help::help(&args),
        other => Err(Failure::Command(other.into())),
    }
}

/// Three lines that podman, docker and containerd take apart.
fn version() {
    println!("corten-oci version {}", env!("CARGO_PKG_VERSION"));
    println!(
        "commit: {}",
        option_env!("CORTEN_COMMIT").unwrap_or("unknown")
    );
    println!("spec: {}", crate::OCI_VERSION);
}

/// The one positional argument of most commands.
fn id(parsed: &Parsed) -> Result<ContainerId, Failure> {
    if let Some(extra) = parsed.positional.get(1) {
        return Err(UsageError::Many(extra.clone()).into());
    }
    first_id(parsed)
}

fn first_id(parsed: &Parsed) -> Result<ContainerId, Failure> {
    let text = parsed
        .positional
        .first()
        .ok_or(UsageError::Missing("CONTAINER-ID"))?;
    Ok(text.to_string_lossy().parse()?)
}

/// For the fuzzer: arguments, the program's name left out.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(args: Vec<OsString>) {
    if let Ok(global) = parse(args, &GLOBAL, End::At(0)) {
        let _ = check(&global);
        exec::fuzz(global.rest);
    }
}
