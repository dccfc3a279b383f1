//! One file of devices: its words, and what makes it wrong.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::DocumentError;
use super::name;

/// A file: what its devices need, and what any of them needs besides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    cdi_version: String,
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub devices: Vec<Device>,
    #[serde(default, deserialize_with = "nullable")]
    pub container_edits: Edits,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub container_edits: Edits,
}

/// Changes to a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    /// `NAME=VALUE`
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub device_nodes: Vec<DeviceNode>,
    #[serde(default, deserialize_with = "nullable")]
    pub net_devices: Vec<NetDevice>,
    #[serde(default, deserialize_with = "nullable")]
    pub hooks: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub mounts: Vec<Mount>,
    pub intel_rdt: Option<IntelRdt>,
    #[serde(default, deserialize_with = "nullable")]
    pub additional_gids: Vec<u32>,
}

/// A node; what is empty, 0 or absent is as on the host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    pub path: String,
    /// Empty: the same as `path`.
    #[serde(default)]
    pub host_path: String,
    /// `b`, `c`, `u` or `p`.
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub major: u32,
    #[serde(default)]
    pub minor: u32,
    pub file_mode: Option<u32>,
    /// Of `rwm`, or `none`.
    #[serde(default)]
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// An interface of the host's, which moves into the container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    #[serde(rename = "hookName")]
    pub name: HookName,
    pub path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// As the runtime specification has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IntelRdt {
    #[serde(rename = "closID", default, skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enable_monitoring: bool,
}

/// Writers in Go leave `null` where a list is empty.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Versions of the specification, the oldest first.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

impl Document {
    /// Reads and checks what a file holds.
    pub fn parse(value: Value) -> Result<Self, DocumentError> {
        let document: Self = serde_json::from_value(value)?;
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), DocumentError> {
        name::check_kind(&self.kind)
            .map_err(|problem| invalid("kind", format!("is {:?}: {problem}", self.kind)))?;
        if self.devices.is_empty() {
            return Err(invalid("devices", "is empty"));
        }
        let all = [("containerEdits".to_owned(), &self.container_edits)].into_iter();
        let each = self.devices.iter().enumerate();
        let each = each.map(|(n, d)| (format!("devices[{n}].containerEdits"), &d.container_edits));
        for (field, edits) in all.chain(each) {
            edits.check(&field)?;
        }
        for (index, device) in self.devices.iter().enumerate() {
            let field = format!("devices[{index}].name");
            name::check_device(&device.name)
                .map_err(|problem| invalid(&field, format!("is {:?}: {problem}", device.name)))?;
            if self.devices[..index].iter().any(|d| d.name == device.name) {
                return Err(invalid(&field, format!("is {:?} again", device.name)));
            }
            if device.container_edits == Edits::default() {
                let field = format!("devices[{index}].containerEdits");
                return Err(invalid(&field, "changes nothing"));
            }
        }
        self.check_version()
    }

    /// A file says which version it is written in, and may use no word of a later one.
    fn check_version(&self) -> Result<(), DocumentError> {
        let version = self.cdi_version.trim_start_matches('v');
        let Some(at) = VERSIONS.iter().position(|v| *v == version) else {
            let problem = format!("is {:?}, and known are 0.1.0 to 1.1.0", self.cdi_version);
            return Err(invalid("cdiVersion", problem));
        };
        let (word, since) = self.newest();
        let needed = VERSIONS.iter().position(|v| *v == since).unwrap_or(0);
        match at < needed {
            true => Err(invalid(
                "cdiVersion",
                format!("is {version:?}, and {word} is there since {since}"),
            )),
            false => Ok(()),
        }
    }

    /// The word of the latest version that is used.
    fn newest(&self) -> (&'static str, &'static str) {
        let edits = || {
            let each = self.devices.iter().map(|d| &d.container_edits);
            each.chain([&self.container_edits])
        };
        let rdt = |e: &Edits| {
            let newer = |r: &IntelRdt| !r.schemata.is_empty() || r.enable_monitoring;
            e.intel_rdt.as_ref().is_some_and(newer)
        };
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let annotated = |d: &Device| !d.annotations.is_empty();
        let digit = |d: &Device| d.name.starts_with(|c: char| c.is_ascii_digit());
        let elsewhere = |e: &Edits| e.device_nodes.iter().any(|n| !n.host_path.is_empty());
        let typed = |e: &Edits| e.mounts.iter().any(|m| !m.kind.is_empty());
        let used = [
            (
                edits().any(|e| !e.net_devices.is_empty()),
                "netDevices",
                "1.1.0",
            ),
            (
                edits().any(rdt),
                "intelRdt.schemata or enableMonitoring",
                "1.1.0",
            ),
            (edits().any(|e| e.intel_rdt.is_some()), "intelRdt", "0.7.0"),
            (
                edits().any(|e| !e.additional_gids.is_empty()),
                "additionalGids",
                "0.7.0",
            ),
            (
                !self.annotations.is_empty() || self.devices.iter().any(annotated),
                "annotations",
                "0.6.0",
            ),
            (class.contains('.'), "a class with a dot", "0.6.0"),
            (
                self.devices.iter().any(digit),
                "a device's name with a digit in front",
                "0.5.0",
            ),
            (edits().any(elsewhere), "deviceNodes.hostPath", "0.5.0"),
            (edits().any(typed), "mounts.type", "0.4.0"),
        ];
        let newest = used.into_iter().find(|(used, ..)| *used);
        newest.map_or(("nothing", "0.1.0"), |(_, word, since)| (word, since))
    }
}

fn invalid(field: &str, problem: impl Into<String>) -> DocumentError {
    DocumentError::Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

impl Edits {
    /// Those of `other` after these.
    pub fn append(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.net_devices.extend_from_slice(&other.net_devices);
        self.hooks.extend_from_slice(&other.hooks);
        self.mounts.extend_from_slice(&other.mounts);
        self.additional_gids
            .extend_from_slice(&other.additional_gids);
        if let Some(rdt) = &other.intel_rdt {
            self.intel_rdt = Some(rdt.clone());
        }
    }

    fn check(&self, field: &str) -> Result<(), DocumentError> {
        environment(&format!("{field}.env"), &self.env)?;
        for node in &self.device_nodes {
            node.check(&format!("{field}.deviceNodes"))?;
        }
        for hook in &self.hooks {
            let field = format!("{field}.hooks");
            absolute(&format!("{field}.path"), &hook.path)?;
            environment(&format!("{field}.env"), &hook.env)?;
        }
        for mount in &self.mounts {
            let field = format!("{field}.mounts");
            if mount.host_path.is_empty() {
                return Err(invalid(&format!("{field}.hostPath"), "is empty"));
            }
            absolute(&format!("{field}.containerPath"), &mount.container_path)?;
        }
        for (index, device) in self.net_devices.iter().enumerate() {
            let field = format!("{field}.netDevices[{index}]");
            if device.host_interface_name.is_empty() || device.name.is_empty() {
                return Err(invalid(&field, "has an empty name"));
            }
            let same = |d: &NetDevice| {
                d.host_interface_name == device.host_interface_name || d.name == device.name
            };
            if self.net_devices[..index].iter().any(same) {
                let problem = format!("is {:?} again", device.host_interface_name);
                return Err(invalid(&field, problem));
            }
        }
        // It becomes the name of a folder; the root's own is a slash.
        let clos = self.intel_rdt.as_ref().map_or("", |r| r.clos_id.as_str());
        let plain = clos.len() < 4096 && !matches!(clos, "." | "..") && !clos.contains(['/', '\n']);
        match plain || clos == "/" {
            true => Ok(()),
            false => Err(invalid(
                &format!("{field}.intelRdt.closID"),
                format!("is {clos:?}, which is no name of a folder"),
            )),
        }
    }
}

impl DeviceNode {
    fn check(&self, field: &str) -> Result<(), DocumentError> {
        absolute(&format!("{field}.path"), &self.path)?;
        if !self.host_path.is_empty() {
            absolute(&format!("{field}.hostPath"), &self.host_path)?;
        }
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            let problem = format!("is {:?}, and can be b, c, u or p", self.kind);
            return Err(invalid(&format!("{field}.type"), problem));
        }
        let some = self.permissions.bytes().all(|b| b"rwm".contains(&b));
        match some || self.permissions == "none" {
            true => Ok(()),
            false => Err(invalid(
                &format!("{field}.permissions"),
                format!("is {:?}, and is made of r, w and m", self.permissions),
            )),
        }
    }
}

fn absolute(field: &str, path: &str) -> Result<(), DocumentError> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(()),
        false => Err(invalid(
            field,
            format!("is {path:?}, which is no absolute path"),
        )),
    }
}

fn environment(field: &str, env: &[String]) -> Result<(), DocumentError> {
    let plain = |e: &&String| e.find('=').is_some_and(|at| at > 0) && !e.contains('\0');
    match env.iter().find(|e| !plain(e)) {
        Some(entry) => Err(invalid(
            field,
            format!("holds {entry:?}, and looks like NAME=VALUE"),
        )),
        None => Ok(()),
    }
}
