//! Which capabilities a container gets: Docker's fourteen, more or fewer.

use super::options::Security;
use crate::error::Error;

/// Docker's default set.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability of capability.h, in the kernel's order: the place is the number.
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The set for these options. `ALL` in the drop list empties the default, `ALL` in the add
/// list starts from everything; names work with and without `CAP_`, in any case.
pub fn effective(security: &Security) -> Result<Vec<String>, Error> {
    if security.privileged {
        return Ok(ALL.map(Into::into).into());
    }
    let add = normalise(&security.cap_add)?;
    let drop = normalise(&security.cap_drop)?;
    let wanted = |name: &str| {
        let is = |list: &[String], n: &str| list.iter().any(|c| c == n);
        if is(&drop, name) {
            return false;
        }
        is(&add, name) || is(&add, "ALL") || (DEFAULT.contains(&name) && !is(&drop, "ALL"))
    };
    Ok(ALL
        .iter()
        .filter(|c| wanted(c))
        .map(|c| (*c).to_owned())
        .collect())
}

fn normalise(names: &[String]) -> Result<Vec<String>, Error> {
    let one = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let full = match upper.as_str() {
            "ALL" => return Ok(upper),
            n if n.starts_with("CAP_") => upper,
            n => format!("CAP_{n}"),
        };
        match ALL.contains(&full.as_str()) {
            true => Ok(full),
            false => Err(Error::Capability { name: name.clone() }),
        }
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        effective(&Security {
            cap_add: own(add),
            cap_drop: own(drop),
            ..Security::default()
        })
        .unwrap()
    }

    #[test]
    fn add_and_drop_as_docker_does() {
        assert_eq!(set(&[], &[]).len(), 14);
        assert_eq!(set(&[], &["all"]), Vec::<String>::new());
        assert_eq!(set(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &["CAP_CHOWN"]).len(), 40);
        assert!(!set(&["CHOWN"], &["CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let security = Security {
            cap_add: vec!["FLY".into()],
            ..Security::default()
        };
        assert!(matches!(effective(&security), Err(Error::Capability { name }) if name == "FLY"));
    }
}
