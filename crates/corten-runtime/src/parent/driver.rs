//! Who makes the container's control group: this process, by its files, or systemd, as a scope.
//!
//! systemd starts no scope without a process in it, and init is to be cloned straight into the group. So the
//! driver holds the place with a process of its own until [`Driver::settle`]. What is dropped before that
//! leaves nothing that systemd does not clear by itself.

use corten_cgroup::systemd::{Holder, Manager};
use corten_cgroup::{Cgroup, Layout};
use oci_spec::runtime::LinuxResources;

use crate::error::{Error, failed_io};
use crate::plan::Plan;
use crate::plan::cgroup::Home;
use crate::state::{Unit, refused};

/// Chosen once, by the caller.
#[derive(Debug)]
pub(crate) enum Driver {
    Files,
    Systemd(Box<Systemd>),
}

#[derive(Debug)]
pub(crate) struct Systemd {
    manager: Manager,
    holder: Option<Holder>,
}

impl Driver {
    pub fn choose(systemd: bool) -> Result<Self, Error> {
        Ok(match systemd {
            false => Self::Files,
            true => Self::Systemd(Box::new(Systemd {
                manager: connect(is_user()?)?,
                holder: None,
            })),
        })
    }

    /// Where systemd's units are, if it is systemd's.
    pub fn home(&self) -> Option<Home<'_>> {
        match self {
            Self::Files => None,
            Self::Systemd(systemd) => Some(Home {
                root: systemd.manager.root(),
                user: systemd.manager.is_user(),
            }),
        }
    }

    /// Makes the group of a plan, with its limits, but the rules for devices.
    pub fn make(&mut self, layout: &Layout, plan: &Plan) -> Result<Cgroup, Error> {
        match (self, &plan.unit) {
            (Self::Systemd(systemd), Some(unit)) => {
                let (cgroup, holder) = Cgroup::start_scope(
                    layout,
                    &mut systemd.manager,
                    &unit.scope,
                    &unit.properties,
                    &plan.resources,
                )
                .map_err(refused("start the scope"))?;
                systemd.holder = Some(holder);
                Ok(cgroup)
            }
            _ => {
                let cgroup = Cgroup::create(layout, &plan.cgroup_path)
                    .map_err(refused("make the control group"))?;
                // What cannot be limited is not left behind.
                if let Err(error) = cgroup.apply_limits(&plan.resources) {
                    let _ = cgroup.delete();
                    return Err(refused("apply the resources")(error));
                }
                Ok(cgroup)
            }
        }
    }

    /// Init is in the group: what held its place goes, and the limit of processes comes.
    pub fn settle(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        match self {
            Self::Files => Ok(()),
            Self::Systemd(systemd) => match &mut systemd.holder {
                Some(holder) => cgroup
                    .settle(&mut systemd.manager, holder)
                    .map_err(refused("limit the processes")),
                None => Ok(()),
            },
        }
    }
}

/// Changes the limits of a group, by way of systemd if it is systemd's.
pub(crate) fn update(
    unit: Option<&Unit>,
    cgroup: &Cgroup,
    resources: &LinuxResources,
) -> Result<(), Error> {
    let step = "update the limits";
    if let Some(unit) = unit {
        connect(unit.user)?
            .update(&unit.name, cgroup, resources)
            .map_err(refused(step))?;
    }
    cgroup.apply(resources).map_err(refused(step))
}

/// Stops a unit whose processes have ended. Where systemd itself is gone, so are its units.
pub(crate) fn stop(unit: &Unit) -> Result<(), Error> {
    match Manager::connect(unit.user) {
        Err(corten_cgroup::Error::NoSystemd { .. }) => Ok(()),
        manager => manager
            .and_then(|mut manager| manager.stop(&unit.name))
            .map_err(refused("stop the scope")),
    }
}

fn connect(user: bool) -> Result<Manager, Error> {
    Manager::connect(user).map_err(refused("use the systemd cgroup driver"))
}

/// Only the host's root may ask the host's manager; the root of a user namespace is somebody's own.
fn is_user() -> Result<bool, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(true);
    }
    let path = "/proc/self/uid_map";
    let map = std::fs::read_to_string(path).map_err(failed_io("read", path))?;
    let words: Vec<&str> = map.split_ascii_whitespace().collect();
    Ok(words != ["0", "0", "4294967295"])
}
