//! The maker's part while init is on its way: what only it can give, the hooks, and waiting for init's word.

use std::os::fd::OwnedFd;

use corten_sys::ahead::NewNetwork;
use corten_sys::namespace::Namespaces;
use corten_sys::process::{self, Child};
use oci_spec::runtime::{Hook, Spec};
use rustix::io::Errno;

use super::agent::{self, Agent};
use crate::error::{Error, failed};
use crate::handshake::{self, Message};
use crate::parent::group::View;
use crate::parent::hooks::{self, Moment};
use crate::parent::prepare::prepare;
use crate::parent::{idmap, launch, net_devices, shipment, watch};
use crate::plan::Plan;
use crate::request::Rootfs;
use crate::state::{self, Record};

/// The maker, while init is on its way.
pub(super) struct Maker<'a> {
    pub spec: &'a Spec,
    pub plan: &'a Plan,
    pub child: &'a Child,
    pub socket: &'a OwnedFd,
    pub gate: bool,
}

impl Maker<'_> {
    /// What only others can do for a process that has just been made. Before it hides, and before it forks.
    /// `told`: it makes its user namespace itself, and says when.
    pub fn furnish(&self, told: bool, maps: bool) -> Result<(), Error> {
        if let Some(score) = self.plan.process.oom_score_adj {
            launch::oom_score(&self.child.pid.to_string(), score)
                .map_err(failed("set the OOM score of", "init"))?;
        }
        let ids = self.plan.namespaces.user.as_ref();
        let Some(ids) = ids.filter(|_| self.plan.namespaces.makes_user()) else {
            return Ok(());
        };
        if told {
            match self.hear()? {
                Message::Mounted => {}
                other => return Err(self.reap(other)),
            }
        }
        idmap::map(self.child.pid, ids, maps)?;
        self.go()
    }

    /// Gives init its mounts and its network. Returns the terminal's master.
    pub fn supply(
        &self,
        rootfs: Rootfs,
        view: &View,
        size: Option<(u16, u16)>,
        network: Option<NewNetwork>,
    ) -> Result<Option<OwnedFd>, Error> {
        if self.plan.first_of_maker().is_some() {
            match self.hear()? {
                Message::Mounted => {}
                other => return Err(self.reap(other)),
            }
        }
        let (prepared, terminal) = prepare(self.plan, rootfs, view, size)?;
        let (console, slave) = match terminal {
            Some(terminal) => (Some(terminal.master), Some(terminal.slave)),
            None => (None, None),
        };
        let network = network.map(NewNetwork::wait).transpose();
        let network = network.map_err(failed("make the network namespace", ""))?;
        shipment::send(self.socket, &prepared, slave.as_ref(), network.as_ref())
            .map_err(|e| self.lost(e))?;
        process::close_all(prepared.into_fds().chain(network).chain(slave));
        Ok(console)
    }

    pub fn go(&self) -> Result<(), Error> {
        handshake::send_go(self.socket).map_err(|e| self.lost(e))
    }

    /// Init does not listen: it has ended, and has said why.
    fn lost(&self, errno: Errno) -> Error {
        match self.hear() {
            Ok(Message::End) => failed("talk to", "init")(errno),
            Ok(message) => self.reap(message),
            Err(error) => error,
        }
    }

    fn hear(&self) -> Result<Message, Error> {
        watch::receive(self.socket, self.child.pid, watch::MAKING)
    }

    fn reap(&self, message: Message) -> Error {
        let program = launch::program_name(&self.plan.process);
        launch::reap(self.child, message, program)
    }

    /// Until init waits at its gate, or without one has become its program.
    pub fn attend(&self, record: &Record, mut agent: Agent<'_>) -> Result<(), Error> {
        let pid = self.child.pid;
        // Whoever speaks in init's name must not have hooks run again and again.
        let mut mounted = false;
        loop {
            let state = || agent::state(record, "creating");
            match agent.receive(self.socket, pid, watch::MAKING, state)? {
                Message::Mounted if !mounted => {
                    mounted = true;
                    let (child, devices) = (self.child, &self.plan.net_devices);
                    net_devices::give(devices, child.pid, &child.pidfd)?;
                    mount_hooks(self.spec, self.plan, self.child, record)?;
                    self.go()?;
                    if !self.gate {
                        self.go()?;
                    }
                }
                Message::Ready if self.gate => return Ok(()),
                // Without a gate the socket closes by the exec.
                Message::End if !self.gate => return Ok(()),
                other => return Err(self.reap(other)),
            }
        }
    }
}

pub(super) fn hook_lists(spec: &Spec) -> [(Moment, Option<&Vec<Hook>>); 3] {
    let hooks = spec.hooks().as_ref();
    #[allow(
        deprecated,
        reason = "the specification still asks for prestart hooks to be run"
    )]
    let prestart = hooks.and_then(|h| h.prestart().as_ref());
    [
        (Moment::Prestart, prestart),
        (
            Moment::CreateRuntime,
            hooks.and_then(|h| h.create_runtime().as_ref()),
        ),
        (
            Moment::CreateContainer,
            hooks.and_then(|h| h.create_container().as_ref()),
        ),
    ]
}

pub(super) fn has_mount_hooks(spec: &Spec) -> bool {
    hook_lists(spec)
        .iter()
        .any(|(_, hooks)| hooks.is_some_and(|h| !h.is_empty()))
}

fn mount_hooks(spec: &Spec, plan: &Plan, child: &Child, record: &Record) -> Result<(), Error> {
    // The host's root stays who it is, and may join also where it is already. Nobody else may.
    let nested = plan.namespaces.inside || crate::parent::place::in_user_namespace()?;
    let kinds = [
        Namespaces::MOUNT,
        Namespaces::NETWORK,
        Namespaces::UTS,
        Namespaces::IPC,
        Namespaces::CGROUP,
        Namespaces::PID,
        Namespaces::USER,
        Namespaces::TIME,
    ];
    let wanted = kinds.into_iter().filter(|kind| match (nested, *kind) {
        (false, Namespaces::PID | Namespaces::USER | Namespaces::TIME) | (true, _) => {
            plan.namespaces.own(*kind)
        }
        _ => true,
    });
    let inside = hooks::Inside {
        init: &child.pidfd,
        kinds: wanted.fold(Namespaces::NONE, Namespaces::with),
    };
    for (moment, list) in hook_lists(spec) {
        let Some(list) = list else { continue };
        // The environment exists, so the container counts as created (runtime.md, "State", "Lifecycle").
        match moment {
            Moment::CreateContainer => {
                let pid = state::pid_inside(child.pid)?;
                let document = record.document("created", pid);
                hooks::run(moment, list, &document, Some(inside))?;
            }
            _ => hooks::run(moment, list, &record.document("created", child.pid), None)?,
        }
    }
    Ok(())
}
