//! While criu restores: its notifications, and what each is the moment for.

use std::os::fd::OwnedFd;

use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::Child;
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::checkpoint::refusal;
use super::kept::Kept;
use super::maker::hook_lists;
use crate::criu::message::Kind;
use crate::criu::{Criu, Heard};
use crate::error::{Error, failed, unsupported};
use crate::parent::hooks::{self, Moment};
use crate::plan::Plan;
use crate::state::{self, Folder, Record};

/// What is needed to answer criu.
pub(super) struct Scene<'a> {
    pub spec: &'a Spec,
    pub plan: &'a Plan,
    pub folder: &'a Folder,
    pub record: &'a mut Record,
    pub child: &'a mut Option<OwnedFd>,
    pub console: Option<OwnedFd>,
    /// Of namespaces that others are in too.
    pub kept: Kept,
}

impl Scene<'_> {
    /// Until it is restored; then init.
    pub fn attend(&mut self, criu: &Criu) -> Result<Child, Error> {
        loop {
            let heard = criu.hear()?;
            match heard.response.kind {
                Some(Kind::Notify) => match self.notified(heard) {
                    Ok(()) => criu.acknowledge(true)?,
                    Err(error) => {
                        // It takes back what it has made, and ends; our reason is the one to tell.
                        let _ = criu.acknowledge(false);
                        return Err(error);
                    }
                },
                Some(Kind::Restore) if heard.response.success => return self.child(),
                _ => return Err(refusal("restore", &heard.response)),
            }
        }
    }

    /// Init as criu has left it: recorded, and held by us.
    fn child(&self) -> Result<Child, Error> {
        let (Some(init), Some(pidfd)) = (&self.record.init, &self.child) else {
            return Err(failed("talk to", "criu")(Errno::PROTO));
        };
        Ok(Child {
            pid: init.pid,
            pidfd: rustix::io::fcntl_dupfd_cloexec(pidfd, 3).map_err(failed("copy", "a pidfd"))?,
        })
    }

    fn notified(&mut self, heard: Heard) -> Result<(), Error> {
        let pid = heard.response.pid.unwrap_or(0);
        match heard.response.script.as_deref() {
            Some("setup-namespaces") => self.namespaces(pid),
            Some("post-restore") => self.restored(pid),
            Some("orphan-pts-master") => {
                self.console = heard.descriptor;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Init is our child from its birth, whatever becomes of it.
    fn hold(&mut self, pid: u32) -> Result<(), Error> {
        if self.child.is_none() {
            let pidfd = Pid::from_raw(pid as i32)
                .ok_or(Errno::SRCH)
                .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
                .map_err(failed("open a pidfd of", "init"))?;
            *self.child = Some(pidfd);
        }
        Ok(())
    }

    /// All namespaces are there, and nothing in them yet.
    fn namespaces(&mut self, pid: u32) -> Result<(), Error> {
        self.hold(pid)?;
        if self.plan.namespaces.new.contains(Namespaces::NETWORK) {
            loopback(pid).map_err(failed("set the loopback link up in", "the container"))?;
        }
        let document = self.record.document("creating", pid);
        for (moment, list) in hook_lists(self.spec) {
            if moment != Moment::CreateContainer {
                let hooks = list.map(Vec::as_slice).unwrap_or_default();
                hooks::run(moment, hooks, &document, None)?;
            }
        }
        Ok(())
    }

    /// All processes are there, and stand still until criu lets them go.
    fn restored(&mut self, pid: u32) -> Result<(), Error> {
        self.hold(pid)?;
        self.kept.put_back()?;
        if let Some(spec) = with_time(self.spec, pid)? {
            self.folder.write_config(&spec)?;
        }
        self.record.init = Some(state::Init::of(pid)?);
        self.folder.write(self.record, false)
    }
}

/// A link of a new network namespace, from a thread that goes there.
fn loopback(pid: u32) -> Result<(), Errno> {
    let path = format!("/proc/{pid}/ns/net");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let network = openat(CWD, &*path, flags, Mode::empty())?;
    std::thread::scope(|scope| {
        let up = || -> Result<(), Errno> {
            namespace::enter(&network, Namespaces::NETWORK)?;
            namespace::loopback_up()
        };
        scope.spawn(up).join().unwrap_or(Err(Errno::IO))
    })
}

/// criu gives processes a time namespace, so that their clocks go on: what is added later must join it too.
fn with_time(spec: &Spec, pid: u32) -> Result<Option<Spec>, Error> {
    let own = |who: &str| rustix::fs::stat(format!("/proc/{who}/ns/time")).map(|s| s.st_ino);
    let kernel_has_it = match (own("self"), own(&pid.to_string())) {
        (Ok(ours), Ok(theirs)) => ours != theirs,
        _ => false,
    };
    let mut spec = spec.clone();
    let Some(linux) = spec.linux_mut() else {
        return Ok(None);
    };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let listed = namespaces
        .iter()
        .any(|n| n.typ() == LinuxNamespaceType::Time);
    if !kernel_has_it || listed {
        return Ok(None);
    }
    let time = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::Time)
        .build()
        .map_err(|e| unsupported(e.to_string()))?;
    namespaces.push(time);
    linux.set_namespaces(Some(namespaces));
    Ok(Some(spec))
}

pub(super) fn poststart(spec: &Spec, record: &Record, pid: u32) -> Result<(), Error> {
    let list = spec.hooks().as_ref().and_then(|h| h.poststart().as_ref());
    match list {
        Some(list) => {
            let document = record.document("running", pid);
            hooks::run(Moment::Poststart, list, &document, None)
        }
        None => Ok(()),
    }
}
