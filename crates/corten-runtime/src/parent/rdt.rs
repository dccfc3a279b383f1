//! Intel RDT: the container's class in resctrl, as the state keeps it and each verb needs it.

use std::path::PathBuf;

use corten_cgroup::resctrl;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state::refused;

/// The container's place in resctrl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resctrl {
    root: PathBuf,
    class: PathBuf,
    /// The class is the container's and goes with it.
    own: bool,
    monitor: Option<PathBuf>,
}

impl Resctrl {
    /// Where a plan will put the container on this host.
    pub fn of(plan: &resctrl::Plan) -> Result<Self, Error> {
        let root = resctrl::mounted().map_err(refused("use Intel RDT"))?;
        let resctrl::Place {
            class,
            own,
            monitor,
        } = plan.place(&root);
        Ok(Self {
            root,
            class,
            own,
            monitor,
        })
    }

    fn place(&self) -> resctrl::Place {
        resctrl::Place {
            class: self.class.clone(),
            own: self.own,
            monitor: self.monitor.clone(),
        }
    }

    /// Makes the class and moves init into it.
    pub fn apply(&self, plan: &resctrl::Plan, pid: u32) -> Result<(), Error> {
        plan.apply(&self.root, pid)
            .map_err(refused("apply Intel RDT"))
    }

    /// Moves an added process in, whose parent is none of the container's.
    pub fn join(&self, pid: u32) -> Result<(), Error> {
        let joined = self.place().join(&self.root, pid);
        joined.map_err(refused("join the container's class of Intel RDT"))
    }

    pub fn remove(&self) -> Result<(), Error> {
        let removed = self.place().remove();
        removed.map_err(refused("remove the container's class of Intel RDT"))
    }
}
