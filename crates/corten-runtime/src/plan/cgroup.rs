//! The container's place among the control groups, and its device rules.

use corten_cgroup::resctrl;
use corten_cgroup::systemd::{self, Property, Scope};
use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, Spec,
};

use crate::error::{Error, invalid, unsupported};

/// The systemd that makes the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home<'a> {
    /// Its own group, `""` for the host's.
    pub root: &'a str,
    pub user: bool,
}

/// A unit of systemd's, to be.
#[derive(Debug)]
pub(crate) struct Unit {
    pub scope: Scope,
    /// What the annotations ask for.
    pub properties: Vec<Property>,
    pub user: bool,
}

/// The path below each hierarchy's root, and the unit whose it is if systemd makes the group.
pub(crate) fn place(
    spec: &Spec,
    linux: &Linux,
    id: &str,
    home: Option<Home<'_>>,
) -> Result<(String, Option<Unit>), Error> {
    let Some(home) = home else {
        return Ok((path(linux, id)?, None));
    };
    let given = linux.cgroups_path().clone().unwrap_or_default();
    let text = given
        .to_str()
        .ok_or_else(|| invalid(FIELD, "is not UTF-8"))?;
    let wrong = |error: corten_cgroup::Error| match error {
        corten_cgroup::Error::Path { path, reason } => {
            invalid(FIELD, format!("is {path:?}, but {reason}"))
        }
        other => invalid("annotations", format!("have a {other}")),
    };
    let scope = Scope::parse(text, id, home.user).map_err(wrong)?;
    let group = scope.path(home.root).map_err(wrong)?;
    let annotations = spec.annotations().iter().flatten();
    let properties = systemd::annotated(annotations).map_err(wrong)?;
    let unit = Unit {
        scope,
        properties,
        user: home.user,
    };
    Ok((group, Some(unit)))
}

/// The scope of the host's systemd that a spec could have been made with.
pub(crate) fn host_scope(linux: &Linux, id: &str) -> Option<(String, crate::state::Unit)> {
    let text = linux.cgroups_path().as_ref().and_then(|p| p.to_str());
    let scope = Scope::parse(text.unwrap_or_default(), id, false).ok()?;
    let path = scope.path("").ok()?;
    let unit = crate::state::Unit {
        name: scope.unit,
        user: false,
    };
    Some((path, unit))
}

/// Where the spec has nothing about RDT, nothing of it may be touched.
pub(crate) fn resctrl(linux: &Linux, id: &str) -> Result<Option<resctrl::Plan>, Error> {
    let plan = linux.intel_rdt().as_ref().map(|r| resctrl::plan(r, id));
    plan.transpose().map_err(|error| match error {
        corten_cgroup::Error::Invalid {
            setting,
            value,
            reason,
        } => invalid(
            format!("linux.{setting}"),
            format!("is {value:?}, but {reason}"),
        ),
        other => invalid("linux.intelRdt", other.to_string()),
    })
}

const FIELD: &str = "linux.cgroupsPath";

/// The path below each hierarchy's root, where this process makes the group.
pub(crate) fn path(linux: &Linux, id: &str) -> Result<String, Error> {
    let Some(path) = linux
        .cgroups_path()
        .as_ref()
        .filter(|p| !p.as_os_str().is_empty())
    else {
        return Ok(format!("/corten/{id}"));
    };
    let text = path
        .to_str()
        .ok_or_else(|| invalid(FIELD, "is not UTF-8"))?;
    if !text.starts_with('/') && text.split(':').count() == 3 {
        return Err(unsupported(format!(
            "{FIELD} {text:?} in systemd's form SLICE:PREFIX:NAME without --systemd-cgroup"
        )));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(invalid(
            FIELD,
            format!("is {text:?}, which has \"..\" in it"),
        ));
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts.is_empty() {
        return Err(invalid(FIELD, "is the root group"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The spec's resources, with the devices that every container may use after the spec's own rules:
/// engines leave them to the runtime. A spec without rules denies all others.
pub(crate) fn resources(linux: &Linux) -> LinuxResources {
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = match resources.devices() {
        Some(rules) if !rules.is_empty() => rules.clone(),
        _ => vec![rule(false, LinuxDeviceType::A, None, None, "rwm")],
    };
    rules.extend(default_devices());
    resources.set_devices(Some(rules));
    resources
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    // Built from constants only: the builder checks nothing that could fail here.
    builder.build().unwrap_or_default()
}

fn default_devices() -> Vec<LinuxDeviceCgroup> {
    let c = LinuxDeviceType::C;
    let mut rules = vec![
        // Any node may be made; opening it is another matter.
        rule(true, c, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx; and all terminals' slaves.
    let nodes = [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ];
    rules.extend(nodes.map(|(major, minor)| rule(true, c, Some(major), Some(minor), "rwm")));
    rules.push(rule(true, c, Some(136), None, "rwm"));
    rules
}
