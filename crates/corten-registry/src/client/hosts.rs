//! `certs.d/HOST/hosts.toml`, in containerd's format: which endpoints stand for a registry, in which
//! order, and how each is spoken to. Docker's older layout (`*.crt`, `*.cert` with `*.key`) is read too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::Error;

/// The largest `hosts.toml` that is read, in bytes.
const HOSTS_MAX: u64 = 1 << 20;

/// What an endpoint may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
}

/// An endpoint as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct HostSpec {
    /// `http(s)://HOST[:PORT]/PATH`, the path being what `/NAME/manifests/…` is appended to.
    pub url: String,
    pub capabilities: Capabilities,
    pub ca: Vec<PathBuf>,
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
    pub headers: HeaderMap,
    pub dial_timeout: Option<Duration>,
}

/// The file: mirrors in the order of the file, and the registry itself.
#[derive(Clone, Debug)]
pub(super) struct HostsFile {
    pub mirrors: Vec<HostSpec>,
    /// The last resort. `None`: the file does not name one, so it is the host itself, with `defaults`.
    pub server: Option<HostSpec>,
    pub defaults: HostSpec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    server: Option<String>,
    #[serde(flatten)]
    own: RawHost,
    host: BTreeMap<String, Spanned<RawHost>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHost {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<ClientCerts>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientCerts {
    One(String),
    Many(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

/// Finds and reads what the folders say about a registry host; the first folder that has anything decides.
pub(super) fn load(folders: &[PathBuf], host: &str) -> Result<Option<HostsFile>, Error> {
    for folder in folders {
        for name in folder_names(host) {
            let dir = folder.join(name);
            let path = dir.join("hosts.toml");
            match read_bounded(&path) {
                Ok(text) => return parse(&text, &dir).map(Some).map_err(|why| bad(&path, why)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(Error::Config {
                        path,
                        why: "cannot read it".into(),
                        source: Some(e),
                    });
                }
            }
            if let Some(found) = docker_layout(&dir)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn bad(path: &Path, why: String) -> Error {
    Error::Config {
        path: path.to_owned(),
        why,
        source: None,
    }
}

/// containerd's order: `HOST_PORT_` (for file systems without colons), `HOST:PORT`, `_default`.
fn folder_names(host: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((name, port)) = host.rsplit_once(':')
        && !name.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        names.push(format!("{name}_{port}_"));
    }
    names.push(host.to_owned());
    names.push("_default".to_owned());
    names
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let n = file.take(HOSTS_MAX + 1).read_to_string(&mut text)?;
    match n as u64 > HOSTS_MAX {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

/// Parses a file; relative paths in it start at `dir`.
pub(super) fn parse(text: &str, dir: &Path) -> Result<HostsFile, String> {
    let raw: Raw = toml::from_str(text).map_err(|e| e.to_string().trim().replace('\n', " "))?;
    // TOML tables have no order of their own, but this format gives the order meaning.
    let mut hosts: Vec<(String, Spanned<RawHost>)> = raw.host.into_iter().collect();
    hosts.sort_by_key(|(_, h)| h.span().start);
    let mirrors = hosts
        .into_iter()
        .map(|(url, h)| {
            spec(&url, h.into_inner(), dir).map_err(|why| format!("host {url:?}: {why}"))
        })
        .collect::<Result<_, _>>()?;
    let named = raw.server.filter(|s| !s.is_empty());
    let own = spec(
        named.as_deref().unwrap_or("https://unnamed.invalid"),
        raw.own,
        dir,
    )?;
    Ok(HostsFile {
        mirrors,
        server: named.map(|_| own.clone()),
        defaults: own,
    })
}

fn spec(url: &str, raw: RawHost, dir: &Path) -> Result<HostSpec, String> {
    let path = |p: &str| dir.join(p);
    let ca = raw.ca.map_or_else(Vec::new, OneOrMany::into_vec);
    let client = match raw.client {
        None => Vec::new(),
        Some(ClientCerts::One(both)) => vec![(path(&both), None)],
        Some(ClientCerts::Many(list)) => list.iter().map(|c| (path(c), None)).collect(),
        Some(ClientCerts::Pairs(list)) => list
            .iter()
            .map(|p| pair(p, dir))
            .collect::<Result<_, _>>()?,
    };
    Ok(HostSpec {
        url: absolute(url, raw.override_path)?,
        capabilities: capabilities(raw.capabilities)?,
        ca: ca.iter().map(|c| path(c)).collect(),
        client,
        skip_verify: raw.skip_verify,
        headers: headers(raw.header)?,
        dial_timeout: raw.dial_timeout.as_deref().map(duration).transpose()?,
    })
}

fn pair(list: &[String], dir: &Path) -> Result<(PathBuf, Option<PathBuf>), String> {
    match list {
        [both] => Ok((dir.join(both), None)),
        [cert, key] if key.is_empty() => Ok((dir.join(cert), None)),
        [cert, key] => Ok((dir.join(cert), Some(dir.join(key)))),
        _ => Err("client needs [certificate, key] pairs".into()),
    }
}

/// Without a scheme it is HTTPS; without `override_path` the path ends in `/v2`.
fn absolute(url: &str, override_path: bool) -> Result<String, String> {
    let full = match url.contains("://") {
        true => url.to_owned(),
        false => format!("https://{url}"),
    };
    let place =
        super::place::Place::parse(&full).ok_or_else(|| format!("{url:?} is no http(s) URL"))?;
    if place.path.contains('?') {
        return Err(format!("{url:?} has a query"));
    }
    let bare = full.trim_end_matches('/');
    match override_path || place.path.trim_end_matches('/').ends_with("/v2") {
        true => Ok(bare.to_owned()),
        false => Ok(format!("{bare}/v2")),
    }
}

fn capabilities(list: Option<Vec<String>>) -> Result<Capabilities, String> {
    let all = Capabilities {
        pull: true,
        resolve: true,
        push: true,
    };
    let Some(list) = list.filter(|l| !l.is_empty()) else {
        return Ok(all);
    };
    let known = ["pull", "resolve", "push", "referrers"];
    if let Some(odd) = list.iter().find(|c| !known.contains(&c.as_str())) {
        return Err(format!("unknown capability {odd:?}"));
    }
    let has = |name: &str| list.iter().any(|c| c == name);
    Ok(Capabilities {
        pull: has("pull"),
        resolve: has("resolve"),
        push: has("push"),
    })
}

fn headers(raw: BTreeMap<String, OneOrMany>) -> Result<HeaderMap, String> {
    let mut out = HeaderMap::new();
    for (name, values) in raw {
        let parsed: HeaderName = name
            .parse()
            .map_err(|_| format!("{name:?} is no header name"))?;
        for value in values.into_vec() {
            // The value may be a secret: it is not repeated, and marked so that it does not print.
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| format!("header {name:?} has a bad value"))?;
            value.set_sensitive(true);
            out.append(parsed.clone(), value);
        }
    }
    Ok(out)
}

/// Go's durations, as far as a timeout needs them: `5s`, `1m30s`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration such as 5s or 250ms");
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let n: u32 = rest[..digits].parse().map_err(|_| bad())?;
        let after = &rest[digits..];
        let unit = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        total += n * match &after[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(bad()),
        };
        rest = &after[unit..];
    }
    match total.is_zero() {
        true => Err(bad()),
        false => Ok(total),
    }
}

/// Docker's folder: every `*.crt` is an authority, every `*.cert` a client certificate beside its `*.key`.
fn docker_layout(dir: &Path) -> Result<Option<HostsFile>, Error> {
    let cannot = |e| Error::Config {
        path: dir.to_owned(),
        why: "cannot read it".into(),
        source: Some(e),
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e)),
    };
    let mut own =
        spec("https://unnamed.invalid", RawHost::default(), dir).map_err(|why| bad(dir, why))?;
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => own.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                own.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    if own.ca.is_empty() && own.client.is_empty() {
        return Ok(None);
    }
    own.ca.sort();
    own.client.sort();
    Ok(Some(HostsFile {
        mirrors: Vec::new(),
        server: None,
        defaults: own,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: &str = r#"
server = "https://registry-1.docker.io"
ca = "root.pem"

[host."https://z-mirror.example:5000"]
  capabilities = ["pull"]
  skip_verify = true
  dial_timeout = "1m30s"
  client = [["c.pem", "c.key"], ["both.pem", ""]]
  [host."https://z-mirror.example:5000".header]
    x-token = ["a", "b"]
[host."http://a-mirror.example/proxy/v2"]
  ca = ["/abs.pem", "rel.pem"]
[host."gcr.example/odd"]
  override_path = true
"#;

    #[test]
    fn the_whole_format() {
        let f = parse(FULL, Path::new("/etc/d")).unwrap();
        let urls: Vec<&str> = f.mirrors.iter().map(|m| m.url.as_str()).collect();
        // In the order of the file, not of the alphabet.
        assert_eq!(
            urls,
            [
                "https://z-mirror.example:5000/v2",
                "http://a-mirror.example/proxy/v2",
                "https://gcr.example/odd"
            ]
        );
        let z = &f.mirrors[0];
        assert_eq!(
            z.capabilities,
            Capabilities {
                pull: true,
                resolve: false,
                push: false
            }
        );
        assert_eq!(z.dial_timeout, Some(Duration::from_secs(90)));
        assert_eq!(
            z.client,
            [
                ("/etc/d/c.pem".into(), Some("/etc/d/c.key".into())),
                ("/etc/d/both.pem".into(), None)
            ]
        );
        assert_eq!(z.headers.get_all("x-token").iter().count(), 2);
        assert!(z.skip_verify);
        assert_eq!(
            f.mirrors[1].ca,
            [PathBuf::from("/abs.pem"), "/etc/d/rel.pem".into()]
        );
        let server = f.server.unwrap();
        assert_eq!(server.url, "https://registry-1.docker.io/v2");
        assert_eq!(server.ca, [PathBuf::from("/etc/d/root.pem")]);
    }

    #[test]
    fn mistakes_are_named() {
        let err = |t: &str| parse(t, Path::new("/")).unwrap_err();
        assert!(
            err("server = 3").contains("server"),
            "{}",
            err("server = 3")
        );
        assert!(err("capabilities = [\"pul\"]").contains("\"pul\""));
        assert!(err("server = \"ftp://x\"").contains("ftp://x"));
        assert!(err("dial_timeout = \"5\"").contains("duration"));
        assert!(err("[host.\"https://a b\"]").contains("a b"));
    }

    #[test]
    fn folders_are_tried_in_containerds_order() {
        assert_eq!(folder_names("h:5000"), ["h_5000_", "h:5000", "_default"]);
        assert_eq!(folder_names("docker.io"), ["docker.io", "_default"]);
    }

    #[test]
    fn dockers_layout_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("h:1");
        std::fs::create_dir(&host).unwrap();
        assert!(load(&[dir.path().into()], "h:1").unwrap().is_none());
        std::fs::write(host.join("ca.crt"), "").unwrap();
        std::fs::write(host.join("me.cert"), "").unwrap();
        let f = load(&[dir.path().into()], "h:1").unwrap().unwrap();
        assert_eq!(f.defaults.ca, [host.join("ca.crt")]);
        assert_eq!(
            f.defaults.client,
            [(host.join("me.cert"), Some(host.join("me.key")))]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,100}") {
            let _ = parse(&text, Path::new("/"));
        }

        #[test]
        fn mirrors_keep_their_order(names in proptest::collection::hash_set("[a-z]{1,8}", 0..8)) {
            let names: Vec<String> = names.into_iter().collect();
            let text: String = names.iter().map(|n| format!("[host.\"http://{n}\"]\n")).collect();
            let read = parse(&text, Path::new("/")).unwrap();
            let urls: Vec<String> = read.mirrors.into_iter().map(|m| m.url).collect();
            let want: Vec<String> = names.iter().map(|n| format!("http://{n}/v2")).collect();
            prop_assert_eq!(urls, want);
        }
    }
}
