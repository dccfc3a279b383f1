//! The filter of system calls: none, the usual one, or one from a file of this host.

use std::path::{Path, PathBuf};

use corten_engine::container::seccomp::{self, Facts as Conditions};
use corten_runtime::seccomp_profile::docker_default;
use corten_spec::oci::runtime::{Arch, Capability};
use serde_json::{Value, json};

use super::error::{Refused, invalid, missing};
use super::facts::{Host, Observed};
use crate::proto::{SecurityProfile, security_profile::ProfileType};

const FIELD: &str = "linux.security_context.seccomp";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Unconfined,
    RuntimeDefault,
    Localhost(PathBuf),
}

/// The profile, or the older word for it. Nothing said is no filter, as kubelet means it.
pub(super) fn profile(profile: Option<&SecurityProfile>, older: &str) -> Result<Profile, Refused> {
    let Some(profile) = profile else {
        return word(older);
    };
    let kind = ProfileType::try_from(profile.profile_type).map_err(|_| {
        let problem = format!("is {}, which is none", profile.profile_type);
        invalid(format!("{FIELD}.profile_type"), problem)
    })?;
    match kind {
        ProfileType::Localhost => {
            localhost(&format!("{FIELD}.localhost_ref"), &profile.localhost_ref)
        }
        _ if !profile.localhost_ref.is_empty() => {
            let problem = "is set, and profile_type is not Localhost";
            Err(invalid(format!("{FIELD}.localhost_ref"), problem))
        }
        ProfileType::RuntimeDefault => Ok(Profile::RuntimeDefault),
        ProfileType::Unconfined => Ok(Profile::Unconfined),
    }
}

fn word(older: &str) -> Result<Profile, Refused> {
    let field = "linux.security_context.seccomp_profile_path";
    match older {
        "" | "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        other => match other.strip_prefix("localhost/") {
            Some(path) => localhost(field, path),
            None => Err(invalid(field, format!("is {other:?}, which is no profile"))),
        },
    }
}

fn localhost(field: &str, path: &str) -> Result<Profile, Refused> {
    let path = path.strip_prefix("localhost/").unwrap_or(path);
    match Path::new(path).is_absolute() && !path.contains('\0') {
        true => Ok(Profile::Localhost(path.into())),
        false => Err(invalid(
            field,
            format!("is {path:?}, which is no absolute path"),
        )),
    }
}

/// The filter for a process with these capabilities.
pub(super) fn plan(
    profile: &Profile,
    capabilities: &[String],
    host: &Host,
    observed: &Observed,
) -> Result<Option<Value>, Refused> {
    match profile {
        Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault => Ok(Some(usual(capabilities, host.machine))),
        Profile::Localhost(path) => {
            let found = observed.seccomp.get(path).ok_or_else(|| {
                let problem = format!("names {path:?}, which was not read");
                missing(format!("{FIELD}.localhost_ref"), problem)
            })?;
            let conditions = Conditions {
                capabilities,
                kernel: host.kernel,
                machine: host.machine,
            };
            seccomp::resolve(found, &conditions)
                .map(Some)
                .map_err(Refused::engine(&format!("{FIELD}: {}", path.display())))
        }
    }
}

fn usual(capabilities: &[String], machine: &str) -> Value {
    let known = |name: &String| serde_json::from_value::<Capability>(json!(name)).ok();
    let known: Vec<Capability> = capabilities.iter().filter_map(known).collect();
    let arch = match machine {
        "aarch64" => Arch::ScmpArchAarch64,
        _ => Arch::ScmpArchX86_64,
    };
    json!(docker_default(&known, arch))
}
