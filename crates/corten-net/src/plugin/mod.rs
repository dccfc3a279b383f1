//! The bundled CNI plugins, [`NAMES`]. Called in process by [`crate::cni::Caller`], or as executables
//! of those names by anybody's. What each takes is in `docs/cni.md`.
//!
//! ```text
//!   main     bridge ptp macvlan ipvlan vlan host-device dummy tap loopback    make or move a link
//!   ipam     host-local static dhcp                                           choose its addresses
//!   chained  portmap firewall tuning vrf sbr bandwidth                        change what is there
//! ```
//!
//! A plugin is one module with one function for each verb. It gets a [`Request`] and gives back
//! a result; how it was called is not its business. What the main plugins do alike is in
//! `container`.

mod bandwidth;
mod below;
mod bridge;
mod container;
mod dhcp;
mod dummy;
mod firewall;
mod fixed;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod host_device;
mod host_local;
mod loopback;
mod portmap;
mod process;
mod ptp;
mod record;
mod sbr;
mod session;
mod tap;
mod tuning;
mod vrf;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use corten_spec::cni::{CniResult, Version};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;
use crate::cni::ValidAttachment;
use crate::firewall::Wanted;
use crate::link::netns;
use crate::owner::Owner;

pub(crate) use session::Session;

/// The names that [`main`] answers to.
pub const NAMES: &[&str] = &[
    "bandwidth",
    "bridge",
    "dhcp",
    "dummy",
    "firewall",
    "host-device",
    "host-local",
    "ipvlan",
    "loopback",
    "macvlan",
    "portmap",
    "ptp",
    "sbr",
    "static",
    "tap",
    "tuning",
    "vlan",
    "vrf",
];

/// Those of them that give addresses.
const IPAM: [&str; 3] = ["dhcp", "host-local", "static"];

/// The verbs of the specification, but for VERSION, which needs no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
        }
    }
}

/// One call of a plugin: what an executable finds in its environment and on stdin.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub verb: Verb,
    pub container_id: &'a str,
    pub netns: &'a Path,
    pub ifname: &'a str,
    pub args: &'a [(String, String)],
    pub path: &'a [PathBuf],
    /// Whether plugins of ours run in process when this one delegates.
    pub bundled: bool,
    pub version: Version,
    pub config: &'a Map<String, Value>,
    pub(crate) session: &'a Session,
}

impl Request<'_> {
    /// The network's name.
    fn network(&self) -> &str {
        self.config
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    /// An argument of CNI_ARGS.
    fn arg(&self, key: &str) -> Option<&str> {
        let mut args = self.args.iter().rev();
        args.find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    fn owner(&self) -> Owner {
        Owner::new(self.container_id, self.ifname, self.network())
    }

    /// The nftables table that the configuration names.
    fn table(&self) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Config {
            #[serde(default = "portmap::default_table")]
            corten_table: String,
        }
        Ok(self.read::<Config>("nftables")?.corten_table)
    }

    /// The configuration as this plugin understands it.
    fn read<T: DeserializeOwned>(&self, plugin: &'static str) -> Result<T, Error> {
        T::deserialize(&Value::Object(self.config.clone())).map_err(|e| Error::Invalid {
            what: "the configuration of plugin",
            value: plugin.into(),
            reason: format!("is wrong: {e}"),
        })
    }

    fn previous(&self) -> Result<Option<CniResult>, Error> {
        match self.config.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(document) => {
                CniResult::parse(document, self.version)
                    .map(Some)
                    .map_err(|source| Error::Result {
                        plugin: "before this one".into(),
                        source,
                    })
            }
        }
    }

    fn need_previous(&self, plugin: &'static str) -> Result<CniResult, Error> {
        self.previous()?.ok_or_else(|| Error::Invalid {
            what: "the configuration of plugin",
            value: plugin.into(),
            reason: "has no prevResult".into(),
        })
    }

    /// For GC: whether this attachment is to be kept.
    fn is_valid(&self, valid: &[ValidAttachment], owner: &Owner) -> bool {
        owner.network != self.network()
            || valid
                .iter()
                .any(|v| Owner::new(&v.container_id, &v.ifname, self.network()) == *owner)
    }

    /// Whether this is a GC that does not say what is to be kept, as `cnitool gc` has it: nothing may be collected.
    fn is_gc_of_unknown(&self) -> bool {
        self.verb == Verb::Gc && !VALID.iter().any(|key| self.config.contains_key(*key))
    }

    /// For GC: the attachments to be kept. `null` is how the reference library writes that there are none.
    fn valid_attachments(&self) -> Result<Vec<ValidAttachment>, Error> {
        let key = VALID[0];
        let either = VALID.map(|key| self.config.get(key));
        let Some(value) = either.into_iter().flatten().next() else {
            return Err(Error::Invalid {
                what: "the configuration of GC",
                value: self.network().into(),
                reason: format!("has no {key}"),
            });
        };
        let all: Result<Option<_>, _> = serde_json::from_value(value.clone());
        all.map(Option::unwrap_or_default)
            .map_err(|e| Error::Invalid {
                what: "the configuration of GC",
                value: self.network().into(),
                reason: format!("has a wrong {key}: {e}"),
            })
    }
}

/// Where GC finds the attachments to be kept; the second key is what the specification said at first.
const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Whether we have a plugin of this name.
pub fn is_bundled(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Runs a bundled plugin in this process. ADD gives a result, other verbs none.
pub(crate) fn run(name: &str, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    if request.is_gc_of_unknown() {
        return Ok(None);
    }
    let request = &Request {
        netns: container_netns(request)?,
        ..*request
    };
    dispatch(name, request).map_err(|error| match request.verb {
        Verb::Status => unavailable(error),
        _ => error,
    })
}

/// STATUS has a code of its own for "not now" (specification, section 5); what is wrong with the
/// configuration stays that.
fn unavailable(error: Error) -> Error {
    match error {
        Error::Invalid { .. }
        | Error::Config(_)
        | Error::NotAvailable { .. }
        | Error::Plugin { .. }
        | Error::Reported { .. } => error,
        other => Error::NotAvailable {
            source: Box::new(other),
        },
    }
}

fn dispatch(name: &str, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    match name {
        "bridge" => bridge::run(request),
        "bandwidth" => bandwidth::run(request),
        "dhcp" => dhcp::run(request),
        "dummy" => dummy::run(request),
        "firewall" => firewall::run(request),
        "host-device" => host_device::run(request),
        "ipvlan" => below::run("ipvlan", request),
        "macvlan" => below::run("macvlan", request),
        "ptp" => ptp::run(request),
        "sbr" => sbr::run(request),
        "static" => fixed::run(request),
        "tap" => tap::run(request),
        "tuning" => tuning::run(request),
        "vlan" => below::run("vlan", request),
        "vrf" => vrf::run(request),
        "host-local" => host_local::run(request),
        "loopback" => loopback::run(request),
        "portmap" => portmap::run(request),
        _ => Err(Error::PluginMissing {
            plugin: name.into(),
            searched: "this program".into(),
        }),
    }
}

/// The container's namespace, which is not the one that the plugin runs in: what is done to the
/// container's links would be done to the host's. For DEL such a path has come to mean another
/// process (`/proc/PID/ns/net` of a number that is in use again), so the container's has gone. A
/// caller that means it sets `CNI_NETNS_OVERRIDE`, as for the reference plugins.
fn container_netns<'a>(request: &Request<'a>) -> Result<&'a Path, Error> {
    let path = request.netns;
    if matches!(request.verb, Verb::Gc | Verb::Status)
        || !netns::is_own(path)
        || std::env::var_os("CNI_NETNS_OVERRIDE").is_some_and(|v| v == "1" || v == "true")
    {
        return Ok(path);
    }
    match request.verb {
        Verb::Del => Ok(Path::new("")),
        _ => Err(Error::Invalid {
            what: "CNI_NETNS",
            value: path.display().to_string(),
            reason: "is the network namespace that the plugin runs in".into(),
        }),
    }
}

/// What the plugin's ADD with this result had put into nf_tables, and the table: for a reload.
/// `None` for a plugin that has nothing there.
pub(crate) fn wanted(
    name: &str,
    request: &Request<'_>,
    result: &CniResult,
) -> Result<Option<(String, Wanted)>, Error> {
    let wanted = match name {
        "bridge" => bridge::wanted(request, result)?,
        "firewall" => firewall::wanted(request, result)?,
        "portmap" => portmap::wanted(request, result)?,
        "ptp" => ptp::wanted(request, result)?,
        _ => return Ok(None),
    };
    Ok(Some((request.table()?, wanted)))
}

/// Runs the IPAM plugin that `config.ipam.type` names, with the whole configuration.
fn delegate(kind: &str, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let result = match request.bundled && is_bundled(kind) {
        true => run(kind, request),
        false => crate::cni::exec(kind, request),
    };
    result.map_err(|source| Error::Plugin {
        plugin: kind.into(),
        verb: request.verb.as_str(),
        source: Box::new(source),
    })
}

/// The command line of the plugin `name`: configuration on stdin, `CNI_*` in the environment,
/// result or error object on stdout. `dhcp daemon` is the one that is called otherwise.
pub fn main(name: &str) -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if name == "dhcp" && args.next().is_some_and(|a| a == "daemon") {
        return crate::dhcp::daemon::main(args);
    }
    process::main(name)
}
