//! What the devices of the Container Device Interface change in a container.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::devices;
use super::error::{Refused, invalid, missing};
use super::facts::{Facts, Needs, Node};
use super::user::User;
use crate::cdi::{DeviceNode, Edits, HookName};

/// Parts of the container that edits change.
pub(super) struct Parts<'a> {
    pub env: &'a mut Vec<String>,
    pub devices: &'a mut devices::Plan,
    pub mounts: &'a mut Vec<Value>,
    pub groups: &'a mut Vec<u32>,
    pub hooks: &'a mut Map<String, Value>,
    pub linux: &'a mut Map<String, Value>,
    pub user: User,
    /// Is there a user namespace of the pod's?
    pub mapped: bool,
}

/// Nodes are looked at for what their edits leave open.
pub(super) fn needs(edits: &Edits, needs: &mut Needs) {
    let paths = edits.device_nodes.iter().map(source);
    needs.devices.extend(paths.map(PathBuf::from));
}

fn source(node: &DeviceNode) -> &str {
    match node.host_path.as_str() {
        "" => &node.path,
        path => path,
    }
}

pub(super) fn apply(edits: &Edits, facts: &Facts<'_>, parts: Parts<'_>) -> Result<(), Refused> {
    for variable in &edits.env {
        super::process::set(parts.env, variable);
    }
    for node in &edits.device_nodes {
        device(node, facts, &parts.user, parts.devices)?;
    }
    mounts(edits, parts.mounts, parts.mapped);
    hooks(edits, parts.hooks);
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !parts.groups.contains(gid) {
            parts.groups.push(*gid);
        }
    }
    net_devices(edits, parts.linux);
    if let Some(rdt) = &edits.intel_rdt {
        parts.linux.insert("intelRdt".into(), json!(rdt));
    }
    Ok(())
}

/// A described mount wins over another at its place.
fn mounts(edits: &Edits, all: &mut Vec<Value>, mapped: bool) {
    for mount in &edits.mounts {
        let target = &mount.container_path;
        all.retain(|m| m["destination"] != json!(target));
        let mut options = mount.options.clone();
        let kind = match mount.kind.as_str() {
            "" => "bind",
            kind => kind,
        };
        let bind = kind == "bind" || options.iter().any(|o| o == "bind" || o == "rbind");
        if bind && mapped {
            options.push("idmap".into());
        }
        all.push(json!({
            "destination": target, "type": kind, "source": mount.host_path, "options": options,
        }));
    }
    all.sort_by_key(|m| {
        let target = m["destination"].as_str().unwrap_or_default();
        Path::new(target).components().count()
    });
}

fn hooks(edits: &Edits, all: &mut Map<String, Value>) {
    for hook in &edits.hooks {
        let mut value = json!({ "path": hook.path, "args": hook.args, "env": hook.env });
        if let Some(timeout) = hook.timeout {
            value["timeout"] = json!(timeout);
        }
        let list = all.entry(key(hook.name)).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(value);
        }
    }
}

fn net_devices(edits: &Edits, linux: &mut Map<String, Value>) {
    if edits.net_devices.is_empty() {
        return;
    }
    let all = linux.entry("netDevices").or_insert_with(|| json!({}));
    for device in &edits.net_devices {
        all[&device.host_interface_name] = json!({ "name": device.name });
    }
}

fn key(name: HookName) -> &'static str {
    match name {
        HookName::Prestart => "prestart",
        HookName::CreateRuntime => "createRuntime",
        HookName::CreateContainer => "createContainer",
        HookName::StartContainer => "startContainer",
        HookName::Poststart => "poststart",
        HookName::Poststop => "poststop",
    }
}

/// Whether it is a character device, and its numbers: the edit's, or those of the host's node.
fn numbers(edit: &DeviceNode, host: Option<&Node>) -> Result<(bool, u32, u32), Refused> {
    if !edit.kind.is_empty() && edit.major != 0 {
        return Ok((edit.kind != "b", edit.major, edit.minor));
    }
    let field = || format!("CDI device node {:?}", edit.path);
    let host = host.ok_or_else(|| {
        let problem = format!("says not what it is, and {:?} is no device", source(edit));
        missing(field(), problem)
    })?;
    if !edit.kind.is_empty() && host.character != (edit.kind != "b") {
        let problem = format!("is of another type than {:?}", source(edit));
        return Err(invalid(field(), problem));
    }
    Ok(match edit.major {
        0 => (host.character, host.major, host.minor),
        major => (host.character, major, edit.minor),
    })
}

/// A node is as the edit says, and where that is silent, as the host's.
fn device(
    edit: &DeviceNode,
    facts: &Facts<'_>,
    user: &User,
    plan: &mut devices::Plan,
) -> Result<(), Refused> {
    let target = devices::plain(&edit.path).ok_or_else(|| {
        let field = format!("CDI device node {:?}", edit.path);
        invalid(field, "is no absolute plain path")
    })?;
    let host = facts.observed.devices.get(Path::new(source(edit)));
    let host = host.and_then(|nodes| nodes.first());
    let (uid, gid) = (edit.uid.unwrap_or(user.uid), edit.gid.unwrap_or(user.gid));
    let mode = edit.file_mode.or(host.map(|h| h.mode)).unwrap_or(0o666);
    if edit.kind == "p" {
        plan.fifo(target, mode, uid, gid);
        return Ok(());
    }
    let (character, major, minor) = numbers(edit, host)?;
    let node = Node {
        below: PathBuf::new(),
        character,
        major,
        minor,
        mode,
        uid,
        gid,
    };
    plan.node(target, &node);
    match edit.permissions.as_str() {
        "none" => {}
        "" => plan.allow(&node, "rwm"),
        some => plan.allow(&node, some),
    }
    Ok(())
}
