//! Id-mapped mounts: which ids of a file system are which in the container (config.md, `idmap` and `ridmap`).

use std::path::PathBuf;

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::Mount;

use super::namespaces::{self, Map, Mappings};
use super::words::Options;
use crate::error::{Error, invalid};

/// How a mount maps ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub ids: Ids,
    /// The mounts below as well.
    pub recursive: bool,
}

/// The user namespace that says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// One made for it.
    Own(Mappings),
    /// One that the container joins.
    Joined(PathBuf),
}

pub(crate) fn plan(
    mount: &Mount,
    options: &Options,
    namespaces: &namespaces::Plan,
) -> Result<Option<IdMap>, Error> {
    let at = mount.destination();
    let given = match (mount.uid_mappings(), mount.gid_mappings()) {
        (Some(uid), Some(gid)) if !uid.is_empty() && !gid.is_empty() => Some(Mappings {
            uid: Map::new("mounts.uidMappings", mount.uid_mappings())?,
            gid: Map::new("mounts.gidMappings", mount.gid_mappings())?,
        }),
        (uid, gid) => {
            let some = |m: &Option<Vec<_>>| m.as_ref().is_some_and(|m| !m.is_empty());
            if some(uid) || some(gid) {
                let problem = format!("of {at:?} is there without the other of uid and gid");
                return Err(invalid("mounts.uidMappings or gidMappings", problem));
            }
            None
        }
    };
    // A mapping without the word should not be, and means the plain one.
    let recursive = match (options.idmap, &given) {
        (Some(recursive), _) => recursive,
        (None, Some(_)) => false,
        (None, None) => return Ok(None),
    };
    let ids = match given {
        Some(mappings) => Ids::Own(mappings),
        None => of_container(namespaces).ok_or_else(|| {
            let problem = format!(
                "of {at:?} holds idmap, with no mapping there and no user namespace of the container"
            );
            invalid("mounts.options", problem)
        })?,
    };
    Ok(Some(IdMap { ids, recursive }))
}

fn of_container(namespaces: &namespaces::Plan) -> Option<Ids> {
    if let Some(mappings) = &namespaces.user {
        return Some(Ids::Own(mappings.clone()));
    }
    let joined = namespaces.join.iter();
    let mut user = joined.filter(|(kind, _)| *kind == Namespaces::USER);
    user.next().map(|(_, path)| Ids::Joined(path.clone()))
}
