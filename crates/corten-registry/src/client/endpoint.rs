//! The endpoints that stand for a registry: its mirrors, then itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::HeaderMap;

use super::hosts::{self, Capabilities, HostSpec};
use super::place::Place;
use super::tls::TlsProfile;
use super::{ClientConfig, Error};
use crate::auth::docker_config::is_hub;
use crate::protocol::query;

/// Is HTTP plain here? Loopback finds out by trying.
const HTTPS: u8 = 0;
const PLAIN: u8 = 1;
const UNDECIDED: u8 = 2;

/// One server that can answer for a registry.
#[derive(Debug)]
pub(super) struct Endpoint {
    host: String,
    /// As written; without one, the scheme's.
    port: Option<u16>,
    scheme: AtomicU8,
    /// What `/NAME/…` is appended to: `/v2`, mostly.
    prefix: String,
    pub capabilities: Capabilities,
    tls: Arc<TlsProfile>,
    pub headers: HeaderMap,
    pub dial_timeout: Option<Duration>,
    /// For a mirror: the registry that it stands for, sent as `?ns=` so that one mirror can serve several.
    namespace: Option<String>,
    /// What credentials are looked up by.
    pub account: String,
}

impl Endpoint {
    fn new(spec: HostSpec, registry: &str, mirror: bool) -> Result<Self, Error> {
        let invalid = || Error::Config {
            path: PathBuf::from(&spec.url),
            why: "not a registry's address".into(),
            source: None,
        };
        let place = Place::parse(&spec.url).ok_or_else(invalid)?;
        let explicit = spec
            .url
            .split("://")
            .nth(1)
            .and_then(|r| r.split('/').next());
        let has_port = explicit.is_some_and(|a| !a.ends_with(']') && a.contains(':'));
        let account = match mirror {
            true => place.authority(),
            false => registry.to_owned(),
        };
        Ok(Self {
            scheme: AtomicU8::new(if place.tls { HTTPS } else { PLAIN }),
            port: has_port.then_some(place.port),
            host: place.host,
            prefix: place.path.trim_end_matches('/').to_owned(),
            capabilities: spec.capabilities,
            tls: Arc::new(TlsProfile::new(spec.ca, spec.client, spec.skip_verify)),
            headers: spec.headers,
            dial_timeout: spec.dial_timeout,
            namespace: mirror.then(|| registry.to_owned()),
            account,
        })
    }

    /// The URL of `path` (from its slash on; may have a query) below this endpoint.
    pub fn place(&self, path: &str) -> Place {
        let tls = self.scheme.load(Ordering::Relaxed) != PLAIN;
        let full = format!("{}{path}", self.prefix);
        Place {
            tls,
            host: self.host.clone(),
            port: self.port.unwrap_or(if tls { 443 } else { 80 }),
            path: self.named(full),
        }
    }

    /// A place that the endpoint itself has named by its path, such as the next page of a list.
    pub fn own(&self, path: String) -> Place {
        Place {
            path: self.named(path),
            ..self.place("")
        }
    }

    /// A mirror must be told whom it stands for, unless the path does so already.
    fn named(&self, path: String) -> String {
        let query = path.split_once('?').map(|(_, q)| q);
        match &self.namespace {
            Some(ns) if query::get(query, "ns").is_none() => query::append(&path, &[("ns", ns)]),
            _ => path,
        }
    }

    /// Is this place on the endpoint itself?
    pub fn owns(&self, place: &Place) -> bool {
        self.place("").same_origin(place)
    }

    /// How TLS is done with a place that this endpoint has sent us to.
    pub fn tls_for(&self, place: &Place) -> Arc<TlsProfile> {
        match self.owns(place) {
            true => self.tls.clone(),
            false => TlsProfile::system(),
        }
    }

    pub fn undecided(&self) -> bool {
        self.scheme.load(Ordering::Relaxed) == UNDECIDED
    }

    pub fn undecide(&self) {
        self.scheme.store(UNDECIDED, Ordering::Relaxed);
    }

    /// What was found out about an undecided endpoint.
    pub fn decide(&self, tls: bool) {
        let scheme = if tls { HTTPS } else { PLAIN };
        self.scheme.store(scheme, Ordering::Relaxed);
    }
}

/// Endpoints that are asked one after the other, until one knows.
pub(super) struct Turns {
    waiting: std::vec::IntoIter<Arc<Endpoint>>,
    /// What the last one failed by.
    last: Error,
}

impl Turns {
    /// `nobody` is the error if there is none to ask.
    pub fn new(endpoints: Vec<Arc<Endpoint>>, nobody: Error) -> Self {
        Self {
            waiting: endpoints.into_iter(),
            last: nobody,
        }
    }

    /// Who is to be asked; after the last one, why nobody knew.
    pub fn next(&mut self) -> Result<Arc<Endpoint>, Error> {
        let next = self.waiting.next();
        next.ok_or_else(|| std::mem::replace(&mut self.last, gone()))
    }

    /// What the one that was asked said.
    pub fn heard<T>(&mut self, said: Result<T, Error>) -> Option<T> {
        said.map_err(|error| {
            tracing::debug!(%error, "not here");
            self.last = error;
        })
        .ok()
    }
}

/// Stands in the place of an error that was handed out.
fn gone() -> Error {
    Error::NotARegistry {
        host: String::new(),
        why: "all of its endpoints have been asked".into(),
    }
}

/// Mirrors in their order, the registry itself last.
pub(super) fn endpoints(
    config: &ClientConfig,
    registry: &str,
) -> Result<Vec<Arc<Endpoint>>, Error> {
    let file = hosts::load(&config.certs_dirs, registry)?;
    let host = match is_hub(registry) {
        // Docker Hub's API lives under another name than its images.
        true => "registry-1.docker.io",
        false => registry,
    };
    let is_itself = |url: &str| {
        Place::parse(url).is_some_and(|p| [registry, host].contains(&p.authority().as_str()))
    };
    let mut out = Vec::new();
    let own = match file {
        Some(file) => {
            // A host of the registry's own name, able to do everything, is the registry: with that host's authority and
            // headers, which a second endpoint for the same place would lack.
            let mut named = false;
            for mirror in file.mirrors {
                let itself = is_itself(&mirror.url);
                let able = mirror.capabilities;
                named |= itself && able.pull && able.resolve && able.push;
                out.push(Arc::new(Endpoint::new(mirror, registry, !itself)?));
            }
            if named && file.server.is_none() {
                return Ok(out);
            }
            match file.server {
                Some(server) => {
                    let itself = is_itself(&server.url);
                    out.push(Arc::new(Endpoint::new(server, registry, !itself)?));
                    return Ok(out);
                }
                None => Some(file.defaults),
            }
        }
        None => None,
    };
    let plain = config.plain_http.contains(registry);
    let scheme = if plain { "http" } else { "https" };
    let url = format!("{scheme}://{host}/v2");
    let spec = match own {
        Some(defaults) => HostSpec { url, ..defaults },
        None => bare(url),
    };
    let endpoint = Endpoint::new(spec, registry, false)?;
    if !plain && endpoint.place("").is_loopback() {
        endpoint.scheme.store(UNDECIDED, Ordering::Relaxed);
    }
    out.push(Arc::new(endpoint));
    Ok(out)
}

fn bare(url: String) -> HostSpec {
    HostSpec {
        url,
        capabilities: Capabilities {
            pull: true,
            resolve: true,
            push: true,
        },
        ca: Vec::new(),
        client: Vec::new(),
        skip_verify: false,
        headers: HeaderMap::new(),
        dial_timeout: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(config: &ClientConfig, registry: &str) -> Vec<String> {
        let list = endpoints(config, registry).unwrap();
        list.iter().map(|e| e.place("/x").to_string()).collect()
    }

    #[test]
    fn a_host_of_the_registrys_own_name_is_the_registry() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("h.example:5000");
        std::fs::create_dir(&own).unwrap();
        let write = |text: &str| std::fs::write(own.join("hosts.toml"), text).unwrap();
        let config = ClientConfig {
            certs_dirs: vec![folder.path().into()],
            ..ClientConfig::default()
        };
        write("[host.\"https://h.example:5000\"]\nskip_verify = true\n");
        assert_eq!(
            places(&config, "h.example:5000"),
            ["https://h.example:5000/v2/x"]
        );
        write("[host.\"https://h.example:5000\"]\ncapabilities = [\"pull\"]\n");
        assert_eq!(places(&config, "h.example:5000").len(), 2);
    }

    #[test]
    fn without_files() {
        let mut config = ClientConfig::default();
        assert_eq!(
            places(&config, "docker.io"),
            ["https://registry-1.docker.io/v2/x"]
        );
        assert_eq!(
            places(&config, "h.example:5000"),
            ["https://h.example:5000/v2/x"]
        );
        config.plain_http.insert("h.example:5000".into());
        assert_eq!(
            places(&config, "h.example:5000"),
            ["http://h.example:5000/v2/x"]
        );
        let loopback = endpoints(&config, "localhost").unwrap();
        assert!(loopback[0].undecided());
        loopback[0].decide(false);
        assert_eq!(loopback[0].place("/x").to_string(), "http://localhost/v2/x");
    }

    #[test]
    fn mirrors_come_first_and_learn_whom_they_stand_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docker.io")).unwrap();
        let file = dir.path().join("docker.io/hosts.toml");
        std::fs::write(
            &file,
            "[host.\"http://m.example:81\"]\ncapabilities=[\"pull\"]\n",
        )
        .unwrap();
        let config = ClientConfig {
            certs_dirs: vec![dir.path().into()],
            ..ClientConfig::default()
        };
        let want = [
            "http://m.example:81/v2/x?ns=docker.io",
            "https://registry-1.docker.io/v2/x",
        ];
        assert_eq!(places(&config, "docker.io"), want);
        let list = endpoints(&config, "docker.io").unwrap();
        assert_eq!(
            (list[0].account.as_str(), list[1].account.as_str()),
            ("m.example:81", "docker.io")
        );
        let page = |path: &str| list[0].own(path.into()).path;
        assert_eq!(
            page("/v2/a/tags/list?n=1"),
            "/v2/a/tags/list?n=1&ns=docker.io"
        );
        assert_eq!(page("/v2/a/tags/list?ns=x"), "/v2/a/tags/list?ns=x");
    }
}
