//! `create` and `run`.

use std::ffi::OsString;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};

use super::options::{End, Known, Parsed, flag, parse, value};
use super::process::{Console, console, dial, document, hand_over, pid_file, stdio};
use super::{Context, Failure, foreground, id};
use crate::{Create, Options, Rootfs};

const CREATE: [Known; 6] = [
    value("bundle").or('b'),
    value("console-socket"),
    value("pid-file"),
    value("preserve-fds"),
    flag("no-pivot"),
    flag("no-new-keyring"),
];

const RUN: [Known; 9] = [
    CREATE[0],
    CREATE[1],
    CREATE[2],
    CREATE[3],
    CREATE[4],
    CREATE[5],
    flag("detach").or('d'),
    flag("keep"),
    // We never become one.
    flag("no-subreaper"),
];

/// A bundle, read.
struct Bundle {
    path: PathBuf,
    spec: Spec,
    warnings: Vec<String>,
}

fn bundle(parsed: &Parsed) -> Result<Bundle, Failure> {
    let given = PathBuf::from(parsed.get("bundle").unwrap_or("."));
    let path = given.canonicalize().map_err(|source| Failure::File {
        what: "open the bundle",
        path: given,
        source,
    })?;
    let (spec, warnings) = document(&path.join("config.json"))?;
    Ok(Bundle {
        path,
        spec,
        warnings,
    })
}

fn choices(parsed: &Parsed, context: &Context) -> Result<Options, Failure> {
    Ok(Options {
        no_pivot: parsed.has("no-pivot"),
        no_new_keyring: parsed.has("no-new-keyring"),
        die_with_caller: false,
        systemd_cgroup: context.systemd_cgroup,
        rootless: context.rootless,
        no_cgroup: context.no_cgroup,
        preserve_fds: parsed.number("preserve-fds")?.unwrap_or(0),
    })
}

fn process(spec: &Spec) -> Result<&Process, Failure> {
    spec.process()
        .as_ref()
        .ok_or(Failure::Refused("process of the spec is missing"))
}

pub(super) fn create(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &CREATE, End::Never)?;
    let id = id(&parsed)?;
    let bundle = bundle(&parsed)?;
    bundle.warnings.iter().for_each(|w| context.log.warning(w));
    // A container without a process can be created, and has nothing on any terminal.
    let nothing = crate::plan::process::nothing()?;
    let process = bundle.spec.process().as_ref().unwrap_or(&nothing);
    let console = console(process, parsed.get("console-socket"), true)?;
    let socket = socket(console)?;
    let created = crate::create(Create {
        id: &id,
        bundle: &bundle.path,
        spec: &bundle.spec,
        state_root: &context.root,
        rootfs: Rootfs::Bundle,
        stdio: stdio(console, process),
        options: choices(&parsed, context)?,
    })?;
    created.warnings.iter().for_each(|w| context.log.warning(w));
    context.log.debug(&format!(
        "container {id} created, init is process {}",
        created.pid
    ));
    let tell = || -> Result<(), Failure> {
        if let (Some(socket), Some(master)) = (&socket, &created.console) {
            hand_over(socket, master)?;
        }
        pid_file(parsed.get("pid-file"), created.pid)
    };
    // Nobody knows of it yet, so nobody else would remove it.
    tell().inspect_err(|_| drop(crate::delete(&context.root, &id, true)))?;
    Ok(0)
}

fn socket(console: Console<'_>) -> Result<Option<std::os::fd::OwnedFd>, Failure> {
    match console {
        Console::Socket(path) => dial(path).map(Some),
        _ => Ok(None),
    }
}

pub(super) fn run(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &RUN, End::Never)?;
    let id = id(&parsed)?;
    let bundle = bundle(&parsed)?;
    bundle.warnings.iter().for_each(|w| context.log.warning(w));
    let process = process(&bundle.spec)?;
    let detached = parsed.has("detach");
    let console = console(process, parsed.get("console-socket"), detached)?;
    let socket = socket(console)?;
    let signals = match detached {
        true => None,
        false => Some(foreground::Signals::catch()?),
    };
    let create = Create {
        id: &id,
        bundle: &bundle.path,
        spec: &bundle.spec,
        state_root: &context.root,
        rootfs: Rootfs::Bundle,
        stdio: stdio(console, process),
        options: choices(&parsed, context)?,
    };
    let has_start_hooks = bundle
        .spec
        .hooks()
        .as_ref()
        .is_some_and(|h| h.start_container().is_some() || h.poststart().is_some());
    let started = match has_start_hooks {
        false => crate::run(create)?,
        true => start_with_hooks(create, context, &id)?,
    };
    started.warnings.iter().for_each(|w| context.log.warning(w));
    let follow = || -> Result<u8, Failure> {
        if let (Some(socket), Some(master)) = (&socket, &started.console) {
            hand_over(socket, master)?;
        }
        pid_file(parsed.get("pid-file"), started.pid)?;
        match &signals {
            None => Ok(0),
            Some(signals) => {
                let master = started.console.as_ref().filter(|_| console == Console::Own);
                foreground::follow(&started.pidfd, master, signals)
            }
        }
    };
    let status = follow();
    if (!detached && !parsed.has("keep")) || status.is_err() {
        let warnings = crate::delete(&context.root, &id, true)?;
        warnings.iter().for_each(|w| context.log.warning(w));
    }
    status
}

/// With hooks at the start there are two steps after all.
fn start_with_hooks(
    create: Create<'_>,
    context: &Context,
    id: &corten_spec::ContainerId,
) -> Result<crate::Execed, Failure> {
    let mut created = crate::create(create)?;
    if let Err(error) = created.start() {
        crate::delete(&context.root, id, true)?;
        return Err(error.into());
    }
    Ok(crate::Execed {
        pid: created.pid,
        pidfd: created.pidfd,
        console: created.console,
        warnings: created.warnings,
    })
}
