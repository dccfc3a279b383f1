//! A seccomp profile that a user gives, in Docker's form or the OCI runtime specification's, turned
//! into the latter for one container. Pure.
//!
//! Docker's form says more than the runtime's: `archMap`, and rules that hold only with some
//! capabilities, architectures or kernels (`includes`, `excludes`). Read as the runtime's form it
//! would be a wider filter than was meant, since each conditional rule would always hold. So what is not
//! known here is refused, never passed over.
//! (moby, profiles/seccomp/seccomp_linux.go; containers/common, pkg/seccomp.)

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;

/// What the conditions of a profile are held against.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The container's capabilities, as `CAP_…`.
    pub capabilities: &'a [String],
    /// The running kernel's major and minor version.
    pub kernel: (u32, u32),
    /// As Rust's `std::env::consts::ARCH`.
    pub machine: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    /// podman's word for it beside the number; the number counts.
    #[serde(rename = "defaultErrno")]
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// Docker's older form has one name a rule.
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: u32,
    value: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_two: Option<u64>,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Is this a profile that [`resolve`] will take?
pub fn check(profile: &Value) -> Result<(), Error> {
    let machine = std::env::consts::ARCH;
    let facts = Facts {
        capabilities: &[],
        kernel: (0, 0),
        machine,
    };
    resolve(profile, &facts).map(|_| ())
}

/// The profile as the runtime specification has it, with the rules whose conditions hold.
pub fn resolve(profile: &Value, facts: &Facts<'_>) -> Result<Value, Error> {
    let profile: Profile = Profile::deserialize(profile).map_err(|e| refused(e.to_string()))?;
    if profile.default_errno.is_some() && profile.default_errno_ret.is_none() {
        return Err(refused("defaultErrno without defaultErrnoRet"));
    }
    let mut rules = Vec::new();
    for rule in profile.syscalls.iter().flatten() {
        if rule.holds(facts)? {
            rules.push(rule.to_oci()?);
        }
    }
    let mut out = json!({
        "defaultAction": profile.default_action,
        "architectures": architectures(&profile, facts)?,
        "syscalls": rules,
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out[key] = value;
        }
    };
    set(
        "defaultErrnoRet",
        profile.default_errno_ret.map(Value::from),
    );
    set(
        "flags",
        profile.flags.filter(|f| !f.is_empty()).map(Value::from),
    );
    let text = |t: Option<String>| t.filter(|t| !t.is_empty()).map(Value::from);
    set("listenerPath", text(profile.listener_path));
    set("listenerMetadata", text(profile.listener_metadata));
    Ok(out)
}

/// Those of the profile, or those that its map has for this machine.
fn architectures(profile: &Profile, facts: &Facts<'_>) -> Result<Vec<String>, Error> {
    let listed = profile.architectures.clone().unwrap_or_default();
    let map = profile.arch_map.as_deref().unwrap_or_default();
    match (listed.is_empty(), map.is_empty()) {
        (false, false) => Err(refused("it has both architectures and archMap")),
        (false, true) => Ok(listed),
        (true, true) => Ok(vec![]),
        (true, false) => {
            let native = match facts.machine {
                "aarch64" => "SCMP_ARCH_AARCH64",
                "x86_64" => "SCMP_ARCH_X86_64",
                _ => return Err(refused("its archMap cannot be read on this machine")),
            };
            // docker goes on without any: then the runtime takes the native one.
            let ours = map.iter().find(|m| m.architecture == native);
            let sub = |m: &ArchMap| m.sub_architectures.clone().unwrap_or_default();
            let all = |m: &ArchMap| [vec![m.architecture.clone()], sub(m)].concat();
            Ok(ours.map(all).unwrap_or_default())
        }
    }
}

impl Rule {
    /// docker: every capability of `includes`, none of `excludes`.
    fn holds(&self, facts: &Facts<'_>) -> Result<bool, Error> {
        let has_cap = |c: &String| facts.capabilities.contains(c);
        let goarch = match facts.machine {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        if let Some(not) = &self.excludes {
            let arch = not.arches.iter().flatten().any(|a| a == goarch);
            let cap = not.caps.iter().flatten().any(has_cap);
            if arch || cap || not.kernel()?.is_some_and(|k| facts.kernel >= k) {
                return Ok(false);
            }
        }
        let Some(only) = &self.includes else {
            return Ok(true);
        };
        let arches = only.arches.as_deref().unwrap_or_default();
        Ok((arches.is_empty() || arches.iter().any(|a| a == goarch))
            && only.caps.iter().flatten().all(has_cap)
            && only.kernel()?.is_none_or(|k| facts.kernel >= k))
    }

    fn to_oci(&self) -> Result<Value, Error> {
        let names = match (&self.name, self.names.as_deref().unwrap_or_default()) {
            (Some(name), []) if !name.is_empty() => vec![name.clone()],
            (None, []) => return Err(refused("a rule has no names")),
            (Some(name), _) if !name.is_empty() => {
                return Err(refused(format!(
                    "a rule has both names and the name {name}"
                )));
            }
            (_, names) => names.to_vec(),
        };
        if self.errno.is_some() && self.errno_ret.is_none() {
            return Err(refused(format!(
                "the rule of {} has errno without errnoRet",
                names[0]
            )));
        }
        let mut rule = json!({ "names": names, "action": self.action });
        if let Some(errno) = self.errno_ret {
            rule["errnoRet"] = json!(errno);
        }
        if let Some(args) = self.args.as_ref().filter(|a| !a.is_empty()) {
            rule["args"] = json!(args);
        }
        Ok(rule)
    }
}

impl Condition {
    /// `minKernel`: `"4.8"`.
    fn kernel(&self) -> Result<Option<(u32, u32)>, Error> {
        let Some(text) = self.min_kernel.as_deref().filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        match version(text) {
            Some(v) => Ok(Some(v)),
            None => Err(refused(format!("{text:?} is no kernel version"))),
        }
    }
}

/// Major and minor of `6.12.4-amd64`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

fn refused(reason: impl Into<String>) -> Error {
    Error::SeccompProfile {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(profile: Value, capabilities: &[&str]) -> Result<Value, Error> {
        let capabilities: Vec<String> = capabilities.iter().map(|c| (*c).into()).collect();
        resolve(
            &profile,
            &Facts {
                capabilities: &capabilities,
                kernel: (6, 1),
                machine: "x86_64",
            },
        )
    }

    /// The parts of Docker's default.json that are not in the runtime's form.
    fn docker() -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "archMap": [
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
            ],
            "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
                { "names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "99.0" } },
                { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ" }],
                  "excludes": { "caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"] } },
                { "names": ["arm_fadvise64_64"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm64"] } },
                { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
            ],
        })
    }

    fn names(profile: &Value) -> Vec<&str> {
        let rules = profile["syscalls"].as_array().unwrap();
        rules
            .iter()
            .flat_map(|r| r["names"].as_array().unwrap())
            .map(|n| n.as_str().unwrap())
            .collect()
    }

    #[test]
    fn conditions_of_dockers_form_are_held_against_the_container() {
        let plain = at(docker(), &["CAP_CHOWN"]).unwrap();
        assert_eq!(names(&plain), ["read", "ptrace", "clone", "clone3"]);
        assert_eq!(
            plain["architectures"],
            json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
        );
        assert_eq!(plain["syscalls"][3]["errnoRet"], json!(38));
        assert_eq!(plain["defaultErrnoRet"], json!(1));
        let admin = at(docker(), &["CAP_SYS_ADMIN"]).unwrap();
        assert_eq!(names(&admin), ["read", "ptrace", "mount"]);
        // The runtime's own type reads it.
        serde_json::from_value::<corten_spec::oci::runtime::LinuxSeccomp>(plain).unwrap();
    }

    #[test]
    fn the_runtimes_form_stays_as_it_is() {
        let oci = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
                "args": [{ "index": 1, "value": 7, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ" }] }],
        });
        assert_eq!(at(oci.clone(), &[]).unwrap(), oci);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (bad, why) in [
            (json!({}), "defaultAction"),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscall": [] }),
                "syscall",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": docker()["archMap"] }),
                "both",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "action": "SCMP_ACT_ERRNO" }] }),
                "no names",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "four" } }] }),
                "four",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": { "user": ["x"] } }] }),
                "user",
            ),
        ] {
            let err = at(bad.clone(), &[]).unwrap_err();
            assert!(
                matches!(&err, Error::SeccompProfile { reason } if reason.contains(why)),
                "{bad}: {err}"
            );
        }
    }

    #[test]
    fn versions_of_kernels() {
        assert_eq!(version("6.12.4-amd64"), Some((6, 12)));
        assert_eq!(version("4.8"), Some((4, 8)));
        assert_eq!(version("4"), None);
    }
}
