//! The process that a scope is started with.
//!
//! systemd starts no empty scope, and removes one that becomes empty. The container's init comes later, by a
//! clone straight into the scope's group. Until then a child of the runtime's that does nothing holds the
//! place. It ends with the runtime, so a runtime that is killed leaves a scope that systemd removes.

use std::os::fd::OwnedFd;

use corten_sys::process::{self, Child, Clone};
use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::property::Property;
use super::value::Value;
use super::{Manager, Scope};
use crate::{Cgroup, Error, Layout};

const SIGKILL: i32 = 9;

/// A started scope's first process. Dropped, it ends.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    unit: String,
    /// What waits for the holder's end: it counts among the group's processes.
    pids: Option<LinuxResources>,
}

impl Holder {
    fn start(unit: &str) -> Result<Self, Error> {
        let fail = |step| {
            let unit = unit.to_owned();
            move |source| Error::Holder { step, unit, source }
        };
        let maker = pidfd_open(getpid(), PidfdFlags::empty()).map_err(fail("start"))?;
        let child = process::clone(&Clone::default(), move || wait_for_end(&maker));
        Ok(Self {
            child: child.map_err(fail("start"))?,
            unit: unit.into(),
            pids: None,
        })
    }

    fn end(&self) -> Result<(), Errno> {
        match process::send_signal(&self.child.pidfd, SIGKILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
        match process::wait(&self.child.pidfd) {
            // Reaped already.
            Ok(_) | Err(Errno::CHILD) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // After `settle` there is nobody to end; before it, what led here is told by whoever drops it.
        let _ = self.end();
    }
}

/// All that the holder does. Its copies of the runtime's descriptors go with it.
fn wait_for_end(maker: &OwnedFd) -> i32 {
    loop {
        match poll(&mut [PollFd::new(maker, PollFlags::IN)], None) {
            Err(Errno::INTR) => {}
            _ => return 0,
        }
    }
}

impl Cgroup {
    /// Starts `scope` and opens its group, with every limit of `resources` but that of processes, which is
    /// for [`settle`](Self::settle). The rules for devices are systemd's then, and in their exact form
    /// the caller's to apply. `extra` are the annotations' properties; they win.
    pub fn start_scope(
        layout: &Layout,
        manager: &mut Manager,
        scope: &Scope,
        extra: &[Property],
        resources: &LinuxResources,
    ) -> Result<(Self, Holder), Error> {
        let (now, later) = split(resources);
        let v2 = matches!(layout, Layout::V2 { .. });
        let mut properties = basics(scope, v2);
        properties.extend(manager.decide(&now, &Default::default(), v2)?);
        properties.retain(|p| !extra.iter().any(|e| e.name == p.name));
        properties.extend_from_slice(extra);
        let path = scope.path(manager.root())?;
        let mut holder = Holder::start(&scope.unit)?;
        let pid = Value::U32(holder.child.pid);
        let pids = Value::Array("u".into(), vec![pid]);
        properties.push(Property::new("PIDs", pids));
        if let Err(error) = manager.start(scope, &properties) {
            // Refused, nothing was started; and a unit of that name that exists is somebody else's.
            if !matches!(error, Error::Refused { .. }) {
                drop(holder);
                let _ = manager.stop(&scope.unit);
            }
            return Err(error);
        }
        let opened = Self::adopt(layout, &path).and_then(|group| {
            group.apply_limits(&now)?;
            Ok(group)
        });
        match opened {
            Ok(group) => {
                holder.pids = later;
                Ok((group, holder))
            }
            Err(error) => {
                drop(holder);
                // The error is the one to tell; a scope without processes goes by itself in any case.
                let _ = manager.stop(&scope.unit);
                Err(error)
            }
        }
    }

    /// The container's init is inside: the holder leaves, and the limit of processes comes.
    pub fn settle(&self, manager: &mut Manager, holder: &mut Holder) -> Result<(), Error> {
        holder.end().map_err(|source| Error::Holder {
            step: "end",
            unit: holder.unit.clone(),
            source,
        })?;
        match holder.pids.take() {
            Some(later) => {
                manager.update(&holder.unit, self, &later)?;
                self.apply(&later)
            }
            None => Ok(()),
        }
    }
}

/// What every container's scope has.
fn basics(scope: &Scope, v2: bool) -> Vec<Property> {
    let on = |name| Property::new(name, Value::Bool(true));
    let mut properties = vec![
        Property::new(
            "Description",
            Value::Str(format!("container {}", scope.unit)),
        ),
        Property::new("Slice", Value::text(&scope.slice)),
        // The groups below are ours, and the limits that systemd has no word for.
        on("Delegate"),
        on("MemoryAccounting"),
        on("CPUAccounting"),
        on("TasksAccounting"),
        // No conflict with shutdown.target: whoever made the container stops it.
        Property::new("DefaultDependencies", Value::Bool(false)),
    ];
    properties.push(on(if v2 {
        "IOAccounting"
    } else {
        "BlockIOAccounting"
    }));
    properties
}

/// The resources without the limit of processes, and that limit.
fn split(resources: &LinuxResources) -> (LinuxResources, Option<LinuxResources>) {
    const FILE: &str = "pids.max";
    let mut now = resources.clone();
    let mut later = LinuxResources::default();
    later.set_devices(None);
    later.set_pids(*resources.pids());
    now.set_pids(None);
    let mut unified = resources.unified().clone();
    let value = unified.as_mut().and_then(|map| map.remove(FILE));
    now.set_unified(unified);
    let some = resources.pids().is_some() || value.is_some();
    later.set_unified(value.map(|v| [(FILE.to_owned(), v)].into()));
    (now, some.then_some(later))
}
