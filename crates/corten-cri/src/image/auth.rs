//! `AuthConfig`: what kubelet found in a pod's pull secrets, as the registry client takes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corten_registry::auth::{Credentials, Secret};
use corten_spec::Reference;
use tonic::Status;

use crate::proto::AuthConfig;

/// The registry that they are for, and the credentials. `None`: nobody in particular asks.
///
/// Several may be given; the first of password, identity token, `auth`, registry token counts. Credentials for another
/// server than the image's are not sent anywhere.
pub(super) fn credentials(
    auth: Option<&AuthConfig>,
    reference: &Reference,
) -> Result<Option<Credentials>, Status> {
    let Some(auth) = auth else {
        return Ok(None);
    };
    if !auth.server_address.is_empty() && !same_server(&auth.server_address, reference.registry()) {
        return Ok(None);
    }
    if !auth.username.is_empty() {
        return Ok(Some(Credentials::password(&auth.username, &auth.password)));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credentials::Identity(Secret::new(
            &auth.identity_token,
        ))));
    }
    if !auth.auth.is_empty() {
        return pair(&auth.auth).map(Some);
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credentials::Registry(Secret::new(
            &auth.registry_token,
        ))));
    }
    Ok(None)
}

/// The message never repeats the secret.
fn pair(auth: &str) -> Result<Credentials, Status> {
    let bad = |what| Status::invalid_argument(format!("the request's auth.auth {what}"));
    let decoded = STANDARD
        .decode(auth.trim())
        .map_err(|_| bad("is no base64"))?;
    let decoded = String::from_utf8(decoded).map_err(|_| bad("is no UTF-8"))?;
    let (user, password) = decoded
        .split_once(':')
        .ok_or_else(|| bad("has no colon between a user and a password"))?;
    // Old versions of docker padded the password with zero bytes.
    Ok(Credentials::password(user, password.trim_matches('\0')))
}

/// `https://index.docker.io/v1/` and `registry.example.com:5000` name servers as docker's config.json does.
fn same_server(address: &str, registry: &str) -> bool {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    let hub = corten_registry::auth::docker_config::is_hub;
    host == registry || (hub(host) && hub(registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(auth: AuthConfig) -> Option<Credentials> {
        let reference = "registry.example.com:5000/a/b:1".parse().unwrap();
        credentials(Some(&auth), &reference).unwrap()
    }

    #[test]
    fn every_way_to_say_who_asks() {
        let password = Some(Credentials::password("me", "secret"));
        let plain = AuthConfig {
            username: "me".into(),
            password: "secret".into(),
            ..AuthConfig::default()
        };
        assert_eq!(of(plain.clone()), password);
        let auth = AuthConfig {
            auth: STANDARD.encode("me:secret\0\0"),
            ..AuthConfig::default()
        };
        assert_eq!(of(auth), password);
        let identity = AuthConfig {
            identity_token: "t".into(),
            ..AuthConfig::default()
        };
        assert_eq!(of(identity), Some(Credentials::Identity(Secret::new("t"))));
        let bearer = AuthConfig {
            registry_token: "t".into(),
            ..AuthConfig::default()
        };
        assert_eq!(of(bearer), Some(Credentials::Registry(Secret::new("t"))));
        assert_eq!(of(AuthConfig::default()), None);
        for (address, fits) in [
            ("registry.example.com:5000", true),
            ("https://registry.example.com:5000/v2/", true),
            ("registry.example.com", false),
            ("evil.example.com", false),
        ] {
            let to = AuthConfig {
                server_address: address.into(),
                ..plain.clone()
            };
            assert_eq!(of(to).is_some(), fits, "{address}");
        }
    }

    #[test]
    fn a_broken_auth_is_named_and_not_shown() {
        let reference = "a/b".parse().unwrap();
        for bad in ["%%%", "bm9jb2xvbg=="] {
            let auth = AuthConfig {
                auth: bad.into(),
                ..AuthConfig::default()
            };
            let refused = credentials(Some(&auth), &reference).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(!refused.message().contains(bad));
        }
        assert!(same_server("https://index.docker.io/v1/", "docker.io"));
    }
}
