//! `corten serve`: Kubernetes' node runtime.

use std::path::PathBuf;

use super::Global;
use crate::failure::Failure;
use crate::serve::config::{Address, Config};
use crate::serve::{self, ConfigError, EndpointError, Error, LockError, SocketError};

/// Serve Kubernetes: the Container Runtime Interface on a Unix socket
///
/// Kubelet finds it by its setting containerRuntimeEndpoint, crictl by --runtime-endpoint. It runs until SIGTERM or SIGINT; pods run on
/// without it, and are found again. Started by systemd with a socket unit, it serves that socket.
///
/// Settings come from serve.toml in the folder --etc, or from --config; the flags here go before them. Networks, the store, runtimes and
/// registries are set in config.toml and certs.d, as for every other command.
#[derive(clap::Args)]
pub struct Args {
    /// Settings, in place of serve.toml in the folder --etc
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where kubelet connects, in place of corten.sock in the folder --run
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    metrics_address: Option<Address>,
    /// Collector that gets a span of each call, by OTLP over HTTP, such as http://127.0.0.1:4318
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Form of what is logged on stderr
    #[arg(long, value_name = "FORM", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
}

fn address(text: &str) -> Result<Address, serve::config::ValueProblem> {
    text.parse()
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    global.serve_log(args.log_format == "json");
    let paths = global.paths()?;
    let loaded = Config::load(args.config.as_deref(), paths.etc(), paths.run());
    let mut config = loaded.map_err(|e| failed(e.into()))?;
    if let Some(socket) = args.socket {
        config.socket = std::path::absolute(socket)?;
    }
    config.metrics = args.metrics_address.or(config.metrics);
    config.otlp_endpoint = args.otlp_endpoint.or(config.otlp_endpoint);
    let engine = global.engine()?;
    serve::run(engine, config).map_err(failed)
}

/// What to do about it.
pub(super) fn failed(error: Error) -> Failure {
    let hint = match &error {
        Error::Config(ConfigError::Read { path, .. }) => {
            format!("check that {} is right", path.display())
        }
        Error::Config(ConfigError::Syntax { path, .. } | ConfigError::Value { path, .. }) => {
            format!(
                "correct {}; docs/kubernetes.md has every setting",
                path.display()
            )
        }
        Error::Lock(LockError::Held { pid, .. }) => {
            format!(
                "stop it first (kill {pid}), or give this one other folders with --root and --run"
            )
        }
        Error::Lock(LockError::Io { .. }) => "check that the folders can be written to".into(),
        Error::Socket(SocketError::Taken { .. }) => {
            "stop who listens there ('ss -lxp' tells), or name another with --socket".into()
        }
        Error::Socket(SocketError::NoSocket { path }) => {
            format!("remove {}, or name another with --socket", path.display())
        }
        Error::Socket(SocketError::NoFolder { path }) => {
            let folder = path.parent().unwrap_or(path);
            format!("make {}, or name another with --socket", folder.display())
        }
        Error::Socket(SocketError::Folder { path }) => {
            format!(
                "name a file in it, such as {}",
                path.join("corten.sock").display()
            )
        }
        Error::Socket(SocketError::Long { .. } | SocketError::Listen { .. }) => {
            "name another with --socket".into()
        }
        Error::Socket(SocketError::Count { .. } | SocketError::Given { .. }) => {
            "the socket unit has one ListenStream=, with the path of a Unix socket".into()
        }
        Error::Endpoint(EndpointError::Scheme { .. } | EndpointError::Url { .. }) => {
            "name a collector on this host or a trusted network, such as http://127.0.0.1:4318"
                .into()
        }
        Error::Metrics { .. } => "name another with --metrics-address".into(),
        Error::Runtime(_) => {
            "'corten system check --repair' looks for what is left and mends it".into()
        }
        Error::Streams(_) => "set [streaming] in serve.toml otherwise".into(),
        Error::Io { .. } => "try again; 'corten system info' tells what this host is".into(),
    };
    Failure::hinted(error, hint)
}
