//! The proxy variables of the environment, as curl reads them: `HTTPS_PROXY`, `HTTP_PROXY` (in lower case
//! only: CVE-2016-5385), `ALL_PROXY`, `NO_PROXY`. Proxies are spoken to in plain HTTP; loopback is never proxied.

use std::net::IpAddr;

use super::Error;
use super::place::{Place, split_authority};
use crate::auth::{Credentials, Secret};
use crate::protocol::query;

/// Which proxy, if any, stands between us and a host.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// For `https://` URLs: `http://[USER:PASSWORD@]HOST:PORT`.
    pub https: Option<String>,
    /// For `http://` URLs.
    pub http: Option<String>,
    /// What is reached directly: hosts, domains (with what is below them), networks (`10.0.0.0/8`), `*`.
    pub except: Vec<String>,
}

impl std::fmt::Debug for ProxySettings {
    // A proxy's URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxySettings")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .field("except", &self.except)
            .finish()
    }
}

/// A proxy to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    /// A `Proxy-Authorization` value.
    pub authorization: Option<Secret>,
}

impl ProxySettings {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let either = |name: &str| var(&name.to_ascii_lowercase()).or_else(|| var(name));
        let except = either("NO_PROXY").unwrap_or_default();
        let words = except.split([',', ' ']).filter(|e| !e.is_empty());
        Self {
            https: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")),
            http: var("http_proxy").or_else(|| either("ALL_PROXY")),
            except: words.map(str::to_owned).collect(),
        }
    }

    /// The proxy on the way to `place`.
    pub(super) fn on_the_way(&self, place: &Place) -> Result<Option<Proxy>, Error> {
        let url = if place.tls { &self.https } else { &self.http };
        let Some(url) = url else {
            return Ok(None);
        };
        if place.is_loopback()
            || self
                .except
                .iter()
                .any(|e| covers(e, &place.host, place.port))
        {
            return Ok(None);
        }
        parse(url).map(Some)
    }
}

fn parse(url: &str) -> Result<Proxy, Error> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let rest = rest.trim_end_matches('/');
    let (user, authority) = match rest.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    let bad = |why: &str| Error::Proxy {
        proxy: authority.to_owned(),
        why: why.to_owned(),
    };
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(bad("only http:// proxies are supported"));
    }
    let (host, port) = split_authority(authority, false).ok_or_else(|| bad("no HOST:PORT"))?;
    let authorization = match user {
        None => None,
        Some(pair) => {
            let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
            let decoded = query::decode_path(user).zip(query::decode_path(password));
            let (user, password) =
                decoded.ok_or_else(|| bad("user or password has a bad escape"))?;
            Credentials::password(user, password).basic()
        }
    };
    Ok(Proxy {
        host,
        port,
        authorization,
    })
}

/// Does one entry of NO_PROXY cover a host?
fn covers(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Some((net, bits)), Ok(address)) = (entry.split_once('/'), host.parse::<IpAddr>()) {
        let net = net.parse::<IpAddr>().ok().zip(bits.parse::<u32>().ok());
        return net.is_some_and(|(net, bits)| in_network(address, net, bits));
    }
    let (name, wanted) = match entry.rsplit_once(':') {
        Some((name, p)) if !name.contains(':') => (name, p.parse::<u16>().ok()),
        _ => (entry, None),
    };
    if wanted.is_some_and(|p| p != port) {
        return false;
    }
    let name = name
        .trim_start_matches("*")
        .trim_start_matches('.')
        .to_ascii_lowercase();
    host == name
        || host
            .strip_suffix(&name)
            .is_some_and(|h| !name.is_empty() && h.ends_with('.'))
}

fn in_network(address: IpAddr, net: IpAddr, bits: u32) -> bool {
    let cut = |value: u128, width: u32| value.checked_shr(width.saturating_sub(bits)).unwrap_or(0);
    match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            cut(u32::from(a).into(), 32) == cut(u32::from(n).into(), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => cut(a.into(), 128) == cut(n.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(settings: &ProxySettings, url: &str) -> Option<Proxy> {
        settings.on_the_way(&Place::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn exceptions() {
        let settings = ProxySettings {
            https: Some("http://me:p%40w@proxy.example:3128/".into()),
            http: None,
            except: [
                "10.0.0.0/8",
                ".corp.example",
                "one.example:5000",
                "fd00::/8",
            ]
            .map(String::from)
            .into(),
        };
        let proxy = way(&settings, "https://ghcr.io/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        assert_eq!(
            proxy.authorization,
            Credentials::password("me", "p@w").basic()
        );
        assert!(!format!("{settings:?} {proxy:?}").contains("p@w"));
        for direct in [
            "http://ghcr.io/",
            "https://10.1.2.3/",
            "https://a.corp.example/",
            "https://corp.example/",
            "https://one.example:5000/",
            "https://[fd00::1]/",
            "https://127.0.0.1:5000/",
        ] {
            assert_eq!(way(&settings, direct), None, "{direct}");
        }
        for proxied in [
            "https://notcorp.example/",
            "https://one.example/",
            "https://11.1.2.3/",
        ] {
            assert!(way(&settings, proxied).is_some(), "{proxied}");
        }
    }

    #[test]
    fn other_proxies_are_refused_by_name() {
        let settings = ProxySettings {
            https: Some("socks5://u:secret@h:1".into()),
            ..ProxySettings::default()
        };
        let err = settings
            .on_the_way(&Place::parse("https://a/").unwrap())
            .unwrap_err();
        assert!(
            matches!(&err, Error::Proxy { proxy, .. } if proxy == "h:1"),
            "{err}"
        );
    }
}
