//! What a client is told from outside. Files are named here and read when a host is first
//! asked, so that a command that downloads nothing pays for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::proxy::ProxySettings;
use crate::auth::Credentials;

/// How a [`Client`](super::Client) finds and treats registries.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Folders of `HOST/hosts.toml`, in containerd's format; the first with an entry for a host decides.
    pub certs_dirs: Vec<PathBuf>,
    /// Docker's `config.json`, for `auths`, `credHelpers` and `credsStore`. It may be absent.
    pub docker_config: Option<PathBuf>,
    /// Credentials by registry host (`127.0.0.1:5000`); these come before any file.
    pub credentials: BTreeMap<String, Credentials>,
    /// Registry hosts that are spoken to in plain HTTP, without TLS being tried.
    pub plain_http: BTreeSet<String>,
    pub proxy: ProxySettings,
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub parallel: Parallel,
    /// Bytes in one request of an upload. `None`: all of a blob in one, which is what registries know best; those
    /// that refuse it as too large get it in chunks all the same.
    pub upload_chunk: Option<u64>,
    pub user_agent: String,
}

/// Bounds on waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one TCP connection, and again for TLS on it.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub answer: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// The slowest that a body may come, in bytes a second, over each `idle` of waiting for it. Zero bears anything.
    pub floor: u64,
}

/// How one large blob is fetched by several requests at once, each for a part of it. A connection's speed is often
/// bounded by its round trips, or by the server; a few of them beside each other are not.
#[derive(Clone, Copy, Debug)]
pub struct Parallel {
    /// Requests at once; with one, blobs come in a single stream.
    pub requests: usize,
    /// What must still be missing of a blob for it to be worth while, in bytes.
    pub from: u64,
    /// The bytes of one request.
    pub part: u64,
    /// What may wait in memory for its turn, in bytes: one blob's, shared by its requests.
    pub in_flight: u64,
}

impl Default for Parallel {
    fn default() -> Self {
        Self {
            requests: 4,
            from: 32 << 20,
            part: 4 << 20,
            in_flight: 4 << 20,
        }
    }
}

/// How failures that may pass (429, 5xx, cut connections) are tried again: after
/// `base`·2ⁿ with jitter, at most `max`, or what the registry names in `Retry-After`.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries in a row without progress, the first one included.
    pub tries: u32,
    pub base: Duration,
    pub max: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            floor: 1024,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 5,
            base: Duration::from_millis(200),
            max: Duration::from_secs(10),
        }
    }
}

impl Default for ClientConfig {
    /// Nothing from outside: no files, no credentials, no proxy.
    fn default() -> Self {
        Self {
            certs_dirs: Vec::new(),
            docker_config: None,
            credentials: BTreeMap::new(),
            plain_http: BTreeSet::new(),
            proxy: ProxySettings::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            parallel: Parallel::default(),
            upload_chunk: None,
            user_agent: concat!("corten/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

impl ClientConfig {
    /// The host's settings: `ETC/certs.d`, Docker's `config.json` (`$DOCKER_CONFIG`, else
    /// `~/.docker`), and the proxy variables of the environment. Reads no file yet.
    pub fn load(etc: &Path) -> Self {
        let docker = std::env::var_os("DOCKER_CONFIG").filter(|v| !v.is_empty());
        let docker = docker.map(PathBuf::from).or_else(|| {
            let home = std::env::var_os("HOME").filter(|v| !v.is_empty())?;
            Some(PathBuf::from(home).join(".docker"))
        });
        Self {
            certs_dirs: vec![etc.join("certs.d")],
            docker_config: docker.map(|d| d.join("config.json")),
            proxy: ProxySettings::from_env(),
            ..Self::default()
        }
    }
}
