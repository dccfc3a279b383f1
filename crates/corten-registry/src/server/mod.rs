//! The serving end: repositories in a folder, spoken to in OCI Distribution 1.1.

mod error;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

pub use error::ServerError;

/// Where a server keeps what it has, and its bounds.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The folder of blobs, repositories and uploads; made if absent. One server at a time.
    pub root: PathBuf,
    /// May clients delete manifests and blobs?
    pub delete: bool,
    /// Connections at once; more wait.
    pub connections: usize,
}

impl ServerConfig {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            delete: true,
            connections: 512,
        }
    }
}

/// A registry that is ready to serve.
pub struct Server {
    listener: TcpListener,
    _config: ServerConfig,
}

impl Server {
    /// Opens the storage (and clears what a crash left in it); connections queue from here on.
    pub fn new(listener: TcpListener, config: ServerConfig) -> Result<Self, ServerError> {
        Ok(Self {
            listener,
            _config: config,
        })
    }

    pub fn address(&self) -> Result<SocketAddr, ServerError> {
        self.listener.local_addr().map_err(ServerError::Listener)
    }

    /// Serves until `shutdown` resolves, then finishes the requests under way (for at most five seconds).
    pub async fn run(self, _shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        unimplemented!("lands with the routes")
    }
}

/// [`Server::new`] and [`Server::run`] in one.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    Server::new(listener, config)?.run(shutdown).await
}
