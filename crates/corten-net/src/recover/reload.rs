//! Putting back what a network had in nf_tables, after somebody has flushed the ruleset
//! (`nft flush ruleset`, a firewall's restart).
//!
//! The results of ADD in the cache say all of it: configuration, arguments, addresses, links. So a
//! reload asks no database and no plugin; it computes what each of our plugins had put there, and
//! adds what is missing, in one transaction a table.
//!
//! ```text
//!  cache entries ─▶ alive? ─▶ plugin::wanted ─▶ one Wanted a table ─▶ Firewall::restore
//! ```
//!
//! Nothing is taken away. A reload and a DEL exclude each other (`cache::lock`); ADD needs no
//! exclusion, as what it has not finished is in no cache yet and is not missed.

use std::collections::BTreeMap;
use std::path::Path;

use corten_spec::cni::{CniResult, PluginConfig};
use rustix::io::Errno;
use serde_json::{Map, Value};

use crate::Error;
use crate::cni::cache::{self, Entry};
use crate::cni::{Attachment, NetworkConfigList, insert};
use crate::firewall::{Firewall, Obstacle, Wanted};
use crate::link::{Links, mac_text, netns};
use crate::plugin::{self, Request, Session, Verb};

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What was missing and is there again, each in words: `port 0.0.0.0:80/tcp of web`.
    pub restored: Vec<String>,
    /// What could not be put back, as another container has it by now; or whose entry in the cache
    /// cannot be understood.
    pub refused: Vec<String>,
    /// Containers in the cache whose network namespace has gone: GC's business.
    pub dead: Vec<String>,
}

/// Puts back what the network's living attachments had in nf_tables. Doing it twice does nothing
/// more.
pub fn reload(list: &NetworkConfigList, cache_dir: &Path) -> Result<Reloaded, Error> {
    let _lock = cache::lock(cache_dir, true)?;
    let entries = cache::list(cache_dir, &list.name)?;
    restore(list, entries)
}

/// What of the network's living attachments is missing in nf_tables, in words; empty if nothing is.
pub fn intact(list: &NetworkConfigList, cache_dir: &Path) -> Result<Vec<String>, Error> {
    if cache::list(cache_dir, &list.name)?.is_empty() {
        return Ok(Vec::new());
    }
    let _lock = cache::lock(cache_dir, true)?;
    let plan = Plan::of(list, cache::list(cache_dir, &list.name)?)?;
    let mut missing = plan.refused;
    for (table, wanted) in plan.tables {
        missing.extend(Firewall::open(&table)?.missing(&wanted)?);
    }
    Ok(missing)
}

/// Chains of others that may drop what this network's containers send and get, as packets must
/// pass every table; for the administrator, who alone can change them.
pub fn obstacles(list: &NetworkConfigList) -> Result<Vec<Obstacle>, Error> {
    let tables = list.plugins.iter();
    let table = tables
        .map(|p| crate::network::Parts::of(list, p).table)
        .next();
    match table {
        Some(table) => Firewall::open(&table)?.obstacles(),
        None => Ok(Vec::new()),
    }
}

/// For ADD: if it found the table gone, or without the network, the network's other containers
/// lost their part too.
pub(crate) fn reload_others(
    session: &Session,
    list: &NetworkConfigList,
    cache_dir: &Path,
    but: &Attachment,
) -> Result<(), Error> {
    if !session.is_fresh() {
        return Ok(());
    }
    let own = |e: &Entry| e.container_id == but.container_id.as_str() && e.if_name == but.ifname;
    if cache::list(cache_dir, &list.name)?.iter().all(own) {
        return Ok(());
    }
    let _lock = cache::lock(cache_dir, true)?;
    let mut entries = cache::list(cache_dir, &list.name)?;
    entries.retain(|e| !own(e));
    restore(list, entries).map(drop)
}

fn restore(list: &NetworkConfigList, entries: Vec<Entry>) -> Result<Reloaded, Error> {
    let plan = Plan::of(list, entries)?;
    let mut done = Reloaded {
        refused: plan.refused,
        dead: plan.dead,
        ..Reloaded::default()
    };
    for (table, wanted) in plan.tables {
        let restored = Firewall::open(&table)?.restore(&wanted)?;
        done.restored.extend(restored.missing);
        done.refused.extend(restored.refused);
    }
    Ok(done)
}

/// What the living attachments are to have, by table.
#[derive(Default)]
struct Plan {
    tables: BTreeMap<String, Wanted>,
    refused: Vec<String>,
    dead: Vec<String>,
}

impl Plan {
    fn of(list: &NetworkConfigList, entries: Vec<Entry>) -> Result<Self, Error> {
        let mut plan = Plan::default();
        for entry in entries {
            // As it was attached, not as the network is configured by now.
            let config = entry.list();
            let config = config.as_ref().unwrap_or(list);
            let result = match CniResult::parse(&entry.result, config.version) {
                Ok(result) => result,
                Err(error) => {
                    let id = &entry.container_id;
                    plan.refused
                        .push(format!("the cached result of {id} is not usable: {error}"));
                    continue;
                }
            };
            if !is_alive(&entry, &result)? {
                plan.dead.push(entry.container_id.clone());
                continue;
            }
            for plugin in &config.plugins {
                match wanted(config, plugin, &entry, &result) {
                    Ok(Some((table, wanted))) => {
                        plan.tables.entry(table).or_default().extend(wanted)
                    }
                    Ok(None) => {}
                    Err(error) => plan.refused.push(format!(
                        "what {} had by plugin {}: {}",
                        entry.container_id,
                        plugin.kind,
                        corten_spec::chain(&error)
                    )),
                }
            }
        }
        Ok(plan)
    }
}

/// Whether the namespace is there and still the container's: a path of `/proc` may by now be that
/// of another process.
fn is_alive(entry: &Entry, result: &CniResult) -> Result<bool, Error> {
    let wanted = result.container_interface().map(|i| i.mac.to_lowercase());
    let looked = netns::open_if_there(&entry.netns).and_then(|file| match file {
        Some(file) => netns::inside(&file, &entry.netns, || {
            Links::open()?.by_name(&entry.if_name)
        }),
        None => Ok(None),
    });
    let link = match looked {
        // By now the path is something else's: a file, a socket, and no namespace.
        Err(Error::Netns { source, .. }) if !is_our_trouble(source) => return Ok(false),
        other => other?,
    };
    Ok(link.is_some_and(|link| match (wanted, link.mac) {
        (Some(wanted), Some(mac)) if !wanted.is_empty() => wanted == mac_text(mac),
        _ => true,
    }))
}

/// What says nothing of the path.
fn is_our_trouble(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM | Errno::ACCESS | Errno::MFILE | Errno::NFILE | Errno::NOMEM
    )
}

fn wanted(
    list: &NetworkConfigList,
    plugin: &PluginConfig,
    entry: &Entry,
    result: &CniResult,
) -> Result<Option<(String, Wanted)>, Error> {
    let mut config = plugin.document.clone();
    insert(&mut config, &list.name, list.version);
    let none = Map::new();
    let given = entry.capability_args.as_ref().unwrap_or(&none);
    let declared: Map<String, Value> = plugin
        .capabilities
        .iter()
        .filter_map(|c| Some((c.clone(), given.get(c)?.clone())))
        .collect();
    config.insert("runtimeConfig".into(), declared.into());
    let session = Session::default();
    let request = Request {
        verb: Verb::Check,
        container_id: &entry.container_id,
        netns: &entry.netns,
        ifname: &entry.if_name,
        args: entry.cni_args.as_deref().unwrap_or(&[]),
        path: &[],
        bundled: true,
        version: list.version,
        config: &config,
        session: &session,
    };
    plugin::wanted(&plugin.kind, &request, result)
}
