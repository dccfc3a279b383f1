//! `serve.toml`: what an administrator sets about `corten serve`. Absent is fine; a word that is not known is an error, since a
//! misspelt setting is a setting that is not applied. What the command line shares (networks, store, runtimes, registries) is
//! in config.toml and certs.d.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use corten_cri::image::ImageSettings;
use corten_spec::{Reference, ReferenceError};
use serde::Deserialize;

use crate::cli::value;

/// The settings, defaults filled in.
#[derive(Debug)]
pub struct Config {
    /// Where kubelet finds us.
    pub socket: PathBuf,
    /// How long calls under way may take once we are told to stop.
    pub grace: Duration,
    pub images: ImageSettings,
    /// Where /metrics, /healthz and /readyz are; nowhere without one.
    pub metrics: Option<Address>,
    /// Where spans of calls go; nowhere without one.
    pub otlp_endpoint: Option<String>,
    pub pods: corten_cri::runtime::Settings,
    pub streams: corten_cri::stream::Settings,
}

/// Where an HTTP server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("configuration {path:?} cannot be used")]
    Syntax {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{key} = {text:?} in {path:?} cannot be used")]
    Value {
        path: PathBuf,
        key: &'static str,
        text: String,
        #[source]
        source: ValueProblem,
    },
}

/// What is wrong with a value.
#[derive(Debug, thiserror::Error)]
pub enum ValueProblem {
    #[error(transparent)]
    Value(#[from] value::ValueError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("an address is HOST:PORT with numbers, such as 127.0.0.1:9464, or unix:/PATH")]
    Address,
    #[error("TLS needs tls-certificate and tls-key, both")]
    Pair,
    #[error("the path of a socket begins with /")]
    Path,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    socket: Option<PathBuf>,
    grace: Option<String>,
    images: FileImages,
    metrics: FileMetrics,
    tracing: FileTracing,
    streaming: super::streams::File,
    cgroup_driver: super::pods::Driver,
    cni: super::pods::FileCni,
    /// Of pods that name no RuntimeClass.
    default_runtime: super::pods::FileHandler,
    /// By the handler's name of a RuntimeClass.
    runtimes: std::collections::BTreeMap<String, super::pods::FileHandler>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct FileImages {
    pinned: Vec<String>,
    pull_timeout: Option<String>,
    /// Containers may go on from checkpoints that registries have.
    restore_checkpoints: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct FileMetrics {
    address: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct FileTracing {
    otlp_endpoint: Option<String>,
}

impl Config {
    /// Reads `path`, or `ETC/serve.toml`, which may be absent. `run`: the engine's run folder, where the socket is by default.
    pub fn load(path: Option<&Path>, etc: &Path, run: &Path) -> Result<Self, ConfigError> {
        let default = etc.join("serve.toml");
        let file = match fs::read_to_string(path.unwrap_or(&default)) {
            Ok(text) => parse(&text, path.unwrap_or(&default))?,
            Err(e) if path.is_none() && e.kind() == io::ErrorKind::NotFound => File::default(),
            Err(source) => {
                let path = path.unwrap_or(&default).to_owned();
                return Err(ConfigError::Read { path, source });
            }
        };
        file.over(path.unwrap_or(&default), run)
    }
}

fn parse(text: &str, path: &Path) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

impl File {
    fn over(self, path: &Path, run: &Path) -> Result<Config, ConfigError> {
        let bad = |key, text: &str, source| ConfigError::Value {
            path: path.to_owned(),
            key,
            text: text.to_owned(),
            source,
        };
        let time = |key, text: Option<&String>| {
            let parsed = text.map(|t| value::duration(t).map_err(|e| bad(key, t, e.into())));
            parsed.transpose()
        };
        let socket = self.socket.unwrap_or_else(|| run.join("corten.sock"));
        if !socket.is_absolute() {
            let text = socket.to_string_lossy();
            return Err(bad("socket", &text, ValueProblem::Path));
        }
        let pinned = self.images.pinned.iter().map(|name| {
            let parsed = name.parse::<Reference>();
            parsed.map_err(|e| bad("images.pinned", name, e.into()))
        });
        let metrics = self.metrics.address.map(|text| {
            let parsed = text.parse();
            parsed.map_err(|e| bad("metrics.address", &text, e))
        });
        let streams = self.streaming.settings();
        let streams = streams.map_err(|(key, text, e)| bad(key, &text, e))?;
        Ok(Config {
            streams,
            socket,
            grace: time("grace", self.grace.as_ref())?.unwrap_or(Duration::from_secs(10)),
            images: ImageSettings {
                pinned: pinned.collect::<Result<_, _>>()?,
                pull_timeout: time("images.pull-timeout", self.images.pull_timeout.as_ref())?,
            },
            metrics: metrics.transpose()?,
            otlp_endpoint: self.tracing.otlp_endpoint,
            pods: super::pods::File {
                cni: self.cni,
                driver: self.cgroup_driver,
                default: self.default_runtime,
                handlers: self.runtimes,
                restore_images: self.images.restore_checkpoints,
            }
            .settings(),
        })
    }
}

impl FromStr for Address {
    type Err = ValueProblem;

    fn from_str(text: &str) -> Result<Self, ValueProblem> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is the same to gRPC's users.
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(ValueProblem::Path),
            };
        }
        let parsed = text.parse().map(Self::Tcp);
        parsed.map_err(|_| ValueProblem::Address)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let path = Path::new("/e/serve.toml");
        parse(text, path)?.over(path, Path::new("/r"))
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = read("").unwrap();
        assert_eq!(config.socket, Path::new("/r/corten.sock"));
        assert!(config.metrics.is_none() && config.otlp_endpoint.is_none());
        assert!(config.images.pinned.is_empty() && config.images.pull_timeout.is_none());
    }

    #[test]
    fn what_is_said_is_taken() {
        let config = read(
            "socket = \"/x/s\"\ngrace = \"1m\"\n[images]\npinned = [\"busybox\"]\npull-timeout = \"5m\"\n\
             [metrics]\naddress = \"unix:///m\"\n[tracing]\notlp-endpoint = \"http://[::1]:4318\"\n",
        )
        .unwrap();
        assert_eq!(config.socket, Path::new("/x/s"));
        assert_eq!(config.grace, Duration::from_secs(60));
        let pinned: Vec<String> = config
            .images
            .pinned
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(pinned, ["docker.io/library/busybox:latest"]);
        assert_eq!(config.images.pull_timeout, Some(Duration::from_secs(300)));
        assert_eq!(config.metrics, Some(Address::Unix("/m".into())));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, named) in [
            ("sockt = \"/x\"", "unknown field `sockt`"),
            ("[image]\n", "unknown field `image`"),
            ("socket = \"x\"", "socket = \"x\""),
            ("grace = \"soon\"", "grace = \"soon\""),
            ("[images]\npinned = [\"A b\"]", "images.pinned = \"A b\""),
            (
                "[streaming]\ntls-certificate = \"/c\"",
                "streaming.tls-certificate = \"/c\"",
            ),
            (
                "[streaming]\ntls-key = \"/k\"\ntls-client-ca = \"/a\"",
                "streaming.tls-key = \"/k\"",
            ),
            (
                "[streaming]\ntls-client-ca = \"/a\"",
                "streaming.tls-client-ca = \"/a\"",
            ),
            (
                "[metrics]\naddress = \"localhost\"",
                "metrics.address = \"localhost\"",
            ),
        ] {
            let error = read(text).unwrap_err();
            let whole = format!("{error} {:?}", std::error::Error::source(&error));
            assert!(whole.contains(named), "{whole}");
        }
    }
}
