//! Calls the plugins of a list in their order, chains their results, and remembers what ADD
//! returned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use corten_spec::cni::{ConfigError, PluginConfig, check_ifname};
use serde_json::{Map, Value, json};

use super::cache::{self, Entry};
use super::exec::{exec, insert, version};
use super::{Attachment, CniResult, NetworkConfigList, ValidAttachment};
use crate::Error;
use crate::failpoint::failpoint;
use crate::plugin::{self, Request, Session, Verb};

/// Calls plugins. Cheap to make: it opens nothing until a call.
#[derive(Clone, Debug)]
pub struct Caller {
    plugin_path: Vec<PathBuf>,
    cache_dir: PathBuf,
    bundled: bool,
}

/// What a call passes to each plugin.
struct Call<'a> {
    verb: Verb,
    container_id: &'a str,
    netns: &'a Path,
    ifname: &'a str,
    args: &'a [(String, String)],
    capabilities: &'a Map<String, Value>,
    /// Keys that are put into each configuration.
    extra: Vec<(&'static str, Value)>,
    session: Session,
}

impl Caller {
    /// `plugin_path`: folders of other plugins' executables, searched in order. `cache_dir`:
    /// where the results of ADD are kept (libcni's is `/var/lib/cni`), made if missing.
    pub fn new(plugin_path: Vec<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            plugin_path,
            cache_dir: cache_dir.into(),
            bundled: true,
        }
    }

    /// Runs executables even where we have a plugin of that name.
    pub fn without_bundled(mut self) -> Self {
        self.bundled = false;
        self
    }

    /// Attaches: runs ADD of each plugin in order. After a failure the DEL of all has run.
    pub fn add(&self, list: &NetworkConfigList, to: &Attachment) -> Result<CniResult, Error> {
        validate(to)?;
        let attached = self.add_all(list, to).and_then(|result| {
            failpoint!("caller.add.all");
            cache::write(&self.cache_dir, list, to, &result).map(|()| result)
        });
        failpoint!("caller.add.remembered");
        attached.map_err(|error| Error::Attach {
            container: to.container_id.to_string(),
            network: list.name.clone(),
            source: Box::new(error),
            undo: self.del_all(list, to, None).err().into_iter().collect(),
        })
    }

    fn add_all(&self, list: &NetworkConfigList, to: &Attachment) -> Result<CniResult, Error> {
        let capabilities = capabilities(to);
        let mut call = Call::on(Verb::Add, to, &to.args, &capabilities);
        let mut result = CniResult {
            cni_version: list.version.as_str().into(),
            ..Default::default()
        };
        for plugin in &list.plugins {
            if let Some(next) = self.call(list, plugin, &call)? {
                result = next;
                call.extra = vec![("prevResult", result.to_document(list.version))];
            }
            failpoint!("caller.add.one");
        }
        crate::recover::reload_others(&call.session, list, &self.cache_dir, to)?;
        Ok(result)
    }

    /// Takes off: DEL of each plugin in reverse. Not being attached is a success; so is a
    /// namespace that has gone. Arguments left out (`capabilities`, `args`) come from the cache.
    pub fn del(&self, list: &NetworkConfigList, from: &Attachment) -> Result<(), Error> {
        validate_names(from)?;
        let _lock = cache::lock(&self.cache_dir, false)?;
        let cached = cache::read(&self.cache_dir, &list.name, from)?;
        self.del_all(list, from, cached)?;
        failpoint!("caller.del.all");
        let (id, ifname) = (from.container_id.as_str(), &from.ifname);
        cache::remove(&self.cache_dir, &list.name, id, ifname)
    }

    /// As [`Self::del`], by the configuration that ADD had; for one that is no longer to be had elsewhere. Not being
    /// attached is a success.
    pub fn del_remembered(&self, network: &str, from: &Attachment) -> Result<(), Error> {
        validate_names(from)?;
        match cache::read(&self.cache_dir, network, from)? {
            Some(entry) => self.del(&entry.list()?, from),
            None => Ok(()),
        }
    }

    /// Runs ADD of the plugins of one kind again, on what ADD of all returned, and remembers the arguments: for those
    /// that change while a container is attached, as its published ports do.
    pub fn renew(
        &self,
        list: &NetworkConfigList,
        to: &Attachment,
        kind: &str,
    ) -> Result<(), Error> {
        validate(to)?;
        let _lock = cache::lock(&self.cache_dir, false)?;
        let Some(cached) = cache::read(&self.cache_dir, &list.name, to)? else {
            return Err(not_attached(list, to));
        };
        let result = cached.result(list.version)?;
        let capabilities = capabilities(to);
        let mut call = Call::on(Verb::Add, to, &to.args, &capabilities);
        call.extra = previous(Some(cached));
        for plugin in list.plugins.iter().filter(|p| p.kind == kind) {
            self.call(list, plugin, &call)?;
        }
        failpoint!("caller.renew.called");
        cache::write(&self.cache_dir, list, to, &result)
    }

    /// The attachments that ADD made and DEL has not taken off, whoever asked for them.
    pub fn attached(&self, network: &str) -> Result<Vec<ValidAttachment>, Error> {
        let entries = cache::list(&self.cache_dir, network)?;
        let one = |e: Entry| ValidAttachment {
            container_id: e.container_id,
            ifname: e.if_name,
        };
        Ok(entries.into_iter().map(one).collect())
    }

    /// The networks that have such attachments.
    pub fn networks(&self) -> Result<BTreeSet<String>, Error> {
        let entries = cache::list(&self.cache_dir, "")?;
        Ok(entries.into_iter().map(|e| e.network_name).collect())
    }

    fn del_all(
        &self,
        list: &NetworkConfigList,
        from: &Attachment,
        cached: Option<Entry>,
    ) -> Result<(), Error> {
        let (args, capabilities) = remembered(from, cached.as_ref());
        let mut call = Call::on(Verb::Del, from, &args, &capabilities);
        // Before CHECK there was no prevResult for DEL.
        call.extra = previous(cached.filter(|_| list.version.has_check()));
        // Every plugin gets its turn: what one cannot free must not keep the rest.
        let failures = list
            .plugins
            .iter()
            .rev()
            .filter_map(|plugin| {
                let failure = self.call(list, plugin, &call).err();
                failpoint!("caller.del.one");
                failure
            })
            .collect();
        Error::several(failures)
    }

    /// Compares what is there with what ADD returned.
    pub fn check(&self, list: &NetworkConfigList, of: &Attachment) -> Result<(), Error> {
        validate(of)?;
        if list.disable_check {
            return Ok(());
        }
        if !list.version.has_check() {
            return Err(Error::Invalid {
                what: "network",
                value: list.name.clone(),
                reason: format!("is of CNI {}, which has no CHECK", list.version),
            });
        }
        let Some(cached) = cache::read(&self.cache_dir, &list.name, of)? else {
            return Err(not_attached(list, of));
        };
        let (args, capabilities) = remembered(of, Some(&cached));
        let mut call = Call::on(Verb::Check, of, &args, &capabilities);
        call.extra = previous(Some(cached));
        for plugin in &list.plugins {
            self.call(list, plugin, &call)?;
        }
        Ok(())
    }

    /// Frees all that belongs to no attachment in `valid`. Must not run beside `add` or `del`
    /// on the same network.
    pub fn gc(&self, list: &NetworkConfigList, valid: &[ValidAttachment]) -> Result<(), Error> {
        if list.disable_gc {
            return Ok(());
        }
        let mut failures = Vec::new();
        for entry in cache::list(&self.cache_dir, &list.name)? {
            let known = |v: &ValidAttachment| {
                v.container_id == entry.container_id && v.ifname == entry.if_name
            };
            if !valid.iter().any(known) {
                failures.extend(self.forget(list, &entry).err());
            }
        }
        if list.version.has_gc_and_status() {
            let none = Map::new();
            let call = Call {
                // The second is what the specification said at first, and the reference library sends too.
                extra: ["cni.dev/valid-attachments", "cni.dev/attachments"]
                    .map(|key| (key, json!(valid)))
                    .into(),
                ..Call::about_nobody(Verb::Gc, &none)
            };
            let errors = list.plugins.iter().map(|p| self.call(list, p, &call));
            failures.extend(errors.filter_map(Result::err));
        }
        Error::several(failures)
    }

    fn forget(&self, list: &NetworkConfigList, entry: &Entry) -> Result<(), Error> {
        let id = entry.container_id.parse().map_err(|_| Error::Invalid {
            what: "container id of a cached result",
            value: entry.container_id.chars().take(64).collect(),
            reason: "is none".into(),
        })?;
        let mut from = Attachment::new(id, entry.netns.clone());
        from.ifname.clone_from(&entry.if_name);
        self.del(list, &from)
    }

    /// Whether every plugin could serve an ADD now.
    pub fn status(&self, list: &NetworkConfigList) -> Result<(), Error> {
        if !list.version.has_gc_and_status() {
            return Ok(());
        }
        let none = Map::new();
        let call = Call::about_nobody(Verb::Status, &none);
        for plugin in &list.plugins {
            self.call(list, plugin, &call)?;
        }
        Ok(())
    }

    /// Whether every plugin, and every address plugin that one delegates to, is there and speaks the list's version,
    /// and which capabilities the plugins declare. Changes nothing.
    pub fn validate(&self, list: &NetworkConfigList) -> Result<BTreeSet<String>, Error> {
        for plugin in &list.plugins {
            for kind in std::iter::once(&plugin.kind).chain(&plugin.ipam) {
                if kind.is_empty() || (self.bundled && plugin::is_bundled(kind)) {
                    continue;
                }
                self.validate_executable(list, kind)
                    .map_err(|source| Error::Plugin {
                        plugin: kind.clone(),
                        verb: "VERSION",
                        source: Box::new(source),
                    })?;
            }
        }
        let declared = list.plugins.iter().flat_map(|p| &p.capabilities);
        Ok(declared.cloned().collect())
    }

    fn validate_executable(&self, list: &NetworkConfigList, kind: &str) -> Result<(), Error> {
        let mut config = Map::new();
        insert(&mut config, &list.name, list.version);
        let nobody = Map::new();
        let call = Call::about_nobody(Verb::Status, &nobody);
        let spoken = version(kind, &self.request(&call, list, &config))?;
        // Before 0.3.0 a plugin names no list, but its one version.
        let mut all = spoken
            .supported_versions
            .iter()
            .chain([&spoken.cni_version]);
        if all.any(|v| v == list.version.as_str()) {
            return Ok(());
        }
        Err(Error::Invalid {
            what: "network",
            value: list.name.clone(),
            reason: format!(
                "is of CNI {}, and the plugin speaks {}",
                list.version,
                spoken.supported_versions.join(", ")
            ),
        })
    }

    fn request<'r>(
        &'r self,
        call: &'r Call<'_>,
        list: &NetworkConfigList,
        config: &'r Map<String, Value>,
    ) -> Request<'r> {
        Request {
            verb: call.verb,
            container_id: call.container_id,
            netns: call.netns,
            ifname: call.ifname,
            args: call.args,
            path: &self.plugin_path,
            bundled: self.bundled,
            version: list.version,
            config,
            session: &call.session,
        }
    }

    fn call(
        &self,
        list: &NetworkConfigList,
        plugin: &PluginConfig,
        call: &Call<'_>,
    ) -> Result<Option<CniResult>, Error> {
        let config = call.config(list, plugin);
        let request = self.request(call, list, &config);
        let result = match self.bundled && plugin::is_bundled(&plugin.kind) {
            true => plugin::run(&plugin.kind, &request),
            false => exec(&plugin.kind, &request),
        };
        result.map_err(|source| Error::Plugin {
            plugin: plugin.kind.clone(),
            verb: call.verb.as_str(),
            source: Box::new(source),
        })
    }
}

impl<'a> Call<'a> {
    fn on(
        verb: Verb,
        a: &'a Attachment,
        args: &'a [(String, String)],
        capabilities: &'a Map<String, Value>,
    ) -> Self {
        Self {
            verb,
            container_id: a.container_id.as_str(),
            netns: &a.netns,
            ifname: &a.ifname,
            args,
            capabilities,
            extra: Vec::new(),
            session: Session::default(),
        }
    }

    fn about_nobody(verb: Verb, capabilities: &'a Map<String, Value>) -> Self {
        Self {
            verb,
            container_id: "",
            netns: Path::new(""),
            ifname: "",
            args: &[],
            capabilities,
            extra: Vec::new(),
            session: Session::default(),
        }
    }

    /// The plugin's configuration, with what the specification has the caller insert.
    fn config(&self, list: &NetworkConfigList, plugin: &PluginConfig) -> Map<String, Value> {
        let mut config = plugin.document.clone();
        insert(&mut config, &list.name, list.version);
        let declared: Map<String, Value> = plugin
            .capabilities
            .iter()
            .filter_map(|c| Some((c.clone(), self.capabilities.get(c)?.clone())))
            .collect();
        if !declared.is_empty() {
            config.insert("runtimeConfig".into(), declared.into());
        }
        for (key, value) in &self.extra {
            config.insert((*key).into(), value.clone());
        }
        config
    }
}

fn not_attached(list: &NetworkConfigList, of: &Attachment) -> Error {
    Error::Mismatch {
        what: format!("container {} on network {}", of.container_id, list.name),
        found: "not attached".into(),
        wanted: "attached".into(),
    }
}

fn capabilities(of: &Attachment) -> Map<String, Value> {
    match serde_json::to_value(&of.capabilities) {
        Ok(Value::Object(object)) => object,
        // A struct of strings and numbers serializes to an object.
        _ => Map::new(),
    }
}

/// The arguments given, or where none are, those of the ADD.
fn remembered(
    of: &Attachment,
    cached: Option<&Entry>,
) -> (Vec<(String, String)>, Map<String, Value>) {
    let mut args = of.args.clone();
    let mut given = capabilities(of);
    if let Some(entry) = cached {
        if args.is_empty() {
            args = entry.cni_args.clone().unwrap_or_default();
        }
        if given.is_empty() {
            given = entry.capability_args.clone().unwrap_or_default();
        }
    }
    (args, given)
}

fn previous(cached: Option<Entry>) -> Vec<(&'static str, Value)> {
    cached
        .map(|entry| ("prevResult", entry.result))
        .into_iter()
        .collect()
}

fn validate(a: &Attachment) -> Result<(), Error> {
    validate_names(a)?;
    if a.netns.as_os_str().is_empty() {
        return Err(Error::Invalid {
            what: "network namespace of container",
            value: a.container_id.to_string(),
            reason: "is not given".into(),
        });
    }
    Ok(())
}

fn validate_names(a: &Attachment) -> Result<(), Error> {
    check_ifname(&a.ifname).map_err(|e: ConfigError| Error::Config(e))?;
    let bad = |text: &str| text.contains([';', '=', '\0']);
    match a
        .args
        .iter()
        .find(|(k, v)| bad(k) || bad(v) || k.is_empty())
    {
        None => Ok(()),
        Some((key, _)) => Err(Error::Invalid {
            what: "CNI argument",
            value: key.chars().take(64).collect(),
            reason: "is empty or holds ';' or '='".into(),
        }),
    }
}
