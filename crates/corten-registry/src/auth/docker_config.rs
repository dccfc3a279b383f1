//! Docker's `config.json`: `auths`, `credHelpers` and `credsStore`, and the helpers that the
//! latter two name (`docker-credential-NAME get`, docker-credential-helpers' protocol).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::{Credentials, Secret};

/// The largest file, and helper answer, that is read.
pub const CONFIG_MAX: u64 = 1 << 20;
/// How long a helper may take: some open a keyring and ask the user.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// What Docker Hub is called in this file.
const HUB: &str = "https://index.docker.io/v1/";

/// The file, as far as it concerns us.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(***)")
    }
}

/// A program to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    pub program: String,
    /// What it knows the registry by.
    pub server: String,
}

/// Why a file or helper is of no use. The text holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Reason(pub String);

impl DockerConfig {
    pub fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        // serde's message may quote the offending value: only its place is passed on.
        serde_json::from_slice(bytes).map_err(|e| {
            Reason(format!(
                "not the JSON of a Docker configuration (line {}, column {})",
                e.line(),
                e.column()
            ))
        })
    }

    /// The helper to ask about a registry host, if one is set.
    pub fn helper(&self, host: &str) -> Result<Option<Helper>, Reason> {
        let by_host = self.cred_helpers.iter().find(|(k, _)| names(k, host));
        let name = by_host.map_or(self.creds_store.as_str(), |(_, v)| v);
        if name.is_empty() {
            return Ok(None);
        }
        // The name becomes part of a program's: it must not become a path.
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !name.bytes().all(safe) {
            return Err(Reason(format!(
                "{name:?} cannot be the name of a credential helper"
            )));
        }
        let server = if is_hub(host) { HUB } else { host };
        Ok(Some(Helper {
            program: format!("docker-credential-{name}"),
            server: server.to_owned(),
        }))
    }

    /// What `auths` holds for a registry host.
    pub fn stored(&self, host: &str) -> Result<Option<Credentials>, Reason> {
        let exact = self.auths.get(host);
        let entry = exact.or_else(|| {
            self.auths
                .iter()
                .find(|(k, _)| names(k, host))
                .map(|(_, v)| v)
        });
        entry.map_or(Ok(None), |e| {
            e.credentials()
                .map_err(|why| Reason(format!("the entry for {host} {why}")))
        })
    }
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(Secret::new(
                &*self.identitytoken,
            ))));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Registry(Secret::new(
                &*self.registrytoken,
            ))));
        }
        if !self.username.is_empty() {
            return Ok(Some(Credentials::password(
                &*self.username,
                &*self.password,
            )));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(self.auth.trim())
            .map_err(|_| "has an auth that is no base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "has an auth that is no UTF-8")?;
        let (user, password) = decoded
            .split_once(':')
            .ok_or("has an auth without a colon")?;
        // Old Docker versions padded the password with zero bytes.
        Ok(Some(Credentials::password(
            user,
            password.trim_matches('\0'),
        )))
    }
}

/// Docker Hub has three names.
pub fn is_hub(host: &str) -> bool {
    matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    )
}

/// Does a key of the file mean this host? Keys may be hosts or, from older Docker, URLs.
fn names(key: &str, host: &str) -> bool {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let bare = bare.unwrap_or(key);
    let bare = ["/v1/", "/v2/", "/v1", "/v2", "/"]
        .iter()
        .find_map(|s| bare.strip_suffix(s))
        .unwrap_or(bare);
    bare == host || (is_hub(bare) && is_hub(host))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Helper {
    /// Runs the helper (blocking). `None`: it knows nothing of the registry.
    pub fn get(&self) -> Result<Option<Credentials>, Reason> {
        let mut child = Command::new(&self.program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Reason(format!("cannot run it: {e}")))?;
        let answered = self.converse(&mut child);
        if answered.is_err() {
            // It may have gone by itself; the wait below reaps it either way.
            let _ = child.kill();
        }
        let status = child
            .wait()
            .map_err(|e| Reason(format!("cannot wait for it: {e}")))?;
        let answer = answered?;
        if !status.success() {
            let text = String::from_utf8_lossy(&answer);
            return match text.contains("credentials not found") {
                true => Ok(None),
                false => Err(Reason(format!("it ended with {status}"))),
            };
        }
        let answer: HelperAnswer = serde_json::from_slice(&answer)
            .map_err(|_| Reason("it printed no credentials".into()))?;
        Ok(Some(match answer.username.as_str() {
            "<token>" => Credentials::Identity(Secret::new(answer.secret)),
            user => Credentials::password(user, answer.secret),
        }))
    }

    fn converse(&self, child: &mut Child) -> Result<Vec<u8>, Reason> {
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Reason("it has no standard input or output".into()));
        };
        // A helper that ends without reading gives EPIPE here; its answer tells more.
        let _ = writeln!(stdin, "{}", self.server);
        drop(stdin);
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || {
            let mut out = Vec::new();
            let read = stdout.take(CONFIG_MAX).read_to_end(&mut out);
            let _ = tx.send(read.map(|_| out));
        });
        match rx.recv_timeout(HELPER_TIMEOUT) {
            Ok(Ok(out)) => Ok(out),
            Ok(Err(e)) => Err(Reason(format!("cannot read what it prints: {e}"))),
            Err(_) => Err(Reason(format!(
                "it did not answer within {HELPER_TIMEOUT:?}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        DockerConfig::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn auths_by_host_and_by_url() {
        let c = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cHc="},"127.0.0.1:5000":{"auth":"dTpwOnE="},
                "https://ghcr.io":{"identitytoken":"idt"},"empty":{}}}"#,
        );
        assert_eq!(
            c.stored("docker.io").unwrap(),
            Some(Credentials::password("me", "pw"))
        );
        assert_eq!(
            c.stored("127.0.0.1:5000").unwrap(),
            Some(Credentials::password("u", "p:q"))
        );
        assert_eq!(
            c.stored("ghcr.io").unwrap(),
            Some(Credentials::Identity(Secret::new("idt")))
        );
        assert_eq!(c.stored("empty").unwrap(), None);
        assert_eq!(c.stored("127.0.0.1").unwrap(), None);
    }

    #[test]
    fn helpers_by_host_then_for_all() {
        let c = config(r#"{"credsStore":"pass","credHelpers":{"gcr.io":"gcloud"}}"#);
        let helper = |h| c.helper(h).unwrap().unwrap();
        assert_eq!(helper("gcr.io").program, "docker-credential-gcloud");
        let hub = Helper {
            program: "docker-credential-pass".into(),
            server: HUB.into(),
        };
        assert_eq!(helper("docker.io"), hub);
        let bad = config(r#"{"credsStore":"../../tmp/x"}"#);
        assert!(bad.helper("a.b").is_err());
    }

    /// A helper that is a shell script.
    fn script(dir: &std::path::Path, text: &str) -> Helper {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        Helper {
            program: path.to_str().unwrap().into(),
            server: "a.b".into(),
        }
    }

    #[test]
    fn a_helper_is_asked_by_its_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let get = |text: &str| script(dir.path(), text).get();
        let echo =
            r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"$1-$s\",\"Secret\":\"pw\"}""#;
        let found = get(echo).unwrap();
        assert_eq!(found, Some(Credentials::password("get-a.b", "pw")));
        let found = get(r#"echo '{"Username":"<token>","Secret":"idt"}'"#).unwrap();
        assert_eq!(found, Some(Credentials::Identity(Secret::new("idt"))));
        let absent = "echo credentials not found in native keychain; exit 1";
        assert_eq!(get(absent).unwrap(), None);
        let err = get("echo hunter2; exit 3").unwrap_err().to_string();
        assert!(err.contains('3') && !err.contains("hunter2"), "{err}");
        let err = get("echo hunter2").unwrap_err().to_string();
        assert!(!err.contains("hunter2"), "{err}");
    }

    #[test]
    fn errors_show_no_secret() {
        let err = DockerConfig::parse(br#"{"auths":{"a":{"auth":{"hunter2":1}}}}"#).unwrap_err();
        assert!(!err.to_string().contains("hunter2"), "{err}");
        let c = config(r#"{"auths":{"a.b":{"auth":"%%hunter2"}}}"#);
        let err = c.stored("a.b").unwrap_err();
        assert!(!err.to_string().contains("hunter2"), "{err}");
        assert!(!format!("{c:?}").contains("hunter2"));
    }
}
