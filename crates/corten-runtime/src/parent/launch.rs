//! The clone: which namespaces come with it, which are joined before or after, and how the maker finds its
//! way back.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::exec::Program;
use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{self, Child, Clone};
use corten_sys::trampoline::{self, Trampoline};
use corten_sys::weakened;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::place::{self, Place};
use crate::error::{Error, failed, unsupported};
use crate::handshake::{self, Message};
use crate::init::Parts;
use crate::parent::watch;
use crate::plan::namespaces::Plan;
use crate::plan::process::Plan as ProcessPlan;
use crate::request::Stdio;

/// What is asked for besides the plan of a process.
#[derive(Debug)]
pub(crate) struct Asked {
    pub stdio: Stdio,
    pub terminal: Option<OwnedFd>,
    pub preserve_fds: u32,
    pub capabilities: u64,
    /// See [`Parts::forks`].
    pub forks: bool,
}

/// The parts of a process that are made beforehand.
pub(crate) fn parts(plan: &ProcessPlan, asked: Asked) -> Result<Parts, Error> {
    let Asked {
        stdio,
        terminal,
        preserve_fds,
        capabilities,
        forks,
    } = asked;
    check_preserved(preserve_fds)?;
    let program = Program::new(
        plan.paths.clone(),
        plan.arguments.clone(),
        plan.environment.clone(),
        plan.wants_home,
    );
    let sealed = trampoline::is_sealed().map_err(failed("examine", "/proc/self/exe"))?;
    let sealed = sealed || weakened!("trampoline.none");
    let filter = plan.filter.as_ref().filter(|_| plan.no_new_privileges);
    // A call on which an agent decides is one that may pass.
    if let (false, false, Some(filter)) = (sealed, plan.no_new_privileges, &plan.filter)
        && let Some(call) = ["execveat", "fcntl"].iter().find(|c| !filter.may_pass(c))
    {
        // See `trampoline`: it runs under the filter. A sealed caller does without it.
        return Err(unsupported(format!(
            "a seccomp policy without {call} and without process.noNewPrivileges, in a process that is not sealed,"
        )));
    }
    let trampoline = (!sealed || forks).then(|| Trampoline::reserve(&program, filter));
    let procfs = match forks && (plan.apparmor.is_some() || plan.selinux.is_some()) {
        true => Some(crate::init::root::procfs().map_err(failed("mount", "proc"))?),
        false => None,
    };
    let stdio = match stdio {
        Stdio::Inherit | Stdio::Terminal { .. } => None,
        Stdio::Fds {
            stdin,
            stdout,
            stderr,
        } => Some(clear_of_stdio([stdin, stdout, stderr])?),
    };
    Ok(Parts {
        program,
        trampoline,
        terminal,
        stdio,
        capabilities,
        preserve_fds,
        forks,
        procfs,
        found: 0,
    })
}

/// Descriptors 0 to 2 among those given would be overwritten by one another.
fn clear_of_stdio(fds: [OwnedFd; 3]) -> Result<[OwnedFd; 3], Error> {
    use std::os::fd::AsRawFd;
    let [a, b, c] = fds.map(|fd| match fd.as_raw_fd() {
        0..=2 => rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(failed("copy", "stdio")),
        _ => Ok(fd),
    });
    Ok([a?, b?, c?])
}

/// All descriptors that are to be preserved must be there: else one that we open would take its number.
fn check_preserved(count: u32) -> Result<(), Error> {
    let last = 3 + count;
    let missing = (3..last).find(|n| !Path::new("/proc/self/fd").join(n.to_string()).exists());
    match missing {
        Some(number) => Err(crate::error::invalid(
            "preserve-fds",
            format!("is {count}, but descriptor {number} is not open"),
        )),
        None => Ok(()),
    }
}

/// A pair of sockets; the second is init's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let at = || failed("make a pair of sockets", "");
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(at())?;
    watch::prepare(&ours).map_err(at())?;
    Ok((ours, theirs))
}

/// How the namespaces of a plan are reached.
#[derive(Debug, Default)]
pub(crate) struct Route {
    pub by_clone: Namespaces,
    pub unshared_by_init: Namespaces,
    pub joined_by_init: Vec<(Namespaces, OwnedFd)>,
    /// The new user namespace, after those are joined.
    pub user_by_init: bool,
    /// The new time namespace with its offsets.
    pub offsets_by_init: bool,
    /// Init unshares the pid namespace, so it takes a process more to be in it.
    pub forks: bool,
    /// `newuidmap` must be able to see the new process.
    pub seen: bool,
    /// Joined or made by the maker around the clone, with the way back.
    around: Vec<Around>,
    time_offsets: Option<String>,
}

#[derive(Debug)]
struct Around {
    kind: Namespaces,
    /// `None`: a new one.
    to: Option<OwnedFd>,
    back: OwnedFd,
}

/// Opens what is joined, and decides who joins it when.
///
/// A new user namespace owns the others that come with the same clone; what existed before belongs to
/// somebody else, and init, once inside, may not join it. So then the maker does, for the moment of
/// the clone. A pid namespace can only be joined for children, so that one is always joined here.
///
/// A maker without rights joins nothing; all of it is init's then, the user namespace first, since there it has
/// them. A maker that is root of a user namespace has the rights, but no way back: then init joins first, and makes
/// its user namespace after.
pub(crate) fn route(plan: &Plan, place: &mut Place, cgroup_by_init: bool) -> Result<Route, Error> {
    let mut route = Route {
        by_clone: plan.new,
        seen: plan.makes_user() && !place.maps,
        ..Route::default()
    };
    if plan.network_ahead() {
        route.by_clone = route.by_clone.without(Namespaces::NETWORK);
    }
    if cgroup_by_init {
        // It must be made after the process has entered its v1 groups, or it would show their parents.
        route.by_clone = route.by_clone.without(Namespaces::CGROUP);
        let made = plan.new.contains(Namespaces::CGROUP);
        route.unshared_by_init = if made {
            Namespaces::CGROUP
        } else {
            Namespaces::NONE
        };
    }
    if plan.makes_user() {
        // What these make at birth (the root of mqueue, network devices in sysfs) belongs to the user
        // namespace's root, who is nobody until the ids are mapped: so after that.
        for kind in [Namespaces::IPC, Namespaces::NETWORK] {
            if route.by_clone.contains(kind) {
                route.by_clone = route.by_clone.without(kind);
                route.unshared_by_init = route.unshared_by_init.with(kind);
            }
        }
    }
    // In a user namespace, what we would return to is not ours to join.
    let returns = !plan.inside && place.around.ids.is_none();
    let mut joined = std::mem::take(&mut place.joined);
    // The user namespace last, while the maker's rights are more than those that it gives; or first.
    joined.sort_by_key(|(kind, _)| (*kind == Namespaces::USER) != plan.inside);
    let joins_user = plan.joined(Namespaces::USER);
    for (kind, fd) in joined {
        let around = returns && (kind == Namespaces::PID || plan.makes_user());
        // It takes the root along, and there is no way back.
        match around && kind != Namespaces::MOUNT {
            true => route.around.push(Around {
                kind,
                to: Some(fd),
                back: own(kind)?,
            }),
            false => {
                route.forks |= kind == Namespaces::PID;
                route.joined_by_init.push((kind, fd));
            }
        }
    }
    if plan.makes_user() && !route.joined_by_init.is_empty() {
        // They are to be joined before the new user namespace takes away the right to.
        route.user_by_init = true;
        route.unshared_by_init = route
            .unshared_by_init
            .with(route.by_clone.without(Namespaces::USER));
        route.by_clone = Namespaces::NONE;
        route.forks |= plan.new.contains(Namespaces::PID) || plan.new.contains(Namespaces::TIME);
    }
    if joins_user {
        // New ones must belong to the joined user namespace.
        route.unshared_by_init = route.unshared_by_init.with(route.by_clone);
        route.by_clone = Namespaces::NONE;
        // Both are for children only.
        route.forks |= plan.new.contains(Namespaces::PID) || plan.new.contains(Namespaces::TIME);
    }
    if let Some(offsets) = &plan.time_offsets {
        // Offsets can be written only while nobody is in it yet (time_namespaces(7)).
        route.by_clone = route.by_clone.without(Namespaces::TIME);
        route.unshared_by_init = route.unshared_by_init.without(Namespaces::TIME);
        if !returns {
            route.offsets_by_init = true;
            route.forks = true;
            // Init of a pid namespace cannot hand over to a sibling (clone(2), CLONE_PARENT).
            if route.by_clone.contains(Namespaces::PID) {
                route.by_clone = route.by_clone.without(Namespaces::PID);
                route.unshared_by_init = route.unshared_by_init.with(Namespaces::PID);
            }
            return Ok(route);
        }
        route.time_offsets = Some(offsets.clone());
        route.around.push(Around {
            kind: Namespaces::TIME,
            to: None,
            back: own(Namespaces::TIME)?,
        });
    }
    Ok(route)
}

fn open_namespace(path: &Path) -> Result<OwnedFd, Error> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the namespace", path))
}

fn own(kind: Namespaces) -> Result<OwnedFd, Error> {
    open_namespace(&Path::new("/proc/self/ns").join(place::name(kind)))
}

impl Route {
    /// A route for a process that joins the pid namespace `to`, and the others by itself.
    pub fn into_pid(to: OwnedFd) -> Result<Self, Error> {
        Ok(Self {
            around: vec![Around {
                kind: Namespaces::PID,
                to: Some(to),
                back: own(Namespaces::PID)?,
            }],
            ..Self::default()
        })
    }

    /// Clones, with this process where the route wants it, and returns it to where it was. `ours` is the maker's
    /// end of the socket pair: init must not hold it, or it would never see the maker's end.
    pub fn clone(
        &self,
        cgroup: Option<&OwnedFd>,
        ours: &OwnedFd,
        child: impl FnOnce() -> i32,
    ) -> Result<Child, Error> {
        // The maker's memory is the child's too: neither may be looked at from inside a container.
        match self.seen {
            true => process::set_dumpable(),
            false => process::set_undumpable(),
        }
        .map_err(failed("protect the process's memory", ""))?;
        let mut entered = 0;
        let born = self.there(&mut entered).and_then(|()| {
            let request = Clone {
                namespaces: self.by_clone,
                cgroup: cgroup.map(AsFd::as_fd),
                without: Some(ours.as_fd()),
                ..Clone::default()
            };
            process::clone(&request, child).map_err(failed("start a process", ""))
        });
        if self.seen {
            // Init hides itself when its ids are mapped.
            process::set_undumpable().map_err(failed("protect the process's memory", ""))?;
        }
        for around in self.around[..entered].iter().rev() {
            if let Err(errno) = namespace::enter(&around.back, around.kind) {
                // Nobody would own it.
                if let Ok(child) = &born {
                    let _ = process::send_signal(&child.pidfd, 9);
                    let _ = process::wait(&child.pidfd);
                }
                return Err(failed("return to the runtime's own namespace", "")(errno));
            }
        }
        born
    }

    fn there(&self, entered: &mut usize) -> Result<(), Error> {
        for around in &self.around {
            match &around.to {
                Some(to) => {
                    namespace::enter(to, around.kind).map_err(failed("join the namespace", ""))?
                }
                None => {
                    namespace::unshare(around.kind).map_err(failed("make the namespace", "time"))?
                }
            }
            *entered += 1;
        }
        match &self.time_offsets {
            Some(offsets) => write_file(Path::new("/proc/self/timens_offsets"), offsets),
            None => Ok(()),
        }
    }
}

/// The process that goes on, where the first had to fork.
pub(crate) fn adopt(first: &Child, socket: &OwnedFd, program: &OsStr) -> Result<Child, Error> {
    match watch::receive(socket, first.pid, watch::MAKING)? {
        Message::Forked { pid } => {
            process::wait(&first.pidfd).map_err(failed("wait for", "init's first process"))?;
            let sibling = sibling(pid)?;
            handshake::send_go(socket).map_err(failed("talk to", "the process that goes on"))?;
            Ok(sibling)
        }
        other => Err(reap(first, other, program)),
    }
}

/// The process `pid`, which the first says it has made. It must be a child of ours: who could speak for the
/// first would have us signal anybody.
pub(crate) fn sibling(pid: u32) -> Result<Child, Error> {
    let adopt = || -> Result<OwnedFd, Errno> {
        let raw = Pid::from_raw(pid as i32).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(pidfd.as_fd()), look)?;
        Ok(pidfd)
    };
    let pidfd = adopt().map_err(failed("adopt", "the process that goes on"))?;
    Ok(Child { pid, pidfd })
}

/// Gives the process `who` of /proc an OOM score. Lowering it takes CAP_SYS_RESOURCE; without, our own is the
/// lowest there is, as containerd's `restrict_oom_score_adj` has it.
pub(crate) fn oom_score(who: &str, score: i32) -> Result<(), Errno> {
    const OWN: &str = "/proc/self/oom_score_adj";
    let file = format!("/proc/{who}/oom_score_adj");
    match write_text(file.as_ref(), &score.to_string()) {
        Err(Errno::ACCESS) => {
            let own = std::fs::read_to_string(OWN);
            let own = own.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            let own = own.trim().parse().unwrap_or(0);
            write_text(file.as_ref(), &score.max(own).to_string())
        }
        other => other,
    }
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    write_text(path, text).map_err(failed("write", path))
}

fn write_text(path: &Path, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

/// Our own OOM score, lent to a process that we are about to make: without root we cannot write to one that hides
/// from us. Given back on drop.
#[derive(Debug)]
pub(crate) struct Lent {
    file: OwnedFd,
    own: String,
}

impl Lent {
    /// To be called before this process hides itself.
    pub fn score(score: i32) -> Result<Self, Error> {
        const PATH: &str = "/proc/self/oom_score_adj";
        let at = || failed("write", PATH);
        process::set_dumpable().map_err(at())?;
        let own = std::fs::read_to_string(PATH).map_err(crate::error::failed_io("read", PATH))?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(CWD, PATH, flags, Mode::empty()).map_err(at())?;
        // Lower than our own we may not go: then it stays, as in `oom_score`.
        match rustix::io::write(&file, score.to_string().as_bytes()) {
            Ok(_) | Err(Errno::ACCESS) => Ok(Self { file, own }),
            Err(errno) => Err(at()(errno)),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What it stays at otherwise is no more than this process asked for, and it is about to end.
        let _ = rustix::io::write(&self.file, self.own.trim().as_bytes());
    }
}

/// Reaps a child that has reported its failure, or died without a word.
pub(crate) fn reap(child: &Child, message: Message, program: &OsStr) -> Error {
    // It ends by itself, unless a process of the container stopped it or spoke in its name.
    let _ = process::send_signal(&child.pidfd, 9);
    let ended = process::wait(&child.pidfd);
    match message {
        Message::Failed { step, errno, path } => handshake::error(step, errno, path, program),
        _ => Error::Died {
            status: ended.map_or_else(|e| e.to_string(), |exit| exit.to_string()),
        },
    }
}

/// The name of a container's session keyring, as runc names it.
pub(crate) fn keyring_name(id: &str) -> Option<CString> {
    CString::new(format!("_ses.{id}")).ok()
}

/// `argv[0]`, for error messages.
pub(crate) fn program_name(plan: &ProcessPlan) -> &OsStr {
    OsStr::from_bytes(plan.arguments.first().map_or(b"", |a| a.as_bytes()))
}
