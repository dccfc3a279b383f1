//! Init: the container's first process, from its birth to its `execve`.
//!
//! It runs on a copy of its maker's memory, reads a finished plan, and makes system calls: no parsing, no
//! threads, no look at the host's files. Each step is a function below; the first that fails is
//! reported and ends it.

pub(crate) mod copy_up;
pub(crate) mod guest;
pub(crate) mod identity;
pub(crate) mod inside;
pub(crate) mod mounts;
pub(crate) mod program;
pub(crate) mod root;
mod shared;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};

use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{self, Clone};
use corten_sys::{keyring, signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::handshake::{self, Failure, Step};
use crate::parent::prepare::Prepared;
use crate::parent::shipment;
use crate::plan::Plan;
pub(crate) use program::Parts;

/// When init may execute its program.
#[derive(Debug)]
pub(crate) enum Start {
    /// After somebody has connected to this socket and said so.
    Gate(OwnedFd),
    /// When the maker has finished.
    Now,
}

/// All that init has.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    pub plan: &'a Plan,
    /// What the maker has no right to prepare.
    pub inside: Option<inside::Inside>,
    pub parts: Parts,
    /// The way into the cgroups that have no other.
    pub tasks: Vec<OwnedFd>,
    /// Namespaces to join here; others were joined by the maker.
    pub join: Vec<(Namespaces, OwnedFd)>,
    /// Namespaces to make here; others came with the clone.
    pub unshare: Namespaces,
    /// The user namespace as well, first; the maker is told when its ids can be mapped.
    pub makes_user: bool,
    /// The time namespace with its offsets, last.
    pub offsets: bool,
    pub keyring: Option<CString>,
    pub socket: OwnedFd,
    pub start: Start,
    /// The new pid namespace is unshared, so only a process more is in it.
    pub forks: bool,
    /// The maker has hooks to run between mounts and pivot.
    pub hooks: bool,
    /// Where such hooks expect the root.
    pub root_at: CString,
    pub no_pivot: bool,
    /// Nobody will come to the gate.
    pub parked: bool,
    /// The maker, if init is to end with it.
    pub caller: Option<OwnedFd>,
}

impl<'a> Init<'a> {
    /// Returns only on failure, with the exit status, or as the forerunner.
    pub fn run(mut self) -> i32 {
        if let Err(failure) = self.enter() {
            // The maker has no other way to learn of it; if it is gone, nobody cares.
            let _ = handshake::send_failure(&self.socket, &failure);
            return 1;
        }
        match self.forks {
            true => self.fork(),
            false => self.go_on(),
        }
    }

    /// Hands over to a sibling, which like us is the maker's child.
    fn fork(self) -> i32 {
        match rustix::io::fcntl_dupfd_cloexec(&self.socket, 3) {
            Ok(socket) => hand_over(&socket, || self.go_on()),
            Err(_) => 1,
        }
    }

    fn go_on(mut self) -> i32 {
        let failure = match self.set_up() {
            Ok(()) => match self.wait() {
                Ok(report) => {
                    let Self { plan, parts, .. } = self;
                    let failure = program::execute(&plan.process, parts, report.as_fd());
                    // The maker has no other way to learn of it; if it is gone, nobody cares.
                    let _ = handshake::send_failure(&report, &failure);
                    return 1;
                }
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        let _ = handshake::send_failure(&self.socket, &failure);
        1
    }

    /// The kernel kills us when the maker dies, from here on. One that died before is seen by its handle.
    fn tie_to_caller(&self) -> Result<(), Failure<'a>> {
        let Some(caller) = &self.caller else {
            return Ok(());
        };
        let tie = || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            match poll(&mut [PollFd::new(caller, PollFlags::IN)], Some(&now))? {
                0 => Ok(()),
                _ => Err(Errno::OWNERDEAD),
            }
        };
        tie().map_err(Failure::at(Step::Session, b""))
    }

    fn set_up(&mut self) -> Result<(), Failure<'a>> {
        let plan = self.plan;
        // Not inherited by a sibling.
        self.tie_to_caller()?;
        if let Some(name) = &self.keyring {
            keyring::new_session(name).map_err(Failure::at(Step::Keyring, b""))?;
        }
        rustix::process::setsid().map_err(Failure::at(Step::Session, b""))?;
        self.names()?;
        let joined = plan.namespaces.joined(Namespaces::MOUNT);
        let mut prepared = self.prepared()?;
        let root = match joined {
            true => guest::assemble(plan, &mut prepared)?,
            false => mounts::assemble(plan, &mut prepared, &self.root_at)?,
        };
        if self.hooks {
            self.ask()?;
        }
        match joined {
            true => guest::change_root(&root)?,
            false => root::pivot(plan, &root, self.no_pivot)?,
        }
        root::finish(plan, &mut prepared)?;
        prepared.into_fds().for_each(let_go);
        if plan.process.arguments.is_empty() {
            // Nobody will start it: there is no process in the spec.
            return Ok(());
        }
        identity::apply(&plan.process, &mut self.parts)?;
        if self.parked {
            return Ok(());
        }
        program::find(&plan.process, &mut self.parts)
    }

    /// What we make ourselves and what the maker sends, which it makes meanwhile.
    fn prepared(&mut self) -> Result<Prepared, Failure<'a>> {
        let (all, maker) = (self.plan.mounts.len(), self.plan.first_of_maker());
        let rest = self.plan.first_of_network().min(maker.unwrap_or(all));
        let mut own = mounts::Own::default();
        mounts::make(self.plan, 0..rest, &mut own)?;
        if maker.is_some() {
            let told = handshake::send_mounted(&self.socket);
            told.map_err(Failure::at(Step::Handshake, b""))?;
        }
        let mut prepared = match self.inside.take() {
            Some(inside) => inside.prepare(self.plan, &mut self.parts)?,
            None => {
                let received = shipment::receive(&self.socket);
                let received = received.map_err(Failure::at(Step::Handshake, b""))?;
                if let Some(network) = received.network {
                    namespace::enter(&network, Namespaces::NETWORK)
                        .map_err(Failure::at(Step::JoinNamespace, b"net"))?;
                }
                self.parts.terminal = received.terminal;
                received.prepared
            }
        };
        mounts::make(self.plan, rest..all, &mut own)?;
        if !self.plan.namespaces.joined(Namespaces::MOUNT) {
            mounts::detach()?;
        }
        for (index, ready) in own.mounts {
            let slot = prepared.mounts.get_mut(index);
            *slot.ok_or(Failure::new(Step::Handshake, Errno::PROTO, b""))? = ready;
        }
        prepared.device_binds.extend(own.device_binds);
        Ok(prepared)
    }

    /// Control groups, namespaces, and who we are in them.
    fn enter(&mut self) -> Result<(), Failure<'a>> {
        self.tie_to_caller()?;
        signal::reset_ignored();
        signal::Mask::empty()
            .install()
            .map_err(Failure::at(Step::Session, b""))?;
        for tasks in self.tasks.drain(..) {
            rustix::io::write(&tasks, b"0").map_err(Failure::at(Step::EnterCgroup, b""))?;
        }
        let rule = self.plan.process.group_rule;
        for (kind, fd) in self.join.drain(..) {
            namespace::enter(&fd, kind).map_err(Failure::at(Step::JoinNamespace, b""))?;
            if kind == Namespaces::USER {
                identity::become_root(rule)?;
            }
        }
        if self.makes_user {
            let seen = || -> Result<(), Errno> {
                namespace::unshare(Namespaces::USER)?;
                handshake::send_mounted(&self.socket)
            };
            seen().map_err(Failure::at(Step::NewNamespace, b"user"))?;
        }
        if self.plan.namespaces.makes_user() {
            // The maker writes the maps, and says when. Until then `newuidmap` had to see us.
            handshake::wait_go(&self.socket).map_err(Failure::at(Step::Handshake, b""))?;
            process::set_undumpable().map_err(Failure::at(Step::Session, b""))?;
            identity::become_root(rule)?;
        }
        if !self.unshare.is_empty() {
            namespace::unshare(self.unshare).map_err(Failure::at(Step::NewNamespace, b""))?;
        }
        if let (true, Some(offsets)) = (self.offsets, &self.plan.namespaces.time_offsets) {
            inside::time_offsets(offsets)?;
        }
        Ok(())
    }

    fn names(&self) -> Result<(), Failure<'a>> {
        // As runc does: nobody who makes a network for a container expects to have to do this.
        let namespaces = &self.plan.namespaces;
        if namespaces.new.contains(Namespaces::NETWORK) && !namespaces.network_ahead() {
            namespace::loopback_up().map_err(Failure::at(Step::Loopback, b""))?;
        }
        if let Some(name) = &self.plan.hostname {
            namespace::set_hostname(name.as_bytes())
                .map_err(Failure::at(Step::Hostname, name.as_bytes()))?;
        }
        if let Some(name) = &self.plan.domainname {
            namespace::set_domainname(name.as_bytes())
                .map_err(Failure::at(Step::Domainname, name.as_bytes()))?;
        }
        Ok(())
    }

    fn ask(&self) -> Result<(), Failure<'a>> {
        let seen = self.plan.namespaces.inside;
        let ask = || -> Result<(), Errno> {
            // A maker without rights can join only who may be looked at.
            if seen {
                process::set_dumpable()?;
            }
            handshake::send_mounted(&self.socket)?;
            handshake::wait_go(&self.socket)?;
            if seen {
                process::set_undumpable()?;
            }
            Ok(())
        };
        ask().map_err(Failure::at(Step::Handshake, b""))
    }

    /// Waits for the start. Returns where a failure of it goes.
    fn wait(&mut self) -> Result<OwnedFd, Failure<'a>> {
        // Becoming the user has undone it (prctl(2), PR_SET_PDEATHSIG).
        self.tie_to_caller()?;
        if self.parked {
            return self.park().map_err(Failure::at(Step::Gate, b""));
        }
        let starter = self.wait_at_gate()?;
        if self.caller.is_some() {
            set_parent_process_death_signal(None).map_err(Failure::at(Step::Gate, b""))?;
        }
        Ok(starter)
    }

    /// Stays for good, without anything of the maker's but its memory, which nobody may look at.
    fn park(&mut self) -> Result<OwnedFd, Errno> {
        process::set_undumpable()?;
        // The kernel then buries our children itself (wait(2)), those that we inherit among them.
        signal::ignore_children()?;
        // Before anybody can join our namespaces and look.
        process::close_all_but(&self.socket)?;
        handshake::send_ready(&self.socket)?;
        match process::park()? {}
    }

    fn wait_at_gate(&mut self) -> Result<OwnedFd, Failure<'a>> {
        let at = Failure::at;
        let go = || -> Result<OwnedFd, Errno> {
            match &self.start {
                Start::Now => {
                    handshake::wait_go(&self.socket)?;
                    rustix::io::fcntl_dupfd_cloexec(&self.socket, 3)
                }
                Start::Gate(listener) => {
                    handshake::send_ready(&self.socket)?;
                    let starter = loop {
                        match accept_with(listener, SocketFlags::CLOEXEC) {
                            Err(Errno::INTR | Errno::CONNABORTED) => {}
                            other => break other?,
                        }
                    };
                    handshake::wait_go(&starter)?;
                    Ok(starter)
                }
            }
        };
        go().map_err(at(Step::Gate, b""))
    }
}

/// Goes on as a sibling, which like us is the maker's child. Returns the forerunner's exit status.
pub(crate) fn hand_over(socket: &OwnedFd, go_on: impl FnOnce() -> i32) -> i32 {
    let request = Clone {
        sibling: true,
        ..Clone::default()
    };
    let born = process::clone(&request, || {
        // Not before the maker knows who it is: its word would come before ours.
        match handshake::wait_go(socket) {
            Ok(()) => go_on(),
            Err(_) => 1,
        }
    });
    let told = match born {
        Ok(child) => handshake::send_forked(socket, child.pid),
        Err(errno) => handshake::send_failure(socket, &Failure::new(Step::Fork, errno, b"")),
    };
    i32::from(told.is_err())
}

/// Lets go of a descriptor that is needed no more, but closes it only where there are many: exec closes all
/// of them in one go, and a close for each is a tenth of init's system calls.
pub(crate) fn let_go(fd: OwnedFd) {
    const MANY: i32 = 256;
    if fd.as_raw_fd() < MANY {
        let _ = fd.into_raw_fd();
    }
}
