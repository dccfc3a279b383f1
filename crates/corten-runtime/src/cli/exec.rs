//! `exec`.

use std::ffi::OsString;
use std::path::Path;

use corten_cgroup::Below;
use oci_spec::runtime::{Capability, Process, Spec};

use super::options::{End, Known, Parsed, flag, parse, value};
use super::passing::Receiver;
use super::process::{Console, console, dial, document, hand_over, pid_file, stdio};
use super::{Context, Failure, UsageError, first_id, foreground};
use crate::lifecycle::{Target, exec_in};
use crate::plan::process::NAMES;
use crate::{Exec, Options};

pub(super) const EXEC: [Known; 18] = [
    value("console-socket"),
    value("cwd"),
    value("env").or('e'),
    flag("tty").or('t'),
    value("user").or('u'),
    value("additional-gids").or('g'),
    value("process").or('p'),
    flag("detach").or('d'),
    value("pid-file"),
    value("process-label"),
    value("apparmor"),
    flag("no-new-privs"),
    value("cap").or('c'),
    value("preserve-fds"),
    flag("no-new-keyring"),
    value("pidfd-socket"),
    value("cgroup"),
    flag("ignore-paused"),
];

pub(super) fn exec(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let mut parsed = parse(args, &EXEC, End::At(1))?;
    let id = first_id(&parsed)?;
    let command: Vec<OsString> = parsed
        .positional
        .drain(1..)
        .chain(std::mem::take(&mut parsed.rest))
        .collect();
    let (process, target) = match parsed.get("process") {
        Some(path) => {
            let (process, warnings) = document(Path::new(path))?;
            warnings.iter().for_each(|w| context.log.warning(w));
            (process, None)
        }
        None => {
            let target = Target::open(&context.root, &id)?;
            (build(&parsed, command, &target.spec)?, Some(target))
        }
    };
    let detached = parsed.has("detach");
    let console = console(&process, parsed.get("console-socket"), detached)?;
    let socket = match console {
        Console::Socket(path) => Some(dial("console", path)?),
        _ => None,
    };
    let receiver = Receiver::dial(&parsed, None)?;
    let below = groups(&parsed)?;
    let signals = match detached {
        true => None,
        false => Some(foreground::Signals::catch()?),
    };
    let exec = Exec {
        id: &id,
        state_root: &context.root,
        process: &process,
        stdio: stdio(console, &process),
        options: Options {
            preserve_fds: parsed.number("preserve-fds")?.unwrap_or(0),
            no_new_keyring: parsed.has("no-new-keyring"),
            rootless: context.rootless,
            ignore_paused: parsed.has("ignore-paused"),
            below,
            ..Options::default()
        },
    };
    let added = match target {
        Some(target) => exec_in(target, exec),
        None => crate::exec(exec),
    }?;
    added.warnings.iter().for_each(|w| context.log.warning(w));
    let follow = || -> Result<u8, Failure> {
        if let (Some(socket), Some(master)) = (&socket, &added.console) {
            hand_over(socket, master)?;
        }
        receiver.send("setns", &added.pidfd)?;
        pid_file(parsed.get("pid-file"), added.pid)?;
        match &signals {
            None => Ok(0),
            Some(signals) => {
                let master = added.console.as_ref().filter(|_| console == Console::Own);
                foreground::follow(&added.pidfd, master, signals)
            }
        }
    };
    follow().inspect_err(|_| {
        // Nobody would wait for it. It may have ended by itself.
        let _ = corten_sys::process::send_signal(&added.pidfd, 9);
    })
}

/// `PATH`, or `CONTROLLER[,CONTROLLER…]:PATH` as often as there are hierarchies.
fn groups(parsed: &Parsed) -> Result<Vec<Below>, Failure> {
    let mut groups: Vec<Below> = Vec::new();
    let bad = |text: &str, must| UsageError::Bad {
        name: "cgroup",
        text: text.into(),
        must,
    };
    for text in parsed.all("cgroup") {
        let Some((controllers, path)) = text.split_once(':') else {
            if parsed.all("cgroup").count() > 1 {
                return Err(bad(text, "given once, or with controllers").into());
            }
            groups.push(Below {
                controller: None,
                path: text.into(),
            });
            continue;
        };
        for controller in controllers.split(',') {
            let again = groups
                .iter()
                .any(|g| g.controller.as_deref() == Some(controller));
            if controller.is_empty() || again {
                return Err(bad(text, "a path after controllers that are named once").into());
            }
            groups.push(Below {
                controller: Some(controller.into()),
                path: path.into(),
            });
        }
    }
    Ok(groups)
}

/// The container's own process with what the command line changes.
fn build(parsed: &Parsed, command: Vec<OsString>, spec: &Spec) -> Result<Process, Failure> {
    let own = spec
        .process()
        .as_ref()
        .ok_or(Failure::Refused("process of the spec is missing"))?;
    let mut process = own.clone();
    let arguments = command
        .into_iter()
        .map(|a| a.into_string().map_err(UsageError::Encoding));
    process.set_args(Some(arguments.collect::<Result<_, _>>()?));
    process.set_terminal(Some(parsed.has("tty")));
    process.set_console_size(None);
    if let Some(cwd) = parsed.get("cwd") {
        process.set_cwd(cwd.into());
    }
    let mut environment = own.env().clone().unwrap_or_default();
    environment.extend(parsed.all("env").map(String::from));
    process.set_env(Some(environment));
    if parsed.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = parsed.get("process-label") {
        process.set_selinux_label(Some(label.into()));
    }
    if let Some(profile) = parsed.get("apparmor") {
        process.set_apparmor_profile(Some(profile.into()));
    }
    identity(parsed, &mut process)?;
    capabilities(parsed, &mut process)?;
    Ok(process)
}

/// `UID[:GID]`, numbers only: names are the engine's business. Strict, as a mistake here is another user
/// (CVE-2026-30892).
fn identity(parsed: &Parsed, process: &mut Process) -> Result<(), Failure> {
    let bad = |name, text: &str| UsageError::Bad {
        name,
        text: text.into(),
        must: "made of user and group ids",
    };
    let number = |name, text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>()
            .ok()
            .filter(|n| digits && *n != u32::MAX)
            .or(corten_sys::weakened!("user.lenient").then_some(0))
            .ok_or_else(|| bad(name, text))
    };
    let mut user = process.user().clone();
    if let Some(text) = parsed.get("user") {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        user.set_uid(number("user", uid)?);
        if let Some(gid) = gid {
            user.set_gid(number("user", gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for text in parsed.all("additional-gids") {
        groups.push(number("additional-gids", text)?);
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    Ok(())
}

/// Each `--cap` is added to the sets that runc adds it to.
fn capabilities(parsed: &Parsed, process: &mut Process) -> Result<(), Failure> {
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for text in parsed.all("cap") {
        let capability = named(text)?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_permitted(with(sets.permitted()));
        sets.set_effective(with(sets.effective()));
        // An ambient capability must be inheritable, which is not added here.
        if sets.inheritable().is_some() {
            sets.set_ambient(with(sets.ambient()));
        }
    }
    if parsed.get("cap").is_some() {
        process.set_capabilities(Some(sets));
    }
    Ok(())
}

fn named(text: &str) -> Result<Capability, Failure> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = NAMES.iter().find(|(_, known)| *known == name);
    known.map(|(capability, _)| *capability).ok_or_else(|| {
        Failure::Usage(UsageError::Bad {
            name: "cap",
            text: text.into(),
            must: "a capability's name",
        })
    })
}

/// For the fuzzer. Whatever is understood as a user is the very number that was written.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(args: Vec<OsString>) {
    let Ok(parsed) = parse(args, &EXEC, End::At(1)) else {
        return;
    };
    let _ = first_id(&parsed);
    let Ok(process) = build(&parsed, Vec::new(), &crate::spec::default()) else {
        return;
    };
    if let Some(user) = parsed.get("user") {
        let (uid, gid) = (process.user().uid(), process.user().gid());
        let plain = |text: &str, id: u32| text.trim_start_matches('0').parse().unwrap_or(0) == id;
        let (first, second) = user.split_once(':').unwrap_or((user, "0"));
        assert!(
            plain(first, uid) && plain(second, gid),
            "{user} is {uid}:{gid}"
        );
    }
}
