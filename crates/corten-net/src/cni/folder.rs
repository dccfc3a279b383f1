//! A folder of network configurations, as `/etc/cni/net.d` is one: `*.conflist` with whole lists, `*.conf` and
//! `*.json` with single plugins, in the order of their file names.
//!
//! A list whose `loadOnlyInlinedPlugins` is not true also takes the `*.conf` files of the folder beside it that is
//! named after the network: so plugins can be dropped into a network that somebody else wrote.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use corten_spec::cni::{ConfigError, MAX_DOCUMENT, check_network_name};
use serde_json::Value;

use super::NetworkConfigList;
use crate::Error;

/// One file, and what it holds or why it holds nothing.
#[derive(Debug)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub list: Result<NetworkConfigList, Error>,
}

/// Every configuration of the folder; none if there is no folder. One that cannot be used keeps no other from
/// being used.
pub fn load_folder(folder: &Path) -> Result<Vec<ConfigFile>, Error> {
    let files = files(folder, &["conflist", "conf", "json"])?;
    let load = |path: PathBuf| ConfigFile {
        list: load_file(&path),
        path,
    };
    Ok(files.into_iter().map(load).collect())
}

/// The configuration of one file.
pub fn load_file(path: &Path) -> Result<NetworkConfigList, Error> {
    load(path).map_err(|source| Error::ConfigFile {
        path: path.into(),
        source: Box::new(source),
    })
}

fn load(path: &Path) -> Result<NetworkConfigList, Error> {
    let document = read(path)?;
    let mut more = Vec::new();
    let is_list = document.get("plugins").is_some() || document.get("type").is_none();
    let name = document.get("name").and_then(Value::as_str);
    let inlined_only = match document.get("loadOnlyInlinedPlugins") {
        // As text too, which the reference library takes; what is neither is refused with the list.
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        other => other.and_then(Value::as_bool).unwrap_or(false),
    };
    if let Some(name) = name.filter(|_| is_list && !inlined_only) {
        check_network_name(name)?;
        let folder = path.parent().unwrap_or(Path::new("")).join(name);
        for file in files(&folder, &["conf"])? {
            more.push(read(&file)?);
        }
    }
    Ok(NetworkConfigList::with_plugins(document, more)?)
}

fn read(path: &Path) -> Result<Value, Error> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| Error::File {
            action: "read",
            path: path.into(),
            source,
        })?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(ConfigError::Size { size: bytes.len() }.into());
    }
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Json { source }.into())
}

/// The files of a folder with one of these extensions, by name.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File {
        action: "list",
        path: folder.into(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let fits = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| extensions.contains(&e));
        if fits && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(list: &NetworkConfigList) -> Vec<&str> {
        list.plugins.iter().map(|p| p.kind.as_str()).collect()
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn files_come_in_the_order_of_their_names_and_a_bad_one_is_named() {
        let dir = folder(&[
            (
                "20-b.conf",
                r#"{"cniVersion": "1.0.0", "name": "b", "type": "bridge"}"#,
            ),
            (
                "10-a.conflist",
                r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "ptp"}]}"#,
            ),
            ("30-c.conflist", "{"),
            ("40-d.txt", "not looked at"),
        ]);
        let all = load_folder(dir.path()).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].list.as_ref().unwrap().name, "a");
        assert_eq!(kinds(all[1].list.as_ref().unwrap()), ["bridge"]);
        let error = all[2].list.as_ref().unwrap_err().to_string();
        assert!(error.contains("30-c.conflist"), "{error}");
        assert!(load_folder(&dir.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn plugins_are_dropped_in_unless_the_list_wants_its_own_only() {
        for (only, wanted) in [
            (r#""loadOnlyInlinedPlugins": true"#, vec!["bridge"]),
            (r#""loadOnlyInlinedPlugins": "true""#, vec!["bridge"]),
            (
                r#""loadOnlyInlinedPlugins": false"#,
                vec!["bridge", "tuning", "portmap"],
            ),
            (r#""x": 1"#, vec!["bridge", "tuning", "portmap"]),
        ] {
            let list = format!(
                r#"{{"cniVersion": "1.1.0", "name": "n", {only}, "plugins": [{{"type": "bridge"}}]}}"#
            );
            let dir = folder(&[
                ("n.conflist", &list),
                ("n/20-ports.conf", r#"{"type": "portmap"}"#),
                ("n/10-tune.conf", r#"{"type": "tuning"}"#),
                ("n/readme", "not looked at"),
            ]);
            let list = load_file(&dir.path().join("n.conflist")).unwrap();
            assert_eq!(kinds(&list), wanted, "{only}");
            // The cache gets the list as it was used.
            assert_eq!(
                list.document()["plugins"].as_array().unwrap().len(),
                wanted.len()
            );
        }
    }

    #[test]
    fn a_list_may_be_made_of_dropped_in_plugins_alone() {
        let dir = folder(&[
            ("n.conflist", r#"{"cniVersion": "1.1.0", "name": "n"}"#),
            ("n/a.conf", r#"{"type": "ptp"}"#),
        ]);
        assert_eq!(
            kinds(&load_file(&dir.path().join("n.conflist")).unwrap()),
            ["ptp"]
        );
        fs::remove_file(dir.path().join("n/a.conf")).unwrap();
        assert!(load_file(&dir.path().join("n.conflist")).is_err());
    }

    #[test]
    fn a_name_leads_out_of_no_folder() {
        let dir = folder(&[
            (
                "d/n.conflist",
                r#"{"cniVersion": "1.1.0", "name": "../e", "plugins": [{"type": "ptp"}]}"#,
            ),
            ("e/a.conf", r#"{"type": "tuning"}"#),
        ]);
        let error = load_file(&dir.path().join("d/n.conflist")).unwrap_err();
        assert!(
            corten_spec::chain(&error).contains("may hold only"),
            "{error}"
        );
    }
}
