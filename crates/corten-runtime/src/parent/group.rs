//! The container's control group, made by the rule that the caller's rights call for.
//!
//! The host's root makes the group in every hierarchy, or fails. Without root, a group is used where it can be
//! had: in hierarchies that were delegated. Where there is none, the container stays in its caller's, if
//! nobody has asked for a group by name nor for a limit; a limit that cannot be set stops the start (this is
//! runc's rule). Device rules are for root alone: nobody else could make a node that they would keep away.

use std::path::{Path, PathBuf};

use corten_cgroup::{Cgroup, Entry, Layout, is_refusal, own_group, plan as limits};
use corten_sys::mount::Attributes;
use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{LinuxResources, Spec};

use super::driver::Driver;
use crate::error::{Error, invalid};
use crate::plan::Plan;
use crate::plan::mounts::{Plan as Mount, Source};
use crate::state::refused;

/// What the container sees of control groups.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// `None`: there are none on this host.
    pub layout: Option<Layout>,
    /// Roots of hierarchies in which the container has no group of its own, and its caller's there.
    pub foreign: Vec<(PathBuf, String)>,
}

/// The group, and the ways into it.
#[derive(Debug)]
pub(crate) struct Made {
    pub view: View,
    pub entry: Entry,
}

/// Whether the group is asked for by name.
pub(crate) fn is_named(spec: &Spec) -> bool {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|l| l.cgroups_path().as_ref());
    path.is_some_and(|p| !p.as_os_str().is_empty())
}

/// Without root, a group that nobody has named is made beside the caller's own, as runc does: a user's
/// groups are somewhere below what systemd has delegated.
pub(crate) fn beside_own(plan: &mut Plan, id: &str) -> Result<(), Error> {
    let Ok(layout) = Layout::probe() else {
        return Ok(());
    };
    let Some(root) = layout.unified() else {
        return Ok(());
    };
    let own = own_group(&layout, root).map_err(refused("find the caller's control group"))?;
    let above = own.as_deref().map(Path::new).and_then(Path::parent);
    if let Some(above) = above.and_then(Path::to_str).filter(|a| *a != "/") {
        plan.cgroup_path = format!("{above}/corten-{id}");
    }
    Ok(())
}

/// Makes the group that the plan names, as who may: the host's root, or systemd when it is asked to.
pub(crate) fn make(
    plan: &Plan,
    driver: &mut Driver,
    undo: &mut Option<Cgroup>,
) -> Result<Made, Error> {
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    // The rules for devices come while init is at work.
    let cgroup = undo.insert(driver.make(&layout, plan)?);
    give(plan, cgroup)?;
    Ok(Made {
        entry: cgroup.entry().map_err(refused("enter the control group"))?,
        view: View {
            layout: Some(layout),
            foreign: Vec::new(),
        },
    })
}

/// Gives the group to the container's user, if it has a cgroup namespace of its own and may write to what it sees there
/// (config-linux.md, "Cgroup ownership"): a systemd or a container engine in it can make groups then.
pub(crate) fn give(plan: &Plan, cgroup: &Cgroup) -> Result<(), Error> {
    let writes = |mount: &Mount| match mount.source {
        Source::Cgroup { attributes, .. } => {
            let at = mount.target.as_bytes() == b"sys/fs/cgroup";
            at && attributes & Attributes::READ_ONLY == 0
        }
        _ => false,
    };
    if !plan.namespaces.new.contains(Namespaces::CGROUP) || !plan.mounts.iter().any(writes) {
        return Ok(());
    }
    let (ids, uid) = (&plan.namespaces.user, plan.process.uid);
    match ids.as_ref().map_or(Some(uid), |ids| ids.uid.host(uid)) {
        // Nobody on the host, or who has it already.
        None | Some(0) => Ok(()),
        Some(uid) => cgroup
            .delegate(uid)
            .map_err(refused("give the control group to the container")),
    }
}

/// Makes the group as somebody without rights. The plan then has no path if there is no group.
pub(crate) fn make_rootless(
    plan: &mut Plan,
    named: bool,
    undo: &mut Option<Cgroup>,
) -> Result<Made, Error> {
    let resources = &plan.resources;
    let layout = Layout::probe();
    let made = match &layout {
        Ok(layout) => Cgroup::create_where_permitted(layout, &plan.cgroup_path),
        Err(_) => Err(corten_cgroup::Error::NotMounted {
            path: "/sys/fs/cgroup".into(),
        }),
    };
    let layout = layout.ok();
    let cgroup = match made {
        Ok(cgroup) => Some(&*undo.insert(cgroup)),
        Err(error) if is_refusal(&error) && !named => {
            let why = format!("this user may not make a control group: {error}");
            unlimited(resources, layout.as_ref(), &why)?;
            plan.cgroup_path.clear();
            None
        }
        Err(error) => return Err(refused("make the control group")(error)),
    };
    let mut entry = nowhere();
    if let Some(cgroup) = cgroup {
        cgroup
            .apply_limits(resources)
            .map_err(refused("apply the resources"))?;
        entry = cgroup.entry().map_err(refused("enter the control group"))?;
    }
    Ok(Made {
        entry,
        view: view(layout, cgroup)?,
    })
}

/// No group at all, because that is asked for.
pub(crate) fn none(plan: &mut Plan) -> Result<Made, Error> {
    let layout = Layout::probe().ok();
    unlimited(
        &plan.resources,
        layout.as_ref(),
        "control groups are disabled",
    )?;
    plan.cgroup_path.clear();
    Ok(Made {
        entry: nowhere(),
        view: view(layout, None)?,
    })
}

fn nowhere() -> Entry {
    Entry {
        v2: None,
        v1_tasks: Vec::new(),
    }
}

fn view(layout: Option<Layout>, cgroup: Option<&Cgroup>) -> Result<View, Error> {
    let mut foreign = Vec::new();
    if let Some(layout) = &layout {
        let v1 = layout.hierarchies().iter().map(|h| h.root.as_path());
        for root in v1.chain(layout.unified()) {
            if cgroup.is_some_and(|c| c.is_in(root)) {
                continue;
            }
            let own =
                own_group(layout, root).map_err(refused("find the caller's control group"))?;
            foreign.extend(own.map(|own| (root.to_owned(), own)));
        }
    }
    Ok(View { layout, foreign })
}

/// Refuses limits that no group will hold.
fn unlimited(resources: &LinuxResources, layout: Option<&Layout>, why: &str) -> Result<(), Error> {
    let facts = limits::Facts::default();
    let writes = match layout {
        Some(Layout::V1 { .. } | Layout::Hybrid { .. }) => limits::v1::plan(resources, &facts),
        _ => limits::v2::plan(resources, &facts),
    };
    let writes = writes.map_err(refused("plan the resources"))?;
    match writes.first() {
        None => Ok(()),
        Some(write) => Err(invalid(
            "linux.resources",
            format!("sets {} to {}, but {why}", write.file, write.value),
        )),
    }
}
