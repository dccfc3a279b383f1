//! Network configurations and lists of them (specification, section 1).

use serde_json::{Map, Value};

use super::{MAX_DOCUMENT, Version};

/// Why a document is no network configuration. `at` names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the network configuration has {size} bytes, more than {MAX_DOCUMENT}")]
    Size { size: usize },
    #[error("the network configuration is not JSON")]
    Json {
        #[source]
        source: serde_json::Error,
    },
    #[error("{at} of the network configuration is missing")]
    Missing { at: String },
    #[error("{at} of the network configuration should be {wanted}")]
    Type { at: String, wanted: &'static str },
    #[error("{at} of the network configuration, {value:?}, {reason}")]
    Value {
        at: String,
        value: String,
        reason: &'static str,
    },
    #[error("network {network} speaks none of the CNI versions 0.3.0 to 1.1.0, but {versions}")]
    Version { network: String, versions: String },
}

/// A network: its plugins in the order of ADD.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfigList {
    /// The highest version that the list names and we speak.
    pub version: Version,
    pub name: String,
    pub disable_check: bool,
    pub disable_gc: bool,
    /// Only `plugins` count; without it a sibling folder named after the network may add more.
    pub load_only_inlined_plugins: bool,
    pub plugins: Vec<PluginConfig>,
    /// The document as given, for the result cache.
    document: Value,
}

/// One plugin's configuration, as it will be passed (without what the caller inserts).
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConfig {
    /// `type`: the file name of the plugin.
    pub kind: String,
    /// The names under `capabilities` that are true.
    pub capabilities: Vec<String>,
    /// `ipam.type`, if there is one.
    pub ipam: Option<String>,
    /// All keys, the unknown ones included.
    pub document: Map<String, Value>,
}

impl NetworkConfigList {
    /// Reads a `.conflist` document, or a single configuration (`.conf`), which becomes a
    /// list of one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(ConfigError::Size { size: bytes.len() });
        }
        let document: Value =
            serde_json::from_slice(bytes).map_err(|source| ConfigError::Json { source })?;
        Self::from_document(document)
    }

    pub fn from_document(document: Value) -> Result<Self, ConfigError> {
        let object = document.as_object().ok_or(ConfigError::Type {
            at: "the root".into(),
            wanted: "an object",
        })?;
        let name = string(object, "name", "name")?.ok_or_else(|| missing("name"))?;
        check_network_name(&name)?;
        let version = choose_version(object, &name)?;
        let load_only_inlined_plugins = flag(object, "loadOnlyInlinedPlugins")?;
        let plugins = if object.contains_key("type") && !object.contains_key("plugins") {
            vec![PluginConfig::from_object(object.clone(), "the root")?]
        } else {
            plugins(object)?
        };
        Ok(Self {
            version,
            name,
            disable_check: flag(object, "disableCheck")?,
            disable_gc: flag(object, "disableGC")?,
            load_only_inlined_plugins,
            plugins,
            document,
        })
    }

    /// Reads a list whose plugins are partly in files of their own, which come after those in the list
    /// itself, as `loadOnlyInlinedPlugins: false` has it. A list without any of its own may be
    /// made of them alone.
    pub fn with_plugins(mut document: Value, more: Vec<Value>) -> Result<Self, ConfigError> {
        // What is no object or no list is told below.
        if !more.is_empty()
            && let Some(object) = document.as_object_mut()
            && let Value::Array(list) = object
                .entry("plugins")
                .or_insert_with(|| Value::Array(Vec::new()))
        {
            list.extend(more);
        }
        Self::from_document(document)
    }

    /// The document as it was given.
    pub fn document(&self) -> &Value {
        &self.document
    }
}

fn plugins(object: &Map<String, Value>) -> Result<Vec<PluginConfig>, ConfigError> {
    let list = match object.get("plugins") {
        None => return Err(missing("plugins")),
        Some(Value::Array(list)) => list,
        Some(_) => {
            return Err(ConfigError::Type {
                at: "plugins".into(),
                wanted: "a list",
            });
        }
    };
    if list.is_empty() {
        return Err(missing("plugins[0]"));
    }
    list.iter()
        .enumerate()
        .map(|(i, plugin)| match plugin {
            Value::Object(o) => PluginConfig::from_object(o.clone(), &format!("plugins[{i}]")),
            _ => Err(ConfigError::Type {
                at: format!("plugins[{i}]"),
                wanted: "an object",
            }),
        })
        .collect()
}

impl PluginConfig {
    /// Reads one plugin's object; `at` names it in errors.
    pub fn from_object(document: Map<String, Value>, at: &str) -> Result<Self, ConfigError> {
        let kind = string(&document, "type", &format!("{at}.type"))?
            .ok_or_else(|| missing(&format!("{at}.type")))?;
        check_plugin_type(&kind, &format!("{at}.type"))?;
        let capabilities = match document.get("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(o)) => o
                .iter()
                .filter(|(_, v)| **v == Value::Bool(true))
                .map(|(k, _)| k.clone())
                .collect(),
            Some(_) => {
                return Err(ConfigError::Type {
                    at: format!("{at}.capabilities"),
                    wanted: "an object of booleans",
                });
            }
        };
        let ipam = match document.get("ipam") {
            None | Some(Value::Null) => None,
            Some(Value::Object(o)) => {
                let at = format!("{at}.ipam.type");
                let kind = string(o, "type", &at)?;
                if let Some(kind) = &kind {
                    check_plugin_type(kind, &at)?;
                }
                kind
            }
            Some(_) => {
                return Err(ConfigError::Type {
                    at: format!("{at}.ipam"),
                    wanted: "an object",
                });
            }
        };
        Ok(Self {
            kind,
            capabilities,
            ipam,
            document,
        })
    }
}

fn missing(at: &str) -> ConfigError {
    ConfigError::Missing { at: at.into() }
}

fn string(o: &Map<String, Value>, key: &str, at: &str) -> Result<Option<String>, ConfigError> {
    match o.get(key) {
        None => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(ConfigError::Type {
            at: at.into(),
            wanted: "a string",
        }),
    }
}

/// libcni takes `"true"` and `"false"` as text too.
fn flag(o: &Map<String, Value>, key: &str) -> Result<bool, ConfigError> {
    match o.get(key) {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(ConfigError::Type {
            at: key.into(),
            wanted: "a boolean",
        }),
    }
}

/// `cniVersions` (1.1.0) lists all that the plugins speak; the highest common one counts.
fn choose_version(o: &Map<String, Value>, network: &str) -> Result<Version, ConfigError> {
    let mut named: Vec<String> = Vec::new();
    if let Some(v) = string(o, "cniVersion", "cniVersion")? {
        named.push(v);
    }
    match o.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for v in list {
                let v = v.as_str().ok_or(ConfigError::Type {
                    at: "cniVersions".into(),
                    wanted: "a list of strings",
                })?;
                named.push(v.into());
            }
        }
        Some(_) => {
            return Err(ConfigError::Type {
                at: "cniVersions".into(),
                wanted: "a list of strings",
            });
        }
    }
    if named.is_empty() {
        return Err(missing("cniVersion"));
    }
    named
        .iter()
        .filter_map(|v| v.parse().ok())
        .max()
        .ok_or_else(|| ConfigError::Version {
            network: network.into(),
            versions: named.join(", ").chars().take(200).collect(),
        })
}

/// Checks a network's name (specification, section 1): it becomes part of file names.
pub fn check_network_name(name: &str) -> Result<(), ConfigError> {
    let head = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if head && rest && name.len() <= 128 {
        return Ok(());
    }
    Err(ConfigError::Value {
        at: "name".into(),
        value: name.chars().take(128).collect(),
        reason: "may hold only [a-zA-Z0-9_.-], start with a letter or digit, and have at most 128",
    })
}

/// A plugin's type is looked up as a file: it must not leave the plugin folders.
fn check_plugin_type(kind: &str, at: &str) -> Result<(), ConfigError> {
    let plain = !kind.contains(['/', '\\', '\0']) && kind != "." && kind != "..";
    if plain && kind.len() <= 128 {
        return Ok(());
    }
    Err(ConfigError::Value {
        at: at.into(),
        value: kind.chars().take(128).collect(),
        reason: "is no plain file name",
    })
}

/// Checks the name of a network interface as the kernel does (`dev_valid_name`) and the
/// specification asks. `eth%d` is no name but a wish for one: the kernel would make `eth0` of it.
pub fn check_ifname(name: &str) -> Result<(), ConfigError> {
    let plain = !name
        .bytes()
        .any(|b| b"/:%".contains(&b) || b <= b' ' || b == 0x7f);
    if plain && !name.is_empty() && name.len() <= 15 && name != "." && name != ".." {
        return Ok(());
    }
    Err(ConfigError::Value {
        at: "the interface name".into(),
        value: name.chars().take(64).collect(),
        reason: "must have 1 to 15 characters, no slash, colon, percent sign or space",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_a_list_and_keeps_unknown_keys() {
        let list = NetworkConfigList::from_document(json!({
            "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "9.9.9"], "name": "n",
            "disableCheck": "true",
            "plugins": [{"type": "bridge", "x": 1, "ipam": {"type": "host-local"},
                         "capabilities": {"mac": true, "ips": false}}],
        }))
        .unwrap();
        assert_eq!(list.version, Version::V1_0_0);
        assert!(list.disable_check && !list.disable_gc);
        let p = &list.plugins[0];
        assert_eq!(
            (p.kind.as_str(), p.ipam.as_deref()),
            ("bridge", Some("host-local"))
        );
        assert_eq!(p.capabilities, ["mac"]);
        assert_eq!(p.document["x"], 1);
    }

    #[test]
    fn a_single_configuration_is_a_list_of_one() {
        let list = NetworkConfigList::from_document(
            json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}),
        )
        .unwrap();
        assert_eq!(list.plugins.len(), 1);
    }

    #[test]
    fn names_what_is_wrong_and_where() {
        let cases = [
            (
                json!([]),
                "the root of the network configuration should be an object",
            ),
            (
                json!({"cniVersion": "1.0.0", "plugins": []}),
                "name of the network configuration is missing",
            ),
            (
                json!({"name": "../x", "cniVersion": "1.0.0"}),
                "may hold only",
            ),
            (
                json!({"name": "n", "plugins": [{"type": "x"}]}),
                "cniVersion of",
            ),
            (json!({"name": "n", "cniVersion": "1.0.0"}), "plugins of"),
            (
                json!({"name": "n", "cniVersion": "1.0.0", "plugins": []}),
                "plugins[0] of",
            ),
            (
                json!({"name": "n", "cniVersion": "1.0.0", "plugins": [{}]}),
                "plugins[0].type of",
            ),
            (
                json!({"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "../sh"}]}),
                "no plain file name",
            ),
            (
                json!({"name": "n", "cniVersion": "7", "plugins": [{"type": "x"}]}),
                "network n speaks none",
            ),
        ];
        for (document, wanted) in cases {
            let error = NetworkConfigList::from_document(document)
                .unwrap_err()
                .to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "a", "veth-0.1"] {
            check_ifname(good).unwrap();
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "a:b",
            "eth%d",
            "sixteencharacter",
        ] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
    }
}
