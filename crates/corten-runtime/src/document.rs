//! Reading documents as the specification wants them read: words that nobody here knows are no reason to fail
//! where it says so.
//!
//! A capability that the kernel does not have is left out, with a warning (config.md, `capabilities`). Flags of
//! `scheduler` have other names in the types that we parse to. All of it costs nothing where there is none of it:
//! the document is looked at again only after it could not be parsed.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::plan::process::NAMES;

/// A spec, a process, or any other document, with warnings.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Vec<String>), serde_json::Error> {
    let first = match serde_json::from_slice(bytes) {
        Ok(parsed) => return Ok((parsed, Vec::new())),
        Err(error) => error,
    };
    let Ok(mut document) = serde_json::from_slice::<Value>(bytes) else {
        return Err(first);
    };
    let whole = document.get("process").is_some();
    let process = match whole {
        true => document.get_mut("process"),
        false => Some(&mut document),
    };
    let mut warnings = Vec::new();
    let changed = process.is_some_and(|process| amend(process, &mut warnings));
    match changed {
        true => serde_json::from_value(document).map(|parsed| (parsed, warnings)),
        // The first error says where.
        false => Err(first),
    }
}

fn amend(process: &mut Value, warnings: &mut Vec<String>) -> bool {
    let mut changed = false;
    let sets = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut);
    for list in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Value::Array(list) = list else { continue };
        list.retain(|name| {
            let known = name.as_str().is_none_or(is_capability);
            if !known {
                changed = true;
                warnings.push(format!("unknown capability {name} was left out"));
            }
            known
        });
    }
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let parsed = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = parsed.into();
        changed = true;
    }
    warnings.dedup();
    changed
}

fn is_capability(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let name = name.trim_start_matches("CAP_");
    NAMES.iter().any(|(_, known)| *known == name)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSchedulerFlag, Process, Spec};

    use super::*;

    #[test]
    fn unknown_capabilities_are_left_out() {
        let text = br#"{"ociVersion": "1.3.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_TIME_TRAVEL"], "permitted": ["CAP_TIME_TRAVEL"]}}}"#;
        let (spec, warnings) = read::<Spec>(text).unwrap();
        let process = spec.process().as_ref().unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert_eq!(
            warnings,
            ["unknown capability \"CAP_TIME_TRAVEL\" was left out"]
        );
    }

    #[test]
    fn flags_of_the_scheduler_have_the_specifications_names() {
        let flags = [
            (
                "SCHED_FLAG_RESET_ON_FORK",
                LinuxSchedulerFlag::SchedResetOnFork,
            ),
            ("SCHED_FLAG_RECLAIM", LinuxSchedulerFlag::SchedFlagReclaim),
            (
                "SCHED_FLAG_DL_OVERRUN",
                LinuxSchedulerFlag::SchedFlagDLOverrun,
            ),
            (
                "SCHED_FLAG_KEEP_POLICY",
                LinuxSchedulerFlag::SchedFlagKeepPolicy,
            ),
            (
                "SCHED_FLAG_KEEP_PARAMS",
                LinuxSchedulerFlag::SchedFlagKeepParams,
            ),
            (
                "SCHED_FLAG_UTIL_CLAMP_MIN",
                LinuxSchedulerFlag::SchedFlagUtilClampMin,
            ),
            (
                "SCHED_FLAG_UTIL_CLAMP_MAX",
                LinuxSchedulerFlag::SchedFlagUtilClampMax,
            ),
        ];
        for (name, flag) in flags {
            let text = format!(
                r#"{{"cwd": "/", "user": {{"uid": 0, "gid": 0}}, "args": ["a"], "scheduler": {{"policy": "SCHED_BATCH", "flags": ["{name}"]}}}}"#
            );
            let (process, _) = read::<Process>(text.as_bytes()).unwrap();
            let scheduler = process.scheduler().as_ref().unwrap();
            assert_eq!(scheduler.flags().as_ref().unwrap(), &[flag], "{name}");
        }
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for text in [
            &b"{"[..],
            br#"{"process": 7}"#,
            br#"{"process": {"capabilities": 7}}"#,
        ] {
            assert!(read::<Spec>(text).is_err());
        }
    }
}
