//! Device nodes, and who may open which.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::error::{Refused, invalid, missing};
use super::facts::{Facts, Needs, Node};
use crate::proto::ContainerConfig;

/// Nodes and rules, as the specification has them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub nodes: Vec<Value>,
    pub rules: Vec<Value>,
}

/// Where all devices of a host are.
pub(super) const ALL: &str = "/dev";

pub(super) fn needs(container: &ContainerConfig, every: bool, needs: &mut Needs) {
    let paths = container
        .devices
        .iter()
        .map(|d| PathBuf::from(&d.host_path));
    needs.devices.extend(paths);
    if every {
        needs.devices.insert(ALL.into());
    }
}

/// `owner`: to whom nodes belong instead of their owner on the host.
pub(super) fn plan(
    container: &ContainerConfig,
    privileged: bool,
    facts: &Facts<'_>,
) -> Result<Plan, Refused> {
    let every = privileged && !facts.handler.privileged_without_host_devices;
    let mut plan = Plan {
        nodes: vec![],
        rules: rules(every),
    };
    if every {
        for node in nodes(facts, "linux.security_context.privileged", Path::new(ALL))? {
            plan.node(&Path::new(ALL).join(&node.below), node);
        }
    }
    for (index, device) in container.devices.iter().enumerate() {
        let field = format!("devices[{index}]");
        let access = access(&field, &device.permissions)?;
        let target = match device.container_path.as_str() {
            "" => &device.host_path,
            path => path,
        };
        let target = plain(target).ok_or_else(|| {
            let problem = format!("is {target:?}, which is no absolute plain path");
            invalid(format!("{field}.container_path"), problem)
        })?;
        let source = Path::new(&device.host_path);
        for node in nodes(facts, &format!("{field}.host_path"), source)? {
            let mut node = node.clone();
            owner(container, facts, &mut node);
            let target = match node.below.as_os_str().is_empty() {
                true => target.to_owned(),
                false => target.join(&node.below),
            };
            plan.node(&target, &node);
            plan.allow(&node, access);
        }
    }
    Ok(plan)
}

/// With that setting a node belongs to the user whom the request names, not to its owner on the host.
fn owner(container: &ContainerConfig, facts: &Facts<'_>, node: &mut Node) {
    if !facts.handler.device_ownership {
        return;
    }
    let context = container
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref());
    let id =
        |value: Option<&crate::proto::Int64Value>| value.and_then(|v| u32::try_from(v.value).ok());
    let uid = context.and_then(|c| id(c.run_as_user.as_ref()));
    let gid = context.and_then(|c| id(c.run_as_group.as_ref()));
    node.uid = uid.filter(|id| *id != 0).unwrap_or(node.uid);
    node.gid = gid.filter(|id| *id != 0).unwrap_or(node.gid);
}

fn nodes<'a>(facts: &Facts<'a>, field: &str, path: &Path) -> Result<&'a [Node], Refused> {
    match facts.observed.devices.get(path) {
        Some(nodes) if !nodes.is_empty() => Ok(nodes),
        _ => Err(missing(
            field,
            format!("is {path:?}, where there is no device"),
        )),
    }
}

/// An absolute path of plain names.
pub(super) fn plain(path: &str) -> Option<&Path> {
    let relative = Path::new(path).strip_prefix("/").ok()?;
    let normal = |c| matches!(c, Component::Normal(_));
    let ok = relative.file_name().is_some() && relative.components().all(normal);
    (ok && !path.contains('\0')).then_some(Path::new(path))
}

/// `rwm` or a part of it; nothing is all.
pub(super) fn access<'a>(field: &str, permissions: &'a str) -> Result<&'a str, Refused> {
    match permissions {
        "" => Ok("rwm"),
        some if some.bytes().all(|b| b"rwm".contains(&b)) => Ok(some),
        other => {
            let problem = format!("is {other:?}, and is made of r, w and m");
            Err(invalid(format!("{field}.permissions"), problem))
        }
    }
}

impl Plan {
    /// The last for a path counts.
    pub fn node(&mut self, target: &Path, node: &Node) {
        self.nodes.retain(|n| n["path"] != json!(target));
        self.nodes.push(json!({
            "path": target, "type": kind(node), "major": node.major, "minor": node.minor,
            "fileMode": node.mode & 0o7777, "uid": node.uid, "gid": node.gid,
        }));
    }

    /// A named pipe, which nobody needs leave to open.
    pub fn fifo(&mut self, target: &Path, mode: u32, uid: u32, gid: u32) {
        self.nodes.retain(|n| n["path"] != json!(target));
        self.nodes.push(json!({
            "path": target, "type": "p", "fileMode": mode & 0o7777, "uid": uid, "gid": gid,
        }));
    }

    pub fn allow(&mut self, node: &Node, access: &str) {
        self.rules.push(json!({
            "allow": true, "type": kind(node), "major": node.major, "minor": node.minor,
            "access": access,
        }));
    }
}

fn kind(node: &Node) -> &'static str {
    if node.character { "c" } else { "b" }
}

/// Nothing but the standard nodes may be opened; any may be made, since making opens nothing.
fn rules(every: bool) -> Vec<Value> {
    if every {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx.
    const NODES: [(u32, u32); 8] = [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ];
    let standard = NODES.map(|(major, minor)| {
        json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" })
    });
    rules.extend(standard);
    // Terminals of the container's own devpts.
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    rules
}
