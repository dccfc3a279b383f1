//! What a process may: limits, identity, capabilities; and its stdio. Init and added processes alike.

use corten_sys::capability::{self, Sets};
use corten_sys::{process, schedule};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;

use super::program::Parts;
use crate::handshake::{Failure, Step};
use crate::plan::process::{GroupRule, Plan};

const SYS_ADMIN: u64 = 1 << 21;

pub(crate) fn apply<'a>(plan: &'a Plan, parts: &mut Parts) -> Result<(), Failure<'a>> {
    scheduling(plan)?;
    for limit in &plan.limits {
        schedule::set_limit(limit.resource, limit.soft, limit.hard)
            .map_err(Failure::at(Step::Limit, limit.name.as_bytes()))?;
    }
    stdio(plan, parts)?;
    label(plan)?;
    let inside = change_folder(plan, true)?;
    super::program::find_home(plan, parts).map_err(Failure::at(Step::Home, b"/etc/passwd"))?;
    become_user(plan, parts.capabilities)?;
    if !inside {
        change_folder(plan, false)?;
    }
    check_folder(plan)
}

fn scheduling(plan: &Plan) -> Result<(), Failure<'_>> {
    if let Some(scheduler) = plan.scheduler {
        schedule::set_scheduler(scheduler).map_err(Failure::at(Step::Scheduler, b""))?;
    }
    if let Some((class, level)) = plan.io_priority {
        schedule::set_io_priority(class, level).map_err(Failure::at(Step::IoPriority, b""))?;
    }
    if let Some((mode, nodes)) = &plan.memory_policy {
        let at = Failure::at(Step::MemoryPolicy, b"");
        schedule::set_memory_policy(*mode, nodes).map_err(at)?;
    }
    if let (_, Some(cpus)) = &plan.affinity {
        schedule::set_affinity(cpus).map_err(Failure::at(Step::Affinity, b""))?;
    }
    if let Some(persona) = plan.personality {
        schedule::set_personality(persona).map_err(Failure::at(Step::Personality, b""))?;
    }
    Ok(())
}

fn stdio<'a>(plan: &Plan, parts: &mut Parts) -> Result<(), Failure<'a>> {
    let at = |step| Failure::at(step, b"");
    if let Some(terminal) = &parts.terminal {
        rustix::process::ioctl_tiocsctty(terminal).map_err(at(Step::Terminal))?;
        for target in 0..3 {
            process::install(terminal, target).map_err(at(Step::Stdio))?;
        }
        return Ok(());
    }
    if let Some(stdio) = &parts.stdio {
        for (fd, target) in stdio.iter().zip(0..) {
            process::install(fd, target).map_err(at(Step::Stdio))?;
        }
    }
    if plan.uid != 0 {
        own_stdio(plan);
    }
    Ok(())
}

/// Gives pipes and sockets of stdio to the user, who may want to open `/dev/stdout`. Regular files and
/// devices are never touched: they may be the host's (CVE-2026-88265). Best effort: reading and writing
/// works without it.
fn own_stdio(plan: &Plan) {
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    for stream in streams {
        let Ok(stat) = fstat(stream) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::Fifo | FileType::Socket) {
            let owner = rustix::fs::Uid::from_raw(plan.uid);
            let _ = rustix::fs::fchown(stream, Some(owner), None);
        }
    }
}

/// The label takes effect at the next exec. Written through a procfs that nobody can have covered.
fn label(plan: &Plan) -> Result<(), Failure<'_>> {
    if plan.apparmor.is_none() && plan.selinux.is_none() {
        return Ok(());
    }
    let procfs = super::root::procfs().map_err(Failure::at(Step::Label, b"/proc"))?;
    let write = |file: &str, text: &[u8]| -> Result<(), Errno> {
        // thread-self is a link of procfs's own making.
        let path = format!("thread-self/attr/{file}");
        let fd = corten_sys::rooted::open(&procfs, path, OFlags::WRONLY)?;
        rustix::io::write(&fd, text).map(drop)
    };
    if let Some(profile) = &plan.apparmor {
        let text = [b"exec ", profile.as_bytes()].concat();
        write("apparmor/exec", &text).map_err(Failure::at(Step::Label, profile.as_bytes()))?;
    }
    if let Some(label) = &plan.selinux {
        let label = label.as_bytes();
        write("exec", label).map_err(Failure::at(Step::Label, label))?;
    }
    Ok(())
}

/// `false`: not permitted to whom we are now, may be to whom we become. A missing folder is made.
fn change_folder(plan: &Plan, as_root: bool) -> Result<bool, Failure<'_>> {
    let cwd = plan.cwd.as_c_str();
    let change = || match rustix::process::chdir(cwd) {
        Err(Errno::NOENT) if as_root => {
            let path = std::ffi::OsStr::new(
                std::str::from_utf8(cwd.to_bytes()).map_err(|_| Errno::NOENT)?,
            );
            let root = rustix::fs::openat(
                rustix::fs::CWD,
                c"/",
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            corten_sys::rooted::open_or_make(&root, path, corten_sys::rooted::Make::Folder)?;
            rustix::process::chdir(cwd)
        }
        other => other,
    };
    match change() {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS) if as_root => Ok(false),
        Err(errno) => Err(Failure::new(Step::Cwd, errno, cwd.to_bytes())),
    }
}

/// The working directory must lie in the root: a leaked descriptor of the host and
/// `/proc/self/fd/N` as the folder would lead out (CVE-2024-21626). The kernel then says "(unreachable)".
fn check_folder(plan: &Plan) -> Result<(), Failure<'_>> {
    let at = |errno| Failure::new(Step::CwdOutside, errno, plan.cwd.as_bytes());
    let found = rustix::process::getcwd(Vec::with_capacity(256)).map_err(at)?;
    match found.as_bytes().first() {
        Some(b'/') => Ok(()),
        _ => Err(at(Errno::NOENT)),
    }
}

/// Bounding set, ids, capabilities, in the order that leaves each step the privilege it needs.
fn become_user(plan: &Plan, available: u64) -> Result<(), Failure<'_>> {
    let asked = &plan.capabilities;
    for number in 0..64 {
        if available & !asked.bounding & 1 << number != 0 {
            match capability::drop_bounding(number) {
                // EINVAL: this kernel ends before this number.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(Failure::new(Step::Bounding, errno, b"")),
            }
        }
    }
    if plan.uid != 0 {
        capability::keep(true).map_err(Failure::at(Step::Identity, b""))?;
    }
    set_groups(plan.group_rule, &plan.groups).map_err(Failure::at(Step::Groups, b""))?;
    capability::set_user(plan.uid, plan.gid).map_err(Failure::at(Step::Identity, b""))?;
    if let Some(umask) = plan.umask {
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    }
    // A filter without no-new-privileges needs CAP_SYS_ADMIN until it is installed, which is the last thing
    // before exec. The exec itself takes it away: what a program gets is computed from the bounding,
    // inheritable and ambient sets alone (capabilities(7)).
    let held = match plan.filter.is_some() && !plan.no_new_privileges {
        true => SYS_ADMIN & available,
        false => 0,
    };
    let sets = Sets {
        effective: asked.effective & asked.permitted | held,
        permitted: asked.permitted | held,
        inheritable: asked.inheritable,
    };
    capability::set(sets).map_err(Failure::at(Step::Capabilities, b""))?;
    for number in (0..64).filter(|n| asked.ambient & 1 << n != 0) {
        capability::raise_ambient(number).map_err(Failure::at(Step::Capabilities, b""))?;
    }
    if plan.no_new_privileges {
        let at = Failure::at(Step::NoNewPrivileges, b"");
        capability::set_no_new_privileges().map_err(at)?;
    }
    Ok(())
}

/// The root of a user namespace that was just entered. It has every capability there, so nothing but the
/// namespace itself can deny it to drop groups.
pub(crate) fn become_root<'a>(rule: GroupRule) -> Result<(), Failure<'a>> {
    set_groups(rule, &[]).map_err(Failure::at(Step::BecomeRoot, b""))?;
    capability::set_user(0, 0).map_err(Failure::at(Step::BecomeRoot, b""))
}

fn set_groups(rule: GroupRule, groups: &[u32]) -> Result<(), Errno> {
    if rule == GroupRule::Keep {
        return Ok(());
    }
    match capability::set_groups(groups) {
        Err(Errno::PERM) if rule == GroupRule::SetUnlessDenied && groups.is_empty() => Ok(()),
        other => other,
    }
}
