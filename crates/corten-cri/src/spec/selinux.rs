//! SELinux labels: the host's container labels, with what the request changes, and the pod's categories. On a host
//! without SELinux there are none, as kubelet expects; a level that is none is refused all the same.

use super::error::{Refused, invalid};
use super::facts::Host;
use crate::proto::SeLinuxOption;

const FIELD: &str = "linux.security_context.selinux_options";

/// Of the process, and of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub process: Option<String>,
    pub mount: Option<String>,
}

/// `asked`: the container's, or else its pod's. `level`: the pod's own.
pub(super) fn plan(
    asked: Option<&SeLinuxOption>,
    level: &str,
    privileged: bool,
    host: &Host,
) -> Result<Labels, Refused> {
    let asked = asked.cloned().unwrap_or_default();
    for (name, word) in [
        ("user", &asked.user),
        ("role", &asked.role),
        ("type", &asked.r#type),
    ] {
        if word.contains([':', '\0']) || word.contains(char::is_whitespace) {
            let problem = format!("is {word:?}, which is no part of a label");
            return Err(invalid(format!("{FIELD}.{name}"), problem));
        }
    }
    if !asked.level.is_empty() && !is_level(&asked.level) {
        let problem = format!("is {:?}, and looks like s0:c1,c2", asked.level);
        return Err(invalid(format!("{FIELD}.level"), problem));
    }
    let Some(selinux) = &host.selinux else {
        return Ok(Labels::default());
    };
    let level = match asked.level.as_str() {
        "" => level,
        own => own,
    };
    let process = label(
        &selinux.process,
        [&asked.user, &asked.role, &asked.r#type, level],
    );
    let mount = label(&selinux.file, [&asked.user, "", "", level]);
    Ok(Labels {
        // A privileged one runs as the daemon does.
        process: Some(process).filter(|_| !privileged),
        mount: Some(mount),
    })
}

/// `user:role:type:level`, with the parts that are not empty.
fn label(base: &str, parts: [&str; 4]) -> String {
    let mut base = base.splitn(4, ':');
    let parts = parts.map(|part| {
        let own = base.next().unwrap_or_default();
        if part.is_empty() { own } else { part }
    });
    parts.join(":").trim_end_matches(':').to_owned()
}

/// `s0`, `s0-s1`, with categories: `:c1,c3.c5`.
fn is_level(level: &str) -> bool {
    let digits = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    let sensitivity = |s: &str| s.strip_prefix('s').is_some_and(|n| digits(n, 1));
    let category = |c: &str| c.strip_prefix('c').is_some_and(|n| digits(n, 4));
    let (range, categories) = match level.split_once(':') {
        Some((range, categories)) => (range, Some(categories)),
        None => (level, None),
    };
    let range = match range.split_once('-') {
        Some((low, high)) => sensitivity(low) && sensitivity(high),
        None => sensitivity(range),
    };
    let span = |part: &str| match part.split_once('.') {
        Some((first, last)) => category(first) && category(last),
        None => category(part),
    };
    range && categories.is_none_or(|c| c.split(',').all(span))
}

#[cfg(test)]
mod tests {
    use super::super::facts::SeLinux;
    use super::super::tests::host;
    use super::*;

    fn enforcing() -> Host {
        Host {
            selinux: Some(SeLinux {
                process: "system_u:system_r:container_t:s0".into(),
                file: "system_u:object_r:container_file_t:s0".into(),
            }),
            ..host()
        }
    }

    #[test]
    fn the_request_changes_parts_of_the_hosts_labels() {
        let plain = plan(None, "s0:c1,c2", false, &enforcing()).unwrap();
        assert_eq!(
            plain.process.as_deref(),
            Some("system_u:system_r:container_t:s0:c1,c2")
        );
        assert_eq!(
            plain.mount.as_deref(),
            Some("system_u:object_r:container_file_t:s0:c1,c2")
        );
        let asked = SeLinuxOption {
            r#type: "spc_t".into(),
            level: "s0:c7".into(),
            ..Default::default()
        };
        let own = plan(Some(&asked), "s0:c1,c2", false, &enforcing()).unwrap();
        assert_eq!(
            own.process.as_deref(),
            Some("system_u:system_r:spc_t:s0:c7")
        );
        let open = plan(Some(&asked), "", true, &enforcing()).unwrap();
        assert_eq!(open.process, None);
        assert!(open.mount.unwrap().ends_with(":s0:c7"));
    }

    #[test]
    fn without_selinux_there_are_no_labels_and_nonsense_is_refused_still() {
        let asked = |level: &str| SeLinuxOption {
            level: level.into(),
            ..Default::default()
        };
        for good in ["s0", "s0-s1", "s0:c1", "s0-s0:c0.c1023", "s0:c1,c2.c5,c9"] {
            assert_eq!(
                plan(Some(&asked(good)), "", false, &host()).unwrap(),
                Labels::default()
            );
        }
        for bad in [
            "s",
            "0",
            "s0:",
            "s0:c",
            "s0:c12345",
            "s0:1",
            "s0 ",
            "s0-",
            "s10",
        ] {
            let error = plan(Some(&asked(bad)), "", false, &host()).unwrap_err();
            assert!(error.to_string().contains("level"), "{error}");
        }
        let colon = SeLinuxOption {
            user: "a:b".into(),
            ..Default::default()
        };
        assert!(plan(Some(&colon), "", false, &host()).is_err());
    }
}
