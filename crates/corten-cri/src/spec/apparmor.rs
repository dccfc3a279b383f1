//! The AppArmor profile of a container. A profile is the host's administrator's to load: none is made here, and a
//! host without AppArmor, or without the profile, refuses what asks for one.

use super::error::{Refused, invalid, missing, unsupported};
use super::facts::Host;
use crate::proto::{LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType};

const FIELD: &str = "linux.security_context.apparmor";
/// What `RuntimeDefault` means, if it is loaded.
pub const DEFAULT: &str = "corten-default";

/// Of a container. The interface keeps the older word for callers of before 2021.
#[allow(deprecated)]
pub(super) fn plan(
    context: &LinuxContainerSecurityContext,
    host: &Host,
) -> Result<Option<String>, Refused> {
    let older = word(&context.apparmor_profile)?;
    let asked = context.apparmor.clone().or(older);
    profile(asked.as_ref(), context.privileged, host)
}

/// The name of the profile that is asked for, or that is usual.
pub(super) fn profile(
    asked: Option<&SecurityProfile>,
    privileged: bool,
    host: &Host,
) -> Result<Option<String>, Refused> {
    let Some(asked) = asked else {
        // Nothing is promised, and what can be given is given.
        let loaded = |a: &&super::facts::AppArmor| a.profiles.contains(DEFAULT);
        let usual = host.apparmor.as_ref().filter(loaded);
        return Ok(usual.filter(|_| !privileged).map(|_| DEFAULT.into()));
    };
    let kind = kind(asked)?;
    let name = match kind {
        ProfileType::Unconfined => return Ok(None),
        ProfileType::RuntimeDefault => DEFAULT,
        ProfileType::Localhost => {
            let name = asked.localhost_ref.as_str();
            name.strip_prefix("localhost/").unwrap_or(name)
        }
    };
    let Some(apparmor) = &host.apparmor else {
        let problem = format!("asks for {name:?}, and this host has no AppArmor");
        return Err(unsupported(FIELD, problem));
    };
    if kind == ProfileType::RuntimeDefault && privileged {
        return Ok(None);
    }
    match apparmor.profiles.contains(name) {
        true => Ok(Some(name.into())),
        false => Err(missing(
            FIELD,
            format!("asks for {name:?}, which is not loaded on this host"),
        )),
    }
}

fn kind(asked: &SecurityProfile) -> Result<ProfileType, Refused> {
    let kind = ProfileType::try_from(asked.profile_type).map_err(|_| {
        let problem = format!("is {}, which is none", asked.profile_type);
        invalid(format!("{FIELD}.profile_type"), problem)
    })?;
    match kind != ProfileType::Localhost && !asked.localhost_ref.is_empty() {
        true => Err(invalid(
            format!("{FIELD}.localhost_ref"),
            "is set, and profile_type is not Localhost",
        )),
        false => Ok(kind),
    }
}

/// `runtime/default`, `localhost/NAME`, `unconfined`.
fn word(older: &str) -> Result<Option<SecurityProfile>, Refused> {
    let of = |kind: ProfileType, name: &str| {
        Ok(Some(SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: name.into(),
        }))
    };
    match older {
        "" => Ok(None),
        "unconfined" => of(ProfileType::Unconfined, ""),
        "runtime/default" => of(ProfileType::RuntimeDefault, ""),
        other => match other.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => of(ProfileType::Localhost, name),
            _ => Err(invalid(
                "linux.security_context.apparmor_profile",
                format!("is {other:?}, which is no profile"),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::AppArmor;
    use super::super::tests::host;
    use super::*;

    fn with(profiles: &[&str]) -> Host {
        Host {
            apparmor: Some(AppArmor {
                profiles: profiles.iter().map(|p| (*p).into()).collect(),
            }),
            ..host()
        }
    }

    fn asks(kind: ProfileType, name: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            apparmor: Some(SecurityProfile {
                profile_type: kind as i32,
                localhost_ref: name.into(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_profile_is_applied_or_the_container_refused() {
        let nothing = LinuxContainerSecurityContext::default();
        let here = with(&[DEFAULT, "web"]);
        assert_eq!(plan(&nothing, &host()).unwrap(), None);
        assert_eq!(plan(&nothing, &with(&[])).unwrap(), None);
        assert_eq!(plan(&nothing, &here).unwrap().as_deref(), Some(DEFAULT));
        let usual = asks(ProfileType::RuntimeDefault, "");
        assert_eq!(plan(&usual, &here).unwrap().as_deref(), Some(DEFAULT));
        assert!(matches!(
            plan(&usual, &host()),
            Err(Refused::Unsupported { .. })
        ));
        assert!(matches!(
            plan(&usual, &with(&[])),
            Err(Refused::Missing { .. })
        ));
        for name in ["web", "localhost/web"] {
            let own = asks(ProfileType::Localhost, name);
            assert_eq!(plan(&own, &here).unwrap().as_deref(), Some("web"));
        }
        let error = plan(&asks(ProfileType::Localhost, "gone"), &here).unwrap_err();
        assert!(error.to_string().contains("\"gone\""), "{error}");
        assert_eq!(
            plan(&asks(ProfileType::Unconfined, ""), &host()).unwrap(),
            None
        );
        assert!(plan(&asks(ProfileType::Unconfined, "x"), &here).is_err());
    }

    #[test]
    #[allow(deprecated)]
    fn older_words_mean_the_same() {
        let older = |word: &str| LinuxContainerSecurityContext {
            apparmor_profile: word.into(),
            ..Default::default()
        };
        let here = with(&[DEFAULT, "web"]);
        let at = |word: &str| plan(&older(word), &here).unwrap();
        assert_eq!(at("localhost/web").as_deref(), Some("web"));
        assert_eq!(at("runtime/default").as_deref(), Some(DEFAULT));
        assert_eq!(at("unconfined"), None);
        assert!(plan(&older("web"), &here).is_err());
        assert!(plan(&older("localhost/"), &here).is_err());
    }

    #[test]
    fn privileged_ones_have_the_usual_profile_never() {
        let mut usual = asks(ProfileType::RuntimeDefault, "");
        usual.privileged = true;
        let here = with(&[DEFAULT, "web"]);
        assert_eq!(plan(&usual, &here).unwrap(), None);
        usual.apparmor = None;
        assert_eq!(plan(&usual, &here).unwrap(), None);
        let mut own = asks(ProfileType::Localhost, "web");
        own.privileged = true;
        assert_eq!(plan(&own, &here).unwrap().as_deref(), Some("web"));
    }
}
