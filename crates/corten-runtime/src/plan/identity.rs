//! Who a process is: checked against the ids that there are, before anything is made.

use std::collections::HashMap;

use oci_spec::runtime::User;

use super::namespaces::{Around, Mappings, Plan};
use super::process::GroupRule;
use crate::error::{Error, invalid};

/// crun's annotation, which podman's `--group-add keep-groups` sends: the supplementary groups of who
/// starts the container stay, also where they are not mapped.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

fn keeps_groups(annotations: &Option<HashMap<String, String>>) -> bool {
    let value = annotations.as_ref().and_then(|a| a.get(KEEP_GROUPS));
    value.is_some_and(|v| v != "0")
}

/// What becomes of supplementary groups; `nested`: in a user namespace.
pub(crate) fn group_rule(annotations: &Option<HashMap<String, String>>, nested: bool) -> GroupRule {
    match (keeps_groups(annotations), nested) {
        (true, _) => GroupRule::Keep,
        (false, true) => GroupRule::SetUnlessDenied,
        (false, false) => GroupRule::Set,
    }
}

/// The user of a container's init.
pub(crate) fn check(
    user: &User,
    annotations: &Option<HashMap<String, String>>,
    namespaces: &Plan,
    around: &Around,
) -> Result<(), Error> {
    let ids = namespaces.user.as_ref().or(around.ids.as_ref());
    // A single group is mapped by giving up setgroups(2) (user_namespaces(7)).
    let denied = around.groups_denied && !keeps_groups(annotations);
    check_user(user, ids, denied)
}

/// Any process's user, where `ids` are all that there are.
pub(crate) fn check_user(user: &User, ids: Option<&Mappings>, denied: bool) -> Result<(), Error> {
    let unmapped = |field: &str, id: u32| {
        let problem = format!("is {id}, which the user namespace does not map");
        invalid(field, problem)
    };
    let (mut uids, mut gids) = (None, None);
    if let Some(ids) = ids {
        (uids, gids) = (Some(&ids.uid), Some(&ids.gid));
    }
    // -1 is "no change" to the kernel, and no id.
    let is_id = |id: u32, map: Option<&super::namespaces::Map>| {
        id != u32::MAX && map.is_none_or(|map| map.host(id).is_some())
    };
    if !is_id(user.uid(), uids) {
        return Err(unmapped("process.user.uid", user.uid()));
    }
    if !is_id(user.gid(), gids) {
        return Err(unmapped("process.user.gid", user.gid()));
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if let Some(group) = groups.iter().find(|gid| !is_id(**gid, gids)) {
        return Err(unmapped("process.user.additionalGids", *group));
    }
    if denied && !groups.is_empty() {
        return Err(invalid(
            "process.user.additionalGids",
            "is set, but setgroups is denied in the user namespace",
        ));
    }
    match user.umask() {
        Some(umask) if umask > 0o777 => Err(invalid(
            "process.user.umask",
            format!("is {umask:#o}, and must be at most 0o777"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::namespaces::Map;

    fn user(text: &str) -> User {
        serde_json::from_str(text).unwrap()
    }

    fn ids() -> Mappings {
        let map = Map::parse("0 1000 1\n1 100000 10\n").unwrap();
        Mappings {
            uid: map.clone(),
            gid: map,
        }
    }

    #[test]
    fn unmapped_ids_are_named() {
        let ids = ids();
        let error = |text: &str| {
            let checked = check_user(&user(text), Some(&ids), false);
            checked.unwrap_err().to_string()
        };
        assert_eq!(
            error(r#"{"uid": 11, "gid": 0}"#),
            "process.user.uid of the spec is 11, which the user namespace does not map"
        );
        assert!(
            error(r#"{"uid": 10, "gid": 99}"#).starts_with("process.user.gid of the spec is 99")
        );
        let groups = r#"{"uid": 0, "gid": 0, "additionalGids": [1, 2, 30]}"#;
        assert!(error(groups).starts_with("process.user.additionalGids of the spec is 30"));
        assert!(check_user(&user(r#"{"uid": 10, "gid": 10}"#), Some(&ids), true).is_ok());
    }

    #[test]
    fn groups_where_none_can_be_set_and_odd_umasks() {
        let one = user(r#"{"uid": 0, "gid": 0, "additionalGids": [0]}"#);
        assert!(check_user(&one, None, true).is_err());
        assert!(check_user(&one, None, false).is_ok());
        let odd = user(r#"{"uid": 0, "gid": 0, "umask": 4095}"#);
        assert!(check_user(&odd, None, false).is_err());
        let none = user(r#"{"uid": 4294967295, "gid": 0}"#);
        assert!(check_user(&none, None, false).is_err());
    }
}
