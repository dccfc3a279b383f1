//! Who a container's first process is.

use std::collections::BTreeSet;

use corten_engine::container::user;
use serde_json::{Value, json};

use super::error::{Refused, invalid, unsupported};
use super::facts::Facts;
use crate::proto::{
    Int64Value, LinuxContainerSecurityContext, LinuxContainerUser, SupplementalGroupsPolicy,
};

/// What is made must not hang on who started the daemon.
const UMASK: u32 = 0o022;
const CONTEXT: &str = "linux.security_context";

/// Ids as they are in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    /// Sorted, the primary one among them.
    pub groups: Vec<u32>,
}

impl User {
    pub fn oci(&self) -> Value {
        json!({ "uid": self.uid, "gid": self.gid, "additionalGids": self.groups, "umask": UMASK })
    }

    pub fn status(&self) -> LinuxContainerUser {
        LinuxContainerUser {
            uid: self.uid.into(),
            gid: self.gid.into(),
            supplemental_groups: self.groups.iter().map(|g| i64::from(*g)).collect(),
        }
    }
}

pub(super) fn plan(
    context: &LinuxContainerSecurityContext,
    facts: &Facts<'_>,
) -> Result<User, Refused> {
    let asked = asked(context)?;
    let (field, text) = match &asked {
        Some(text) => (CONTEXT, text.as_str()),
        None => ("the user of the image", facts.image.user.as_str()),
    };
    let found = user::resolve(text, facts.passwd, facts.group).map_err(Refused::engine(field))?;
    let mut groups = BTreeSet::from([found.gid]);
    for gid in &context.supplemental_groups {
        groups.insert(id(&format!("{CONTEXT}.supplemental_groups"), *gid)?);
    }
    match SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy) {
        Ok(SupplementalGroupsPolicy::Merge) => {
            let name = match text.split(':').next() {
                None | Some("") => "0",
                Some(name) => name,
            };
            groups.extend(user::groups(name, facts.passwd, facts.group));
        }
        Ok(SupplementalGroupsPolicy::Strict) => {}
        Err(_) => {
            let field = format!("{CONTEXT}.supplemental_groups_policy");
            let policy = context.supplemental_groups_policy;
            return Err(unsupported(
                field,
                format!("is {policy}, which is no policy known here"),
            ));
        }
    }
    Ok(User {
        uid: found.uid,
        gid: found.gid,
        groups: groups.into_iter().collect(),
    })
}

/// `user[:group]` as the request has it: a name before a number, and no group without a user.
fn asked(context: &LinuxContainerSecurityContext) -> Result<Option<String>, Refused> {
    let uid = checked("run_as_user", context.run_as_user.as_ref())?;
    let gid = checked("run_as_group", context.run_as_group.as_ref())?;
    let name = context.run_as_username.as_str();
    if name.contains(':') {
        let field = format!("{CONTEXT}.run_as_username");
        return Err(invalid(
            field,
            format!("is {name:?}, and a name holds no colon"),
        ));
    }
    let user = match (name, uid) {
        ("", None) => None,
        ("", Some(uid)) => Some(uid.to_string()),
        (name, _) => Some(name.to_owned()),
    };
    match (user, gid) {
        (None, Some(gid)) => {
            let problem = format!("is {gid}, but there is no run_as_user and no run_as_username");
            Err(invalid(format!("{CONTEXT}.run_as_group"), problem))
        }
        (user, None) => Ok(user),
        (Some(user), Some(gid)) => Ok(Some(format!("{user}:{gid}"))),
    }
}

fn checked(name: &str, value: Option<&Int64Value>) -> Result<Option<u32>, Refused> {
    value
        .map(|v| id(&format!("{CONTEXT}.{name}"), v.value))
        .transpose()
}

/// An id that runtimes take: not negative, and at most 2147483647.
pub(super) fn id(field: &str, value: i64) -> Result<u32, Refused> {
    match u32::try_from(value) {
        Ok(id) if id <= i32::MAX as u32 => Ok(id),
        _ => Err(invalid(
            field,
            format!("is {value}, and must be from 0 to {}", i32::MAX),
        )),
    }
}
