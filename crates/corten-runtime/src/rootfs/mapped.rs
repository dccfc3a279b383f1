//! Roots whose files show other owners: `uidmap=` and `gidmap=`, as containerd's snapshotters give them for containers
//! with a user namespace.
//!
//! Each value is a list of `INSIDE:OUTSIDE:COUNT`, with commas between. An overlay cannot map ids itself, so each of its
//! lower layers is mapped; its upper folder has its owner already. No mount point is needed for that, or, before Linux 6.15, none
//! that others see.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use corten_sys::mount::{Change, clone_tree};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::fs::CWD;

use super::{APPEND, layers};
use crate::error::{Error, failed, invalid};
use crate::parent::users::Users;
use crate::plan::idmap::{IdMap, Ids};
use crate::plan::namespaces::{Map, Mappings};

type Words = Vec<(String, Option<String>)>;

/// Takes the mappings out of a mount's words.
pub(super) fn take(words: &mut Words) -> Result<Option<Ids>, Error> {
    let mut of = |name: &str| {
        let at = words.iter().position(|(key, _)| key == name)?;
        words.remove(at).1
    };
    match (of("uidmap"), of("gidmap")) {
        (None, None) => Ok(None),
        (Some(uid), Some(gid)) => Ok(Some(Ids::Own(Mappings {
            uid: parse("uidmap", &uid)?,
            gid: parse("gidmap", &gid)?,
        }))),
        _ => Err(invalid("rootfs", "has one of uidmap and gidmap only")),
    }
}

fn parse(name: &str, text: &str) -> Result<Map, Error> {
    let range = |range: &str| -> Option<LinuxIdMapping> {
        let mut numbers = range.split(':').map(str::parse::<u32>);
        let (inside, outside, size) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let builder = LinuxIdMappingBuilder::default()
            .container_id(inside.ok()?)
            .host_id(outside.ok()?)
            .size(size.ok()?);
        builder.build().ok().filter(|_| numbers.next().is_none())
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    let ranges = ranges.ok_or_else(|| {
        let problem = format!("has {name}={text:?}, which is no list of INSIDE:OUTSIDE:COUNT");
        invalid("rootfs", problem)
    })?;
    Map::new(name, &Some(ranges))
}

/// An overlay whose lower layers are mapped copies.
pub(super) struct Overlay {
    /// They are named by their descriptors.
    pub words: Words,
    /// Where the layers are, as they were given, and the copy of each.
    pub layers: Vec<String>,
    pub trees: Vec<OwnedFd>,
}

/// Puts mapped copies in the place of an overlay's lower layers.
pub(super) fn overlay(words: Words, ids: &Ids) -> Result<Overlay, Error> {
    let mut users = Users::default();
    let mut mapped = Overlay {
        words: Vec::new(),
        layers: Vec::new(),
        trees: Vec::new(),
    };
    for (key, value) in words {
        let lower = match (key.as_str(), &value) {
            ("lowerdir", Some(list)) => layers(list),
            (APPEND, Some(layer)) => vec![layer.clone()],
            // Files of data alone have no owner, and what names them is the layer before them.
            ("datadir+", _) => {
                return Err(invalid("rootfs", "has both datadir+ and uidmap"));
            }
            _ => {
                mapped.words.push((key, value));
                continue;
            }
        };
        for layer in lower {
            let path = Path::new(&layer);
            let tree = clone_tree(CWD, path, false, &Change::default())
                .map_err(failed("open the layer", path))?;
            map(&tree, ids, path, &mut users)?;
            let name = corten_sys::socket::path_of(&tree);
            mapped.words.push((APPEND.into(), Some(name)));
            mapped.trees.push(tree);
            mapped.layers.push(layer);
        }
    }
    Ok(mapped)
}

/// Maps the ids of a tree that is attached nowhere yet.
pub(super) fn tree(tree: &OwnedFd, ids: &Ids, name: &Path) -> Result<(), Error> {
    map(tree, ids, name, &mut Users::default())
}

fn map(tree: &OwnedFd, ids: &Ids, name: &Path, users: &mut Users) -> Result<(), Error> {
    let idmap = IdMap {
        ids: ids.clone(),
        recursive: false,
    };
    users.map(tree.as_fd(), &idmap, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Words {
        let word = |w: &&str| match w.split_once('=') {
            Some((key, value)) => (key.to_string(), Some(value.to_string())),
            None => (w.to_string(), None),
        };
        list.iter().map(word).collect()
    }

    #[test]
    fn both_maps_are_taken_out() {
        let mut list = words(&[
            "index=off",
            "uidmap=0:1000:10,10:5000:5",
            "gidmap=0:2000:15",
        ]);
        let Some(Ids::Own(ids)) = take(&mut list).unwrap() else {
            panic!("no ids")
        };
        assert_eq!(ids.uid.ranges(), [(0, 1000, 10), (10, 5000, 5)]);
        assert_eq!(ids.gid.ranges(), [(0, 2000, 15)]);
        assert_eq!(list, words(&["index=off"]));
        assert!(take(&mut list).unwrap().is_none());
    }

    #[test]
    fn a_bad_map_is_named() {
        for (given, named) in [
            (&["uidmap=0:1:1"][..], "one of uidmap and gidmap"),
            (&["uidmap=0:1", "gidmap=0:1:1"], "uidmap=\"0:1\""),
            (&["uidmap=0:1:1:1", "gidmap=0:1:1"], "uidmap"),
            (&["uidmap=0:1:1", "gidmap=0:4294967295:2"], "gidmap"),
        ] {
            let error = take(&mut words(given)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
