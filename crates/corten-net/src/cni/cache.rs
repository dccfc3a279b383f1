//! What ADD returned, kept for DEL and CHECK: the files of the reference library, so that either
//! can take over from the other. `CACHE/results/NETWORK-CONTAINER-IFNAME`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use corten_spec::cni::Version;

use super::{Attachment, CniResult, NetworkConfigList};
use crate::Error;
use crate::error::file_error;
use crate::nameless::{self, Nameless};

const KIND: &str = "cniCacheV1";
/// A result and a configuration, each at most a document, the latter in base64.
const MAX_FILE: u64 = 4 << 20;

/// One file of the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    kind: String,
    pub container_id: String,
    /// Base64.
    config: String,
    pub if_name: String,
    pub network_name: String,
    #[serde(default)]
    pub netns: PathBuf,
    #[serde(default)]
    pub cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    pub capability_args: Option<Map<String, Value>>,
    pub result: Value,
}

impl Entry {
    /// The configuration that ADD had.
    pub fn list(&self) -> Result<NetworkConfigList, Error> {
        let bytes = unbase64(&self.config).ok_or_else(|| Error::Invalid {
            what: "the cached configuration of network",
            value: self.network_name.clone(),
            reason: "is no base64".into(),
        })?;
        Ok(NetworkConfigList::parse(&bytes)?)
    }

    /// What ADD returned.
    pub fn result(&self, version: Version) -> Result<CniResult, Error> {
        CniResult::parse(&self.result, version).map_err(|source| Error::Result {
            plugin: "of the cache".into(),
            source,
        })
    }
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("results")
}

fn path(cache: &Path, network: &str, container_id: &str, ifname: &str) -> PathBuf {
    // A file name has at most 255 bytes, which only an id that no engine makes would pass; the
    // error then comes from the file system.
    folder(cache).join(format!("{network}-{container_id}-{ifname}"))
}

fn temporary(cache: &Path, container_id: &str, ifname: &str) -> PathBuf {
    folder(cache).join(format!(".{container_id}-{ifname}"))
}

/// Writes the result of an ADD, whole or not at all. What a kill leaves goes with the entry.
pub fn write(
    cache: &Path,
    list: &NetworkConfigList,
    of: &Attachment,
    result: &CniResult,
) -> Result<(), Error> {
    let entry = Entry {
        kind: KIND.into(),
        container_id: of.container_id.to_string(),
        config: base64(list.document().to_string().as_bytes()),
        if_name: of.ifname.clone(),
        network_name: list.name.clone(),
        netns: of.netns.clone(),
        cni_args: Some(of.args.clone()),
        capability_args: serde_json::to_value(&of.capabilities)
            .ok()
            .and_then(|v| v.as_object().cloned()),
        result: result.to_document(list.version),
    };
    let path = path(cache, &list.name, &entry.container_id, &of.ifname);
    let temporary = temporary(cache, of.container_id.as_str(), &of.ifname);
    fs::create_dir_all(folder(cache)).map_err(file_error("make", &folder(cache)))?;
    let bytes = serde_json::to_vec(&entry).map_err(|e| file_error("write", &path)(e.into()))?;
    Nameless::write(temporary, &bytes)
        .and_then(|new| new.replace(&path))
        .map_err(file_error("write", &path))
}

/// The entry of an attachment, if there is one.
pub fn read(cache: &Path, network: &str, of: &Attachment) -> Result<Option<Entry>, Error> {
    entry(cache, network, of.container_id.as_str(), &of.ifname)
}

/// What the file's name has between dashes may have dashes itself: so it can be another's.
fn entry(
    cache: &Path,
    network: &str,
    container_id: &str,
    ifname: &str,
) -> Result<Option<Entry>, Error> {
    let found = read_file(&path(cache, network, container_id, ifname))?;
    Ok(found.filter(|e| {
        (&*e.network_name, &*e.container_id, &*e.if_name) == (network, container_id, ifname)
    }))
}

fn read_file(path: &Path) -> Result<Option<Entry>, Error> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file_error("read", path)(e)),
        Ok(m) if m.len() > MAX_FILE => return Ok(None),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(file_error("read", path))?;
    // One that cannot be read is as none: DEL must work without it anyway.
    let entry: Option<Entry> = serde_json::from_slice(&bytes).ok();
    Ok(entry.filter(|e| e.kind == KIND))
}

/// All entries of a network; of every network where none is named.
pub fn list(cache: &Path, network: &str) -> Result<Vec<Entry>, Error> {
    let folder = folder(cache);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file_error("list", &folder))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file_error("list", &folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // A dot: what a killed write has left.
        if name.starts_with('.') || !name.starts_with(network) {
            continue;
        }
        all.extend(
            read_file(&entry.path())?.filter(|e| network.is_empty() || e.network_name == network),
        );
    }
    Ok(all)
}

/// Keeps DEL and a reload apart, which would put back what a DEL has just taken away: DEL holds it
/// shared, a reload alone. It ends with the file, so with the process too.
pub fn lock(cache: &Path, alone: bool) -> Result<File, Error> {
    let folder = folder(cache);
    fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
    let file = File::open(&folder).map_err(file_error("open", &folder))?;
    let how = match alone {
        true => FlockOperation::LockExclusive,
        false => FlockOperation::LockShared,
    };
    rustix::io::retry_on_intr(|| flock(&file, how))
        .map_err(|e| file_error("lock", &folder)(e.into()))?;
    Ok(file)
}

/// Forgets an attachment; not known is no error.
pub fn remove(cache: &Path, network: &str, container_id: &str, ifname: &str) -> Result<(), Error> {
    let another = read_file(&path(cache, network, container_id, ifname))?.is_some()
        && entry(cache, network, container_id, ifname)?.is_none();
    if another {
        return Ok(());
    }
    for path in [
        temporary(cache, container_id, ifname),
        path(cache, network, container_id, ifname),
    ] {
        nameless::remove(&path).map_err(file_error("remove", &path))?;
    }
    Ok(())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648): the one place that needs it.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            match i <= chunk.len() {
                true => text.push(char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let last = text.len().saturating_sub(4);
    for (at, chunk) in text.chunks(4).enumerate() {
        let padding = chunk.iter().rev().take_while(|b| **b == b'=').count();
        if padding > 2 || (padding > 0 && at * 4 != last) {
            return None;
        }
        let mut bits = 0u32;
        for byte in &chunk[..4 - padding] {
            let value = ALPHABET.iter().position(|a| a == byte)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * padding;
        bytes.extend(&bits.to_be_bytes()[1..4 - padding]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standards() {
        // RFC 4648, section 10.
        for (plain, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), wanted);
            assert_eq!(unbase64(wanted).unwrap(), plain.as_bytes());
        }
        for bad in ["Z", "Zg=", "Z===", "====", "Zg==Zg==", "Zm9v!A==", "Z=9v"] {
            assert_eq!(unbase64(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_kill_leaves_what_was_there_and_goes_with_the_entry() {
        crate::nameless::tests::both(|dir| {
            let document = serde_json::json!({"cniVersion": "1.0.0", "name": "n",
                                              "plugins": [{"type": "loopback"}]});
            let n = NetworkConfigList::from_document(document).unwrap();
            let of = Attachment::new("c".parse().unwrap(), "");
            write(dir, &n, &of, &CniResult::default()).unwrap();
            let at = path(dir, "n", "c", "eth0");
            let left = temporary(dir, "c", "eth0");
            fs::hard_link(&at, &left).unwrap();
            // Whoever asks for all networks hears of it once.
            assert_eq!(list(dir, "").unwrap().len(), 1);
            write(dir, &n, &of, &CniResult::default()).unwrap();
            assert!(read(dir, "n", &of).unwrap().is_some());
            fs::hard_link(&at, &left).unwrap_or_default();
            remove(dir, "n", "c", "eth0").unwrap();
            assert_eq!(fs::read_dir(folder(dir)).unwrap().count(), 0);
        });
    }

    #[test]
    fn an_entry_of_the_same_file_name_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let list = |name: &str| {
            let document = serde_json::json!({"cniVersion": "1.0.0", "name": name,
                                              "plugins": [{"type": "loopback"}]});
            NetworkConfigList::from_document(document).unwrap()
        };
        let of = |id: &str| Attachment::new(id.parse().unwrap(), "");
        write(dir.path(), &list("a"), &of("b-c"), &CniResult::default()).unwrap();
        // Both are `a-b-c-eth0`.
        assert!(read(dir.path(), "a-b", &of("c")).unwrap().is_none());
        remove(dir.path(), "a-b", "c", "eth0").unwrap();
        assert!(read(dir.path(), "a", &of("b-c")).unwrap().is_some());
        remove(dir.path(), "a", "b-c", "eth0").unwrap();
        assert!(read(dir.path(), "a", &of("b-c")).unwrap().is_none());
    }

    #[test]
    fn an_unreadable_entry_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder(dir.path())).unwrap();
        let of = Attachment::new("c1".parse().unwrap(), "");
        for text in ["", "{", "[]", r#"{"kind":"other"}"#] {
            fs::write(path(dir.path(), "n", "c1", "eth0"), text).unwrap();
            assert!(read(dir.path(), "n", &of).unwrap().is_none());
            assert!(list(dir.path(), "n").unwrap().is_empty());
        }
    }
}
