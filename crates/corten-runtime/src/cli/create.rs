//! `create` and `run`.

use std::ffi::OsString;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};

use super::options::{End, Known, Parsed, flag, parse, value};
use super::passing::{self, Receiver};
use super::process::{Console, console, dial, document, hand_over, pid_file, stdio};
use super::{Context, Failure, foreground, id};
use crate::{Create, Options, Rootfs};

pub(super) const CREATE: [Known; 7] = [
    value("bundle").or('b'),
    value("console-socket"),
    value("pid-file"),
    value("preserve-fds"),
    flag("no-pivot"),
    flag("no-new-keyring"),
    value("pidfd-socket"),
];

pub(super) const RUN: [Known; 10] = [
    CREATE[0],
    CREATE[1],
    CREATE[2],
    CREATE[3],
    CREATE[4],
    CREATE[5],
    CREATE[6],
    flag("detach").or('d'),
    flag("keep"),
    // We never become one.
    flag("no-subreaper"),
];

/// A bundle, read.
pub(super) struct Bundle {
    pub path: PathBuf,
    pub spec: Spec,
    pub warnings: Vec<String>,
}

pub(super) fn bundle(parsed: &Parsed) -> Result<Bundle, Failure> {
    let given = PathBuf::from(parsed.get("bundle").unwrap_or("."));
    let path = given.canonicalize().map_err(|source| Failure::File {
        what: "open the bundle",
        path: given,
        source,
    })?;
    let (mut spec, warnings) = document(&path.join("config.json"))?;
    passing::announce(&mut spec)?;
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
        preserve_fds: passing::descriptors(parsed)?,
        ..Options::default()
    })
}

pub(super) fn process(spec: &Spec) -> Result<&Process, Failure> {
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
    let receiver = Receiver::dial(&parsed, Some(&bundle.spec))?;
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
        receiver.send("standard", &created.pidfd)?;
        pid_file(parsed.get("pid-file"), created.pid)
    };
    // Nobody knows of it yet, so nobody else would remove it.
    tell().inspect_err(|_| drop(crate::delete(&context.root, &id, true)))?;
    Ok(0)
}

pub(super) fn socket(console: Console<'_>) -> Result<Option<std::os::fd::OwnedFd>, Failure> {
    match console {
        Console::Socket(path) => dial("console", path).map(Some),
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
    let receiver = Receiver::dial(&parsed, Some(&bundle.spec))?;
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
        receiver.send("standard", &started.pidfd)?;
        pid_file(parsed.get("pid-file"), started.pid)?;
        match &signals {
            None => Ok(0),
            Some(signals) => {
                let master = started.console.as_ref().filter(|_| console == Console::Own);
                foreground::follow(&started.pidfd, master, signals)
            }
        }
    };
    let removed = !detached && !parsed.has("keep");
    // While it runs there is time.
    let ending = match removed {
        true => crate::lifecycle::Ending::open(&context.root, &id).ok(),
        false => None,
    };
    let status = follow();
    if removed || status.is_err() {
        let warnings = match ending {
            Some(ending) => ending.remove()?,
            None => crate::delete(&context.root, &id, true)?,
        };
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
