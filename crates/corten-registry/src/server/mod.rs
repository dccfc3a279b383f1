//! The serving end: repositories in a folder, spoken to in OCI Distribution 1.1.
//!
//! ```text
//!  connection ──► route ──► blobs, uploads, manifests, lists ──► storage (blocking, on its own threads)
//! ```
//!
//! It has no TLS and no accounts: whoever reaches the socket may push. It is meant for loopback, or
//! behind a proxy that has both. Bodies stream; a request holds at most one manifest (4 MiB) in memory.

mod blobs;
mod error;
mod lists;
mod manifests;
mod reply;
mod route;
mod storage;
mod upload;

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use error::ServerError;

use storage::Storage;
use upload::Uploads;

/// How long requests under way may take after a shutdown was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// How long a client may take for a request's head, and between two pieces of its body.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a server keeps what it has, and its bounds.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The folder of blobs, repositories and uploads; made if absent. One server at a time.
    pub root: PathBuf,
    /// May clients delete manifests, tags and blobs?
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
    connections: usize,
    state: Arc<State>,
}

/// What requests share.
struct State {
    storage: Arc<Storage>,
    uploads: Uploads,
    delete: bool,
}

impl Server {
    /// Opens the storage and clears the uploads that a crash left in it. Connections queue from here on.
    pub fn new(listener: TcpListener, config: ServerConfig) -> Result<Self, ServerError> {
        let storage = Arc::new(Storage::open(&config.root)?);
        Ok(Self {
            listener,
            connections: config.connections.max(1),
            state: Arc::new(State {
                uploads: Uploads::new(storage.clone()),
                storage,
                delete: config.delete,
            }),
        })
    }

    pub fn address(&self) -> Result<SocketAddr, ServerError> {
        self.listener.local_addr().map_err(ServerError::Listener)
    }

    /// Serves until `shutdown` resolves, then finishes the requests under way, for at most five
    /// seconds. Needs a tokio runtime with I/O and time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        self.listener
            .set_nonblocking(true)
            .map_err(ServerError::Listener)?;
        let listener =
            tokio::net::TcpListener::from_std(self.listener).map_err(ServerError::Listener)?;
        let slots = Arc::new(Semaphore::new(self.connections));
        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let next = async {
                // The semaphore is never closed, so there is always a slot in the end.
                let slot = slots.clone().acquire_owned().await.ok();
                (slot, listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                // Finished connections must not pile up in the set.
                Some(_) = connections.join_next() => {}
                (slot, accepted) = next => match accepted {
                    Ok((stream, _)) => {
                        let connection = connection(stream, self.state.clone(), stopped.clone());
                        connections.spawn(async move { connection.await; drop(slot); });
                    }
                    Err(error) => {
                        // Out of descriptors, mostly: it passes when connections end.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        // The connections hear of it by the sender's end.
        drop(stop);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            connections.shutdown().await;
        }
        Ok(())
    }
}

async fn connection(stream: TcpStream, state: Arc<State>, mut stopped: watch::Receiver<()>) {
    // Without it small answers would wait for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(route::answer(state, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
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
