//! Capabilities: the usual fourteen, more or fewer.

use corten_engine::container::capability::{ALL, DEFAULT};
use serde_json::{Value, json};

use super::error::{Refused, invalid};
use crate::proto::LinuxContainerSecurityContext;

const FIELD: &str = "linux.security_context.capabilities";

/// Masks; bit n is capability n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub all: u64,
    pub ambient: u64,
    /// Named in the request, and not to be had on this host.
    pub missing: u64,
}

/// What a list of names means.
#[derive(Default)]
struct Named {
    mask: u64,
    /// `ALL` is among them.
    every: bool,
}

/// First `ALL`, then single names, and what is dropped by its name stays dropped: so `add ALL, drop CHOWN` and
/// `drop ALL, add CHOWN` mean what they say, and `add ALL, drop ALL` is nothing.
pub(super) fn plan(
    context: &LinuxContainerSecurityContext,
    available: u64,
) -> Result<Set, Refused> {
    let asked = context.capabilities.clone().unwrap_or_default();
    let add = named("add_capabilities", &asked.add_capabilities)?;
    let drop = named("drop_capabilities", &asked.drop_capabilities)?;
    let ambient = named("add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    if context.privileged {
        return Ok(Set {
            all: available & every(),
            ambient: ambient.all() & available,
            missing: 0,
        });
    }
    let mut all = DEFAULT.iter().fold(0, |mask, name| mask | bit(name));
    if add.every {
        all = every();
    }
    if drop.every {
        all = 0;
    }
    let wanted = (add.mask | ambient.all()) & !drop.mask;
    let all = (all | wanted) & !drop.mask;
    Ok(Set {
        all: all & available,
        ambient: ambient.all() & all & available,
        missing: (add.mask | ambient.mask) & !drop.mask & !available,
    })
}

impl Named {
    fn all(&self) -> u64 {
        self.mask | if self.every { every() } else { 0 }
    }
}

impl Set {
    /// Ambient ones must be inheritable as well (capabilities(7)).
    pub fn oci(&self) -> Value {
        let all = names(self.all);
        let mut out = json!({ "bounding": all, "effective": all, "permitted": all });
        if self.ambient != 0 {
            out["inheritable"] = json!(names(self.ambient));
            out["ambient"] = json!(names(self.ambient));
        }
        out
    }
}

/// For who holds a place and does nothing.
pub(super) fn nothing() -> Value {
    json!({ "bounding": [], "effective": [], "permitted": [] })
}

pub(super) fn every() -> u64 {
    (1 << ALL.len()) - 1
}

/// In the kernel's order.
pub(super) fn names(mask: u64) -> Vec<String> {
    let held = ALL.iter().enumerate();
    held.filter(|(n, _)| mask & 1 << n != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

fn bit(name: &str) -> u64 {
    ALL.iter()
        .position(|known| *known == name)
        .map_or(0, |n| 1 << n)
}

/// With and without `CAP_`, in any case.
fn named(list: &str, names: &[String]) -> Result<Named, Refused> {
    let mut found = Named::default();
    for name in names {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            found.every = true;
            continue;
        }
        let full = match upper.starts_with("CAP_") {
            true => upper,
            false => format!("CAP_{upper}"),
        };
        match bit(&full) {
            0 => {
                let problem = format!("holds {name:?}, which is no capability");
                return Err(invalid(format!("{FIELD}.{list}"), problem));
            }
            bit => found.mask |= bit,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Capability;

    fn set(add: &[&str], drop: &[&str], ambient: &[&str]) -> Set {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let context = LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: own(add),
                drop_capabilities: own(drop),
                add_ambient_capabilities: own(ambient),
            }),
            ..Default::default()
        };
        // All but CAP_SYS_RESOURCE.
        plan(&context, every() & !bit("CAP_SYS_RESOURCE")).unwrap()
    }

    #[test]
    fn all_comes_first_and_what_is_dropped_by_name_stays_dropped() {
        let usual = set(&[], &[], &[]).all;
        assert_eq!(usual.count_ones(), 14);
        assert_eq!(
            names(set(&["net_admin"], &["all"], &[]).all),
            ["CAP_NET_ADMIN"]
        );
        assert_eq!(set(&["ALL"], &["CAP_CHOWN"], &[]).all.count_ones(), 39);
        assert_eq!(set(&["ALL"], &["ALL"], &[]).all, 0);
        assert_eq!(set(&["CHOWN"], &["CHOWN"], &[]).all, usual & !1);
        assert_eq!(
            set(&["CAP_SYS_ADMIN"], &[], &[]).all,
            usual | bit("CAP_SYS_ADMIN")
        );
    }

    #[test]
    fn what_the_host_cannot_give_is_left_out_and_told_if_it_was_named() {
        assert_eq!(set(&["ALL"], &[], &[]).missing, 0);
        let named = set(&["SYS_RESOURCE"], &[], &[]);
        assert_eq!(names(named.missing), ["CAP_SYS_RESOURCE"]);
        assert_eq!(named.all, set(&[], &[], &[]).all);
    }

    #[test]
    fn ambient_ones_are_in_every_set() {
        let found = set(&[], &["ALL"], &["NET_BIND_SERVICE"]);
        assert_eq!((found.all, found.ambient), (1 << 10, 1 << 10));
        let oci = found.oci();
        for kind in [
            "bounding",
            "effective",
            "permitted",
            "inheritable",
            "ambient",
        ] {
            assert_eq!(oci[kind], json!(["CAP_NET_BIND_SERVICE"]), "{kind}");
        }
        let dropped = set(&[], &["NET_BIND_SERVICE"], &["NET_BIND_SERVICE"]);
        assert_eq!(dropped.ambient, 0);
        assert!(set(&[], &[], &[]).oci().get("ambient").is_none());
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let context = LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                drop_capabilities: vec!["FLY".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let error = plan(&context, u64::MAX).unwrap_err().to_string();
        assert!(
            error.contains("drop_capabilities") && error.contains("FLY"),
            "{error}"
        );
    }
}
