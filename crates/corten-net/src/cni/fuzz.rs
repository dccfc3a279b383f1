//! What the fuzzer gets to see of configurations and of the cache, and what has to hold.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Attachment, CniResult, NetworkConfigList, cache, load_folder};
use crate::definition::{Definition, Place};
use crate::network::Parts;
use crate::plugin::fuzz::Folder;

/// Documents with a NUL between them: a list, then what is dropped into its folder. The first is a definition and
/// an entry of the cache, too.
pub fn documents(bytes: &[u8]) {
    let mut all = bytes.split(|b| *b == 0);
    let first = all.next().unwrap_or_default();
    let folder = Folder::new();
    if let Ok(list) = NetworkConfigList::parse(first) {
        configuration(&list, &folder.0);
    }
    entry(first, &folder.0.join("foreign"));
    definition(first);
    drop_ins(first, all, &folder.0.join("net.d"));
}

/// A list is as good as its document, names no file but below the folders it is looked for in, and comes back out of
/// the cache as it was.
fn configuration(list: &NetworkConfigList, cache: &Path) {
    let again = NetworkConfigList::from_document(list.document().clone());
    assert_eq!(again.expect("a document that was taken"), *list);
    let inside = |name: &str| !name.is_empty() && !name.contains('/') && name != "..";
    assert!(inside(&list.name));
    assert!(!list.plugins.is_empty());
    for plugin in &list.plugins {
        assert!(inside(&plugin.kind));
        assert!(plugin.ipam.as_deref().is_none_or(inside));
        let _total = Parts::of(list, plugin);
    }
    // A name that no file can have is an error of the file system's, and of the attachment.
    if list.name.len() > 200 {
        return;
    }
    let of = Attachment::new("c1".parse().expect("an id"), "/run/netns/c1");
    cache::write(cache, list, &of, &CniResult::default()).expect("an entry");
    let entry = cache::read(cache, &list.name, &of).expect("a file");
    let entry = entry.expect("what was written");
    let read = entry.list().expect("the list that was written");
    // A number of more digits than a double has comes back as a neighbour of itself; no key takes one.
    assert!(read == *list || has_double(list.document()));
    assert_eq!(cache::list(cache, &list.name).expect("a folder").len(), 1);
}

fn has_double(document: &Value) -> bool {
    match document {
        Value::Number(number) => number.is_f64(),
        Value::Array(all) => all.iter().any(has_double),
        Value::Object(all) => all.values().any(has_double),
        _ => false,
    }
}

/// A file of the cache that somebody else wrote.
fn entry(bytes: &[u8], cache: &Path) {
    let of = Attachment::new("c1".parse().expect("an id"), "/run/netns/c1");
    fs::create_dir_all(cache.join("results")).expect("a folder");
    fs::write(cache.join("results/n-c1-eth0"), bytes).expect("a file");
    let listed = cache::list(cache, "n").expect("a folder");
    let Some(entry) = cache::read(cache, "n", &of).expect("a file") else {
        // Two attachments can have one file name: then it is the other one's.
        let own = |e: &cache::Entry| e.container_id == "c1" && e.if_name == "eth0";
        assert!(!listed.iter().any(own));
        return;
    };
    if let Ok(list) = entry.list()
        && let Ok(result) = entry.result(list.version)
    {
        // As it would be handed to DEL and to a reload.
        let document = result.to_document(list.version);
        assert!(CniResult::parse(&document, list.version).is_ok());
    }
}

/// A definition that is found good becomes a list.
fn definition(bytes: &[u8]) {
    let Ok(definition) = serde_json::from_slice::<Definition>(bytes) else {
        return;
    };
    let place = Place {
        state_dir: "/run/x/ipam".into(),
        table: "corten".into(),
        dhcp_socket: "/run/x/dhcp.sock".into(),
    };
    match definition.check() {
        Ok(()) => drop(definition.list(&place, 0).expect("a list of what is good")),
        Err(_) => drop(definition.list(&place, 0)),
    }
}

fn drop_ins<'a>(list: &[u8], more: impl Iterator<Item = &'a [u8]>, folder: &Path) {
    let name = serde_json::from_slice::<Value>(list)
        .ok()
        .and_then(|v| Some(v.get("name")?.as_str()?.to_owned()))
        .filter(|n| corten_spec::cni::check_network_name(n).is_ok() && n.len() < 200);
    let beside = folder.join(name.unwrap_or_else(|| "n".into()));
    fs::create_dir_all(&beside).expect("a folder");
    fs::write(folder.join("10-list.conflist"), list).expect("a file");
    let mut count = 0;
    for (i, document) in more.take(8).enumerate() {
        fs::write(beside.join(format!("{i}.conf")), document).expect("a file");
        count += 1;
    }
    let loaded = load_folder(folder).expect("a folder");
    assert_eq!(loaded.len(), 1);
    if let Ok(whole) = &loaded[0].list {
        let own = serde_json::from_slice::<Value>(list).expect("it was taken");
        let own = own
            .get("plugins")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let more = whole.plugins.len() - own.min(whole.plugins.len());
        assert!(more <= count.max(1), "{more} of {count}");
    }
}
