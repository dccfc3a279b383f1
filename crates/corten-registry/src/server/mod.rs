//! The serving end: repositories in a folder, spoken to in OCI Distribution 1.1.
//!
//! ```text
//!  connection ──► route ──► blobs, uploads, manifests, lists ──► storage (blocking, on its own threads)
//! ```
//!
//! Without accounts whoever reaches the socket may push; with them, and beyond loopback, it insists on TLS. It may also
//! be a cache of another registry. Bodies stream; a request holds at most one manifest (4 MiB) in memory.

mod accounts;
mod blobs;
mod cache;
mod collect;
mod error;
mod lists;
mod manifests;
mod patient;
mod reply;
mod route;
mod storage;
mod tls;
mod upload;
mod watched;

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use cache::CacheConfig;
pub use collect::{CollectOptions, Collected, collect};
pub use error::ServerError;
pub use tls::TlsFiles;

use accounts::Accounts;
use cache::Cache;
use patient::Patient;
use storage::Storage;
use tls::Tls;
use upload::Uploads;

/// How long requests under way may take after a shutdown was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// How long a client may take for a request's head, and between two pieces of its body.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often uploads are looked through for what nobody goes on with.
const GIVING_UP: Duration = Duration::from_secs(3600);
/// How long a client may take for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where a server keeps what it has, and its bounds.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The folder of blobs, repositories and uploads; made if absent. One server at a time.
    pub root: PathBuf,
    /// May clients delete manifests, tags and blobs?
    pub delete: bool,
    /// Connections at once; more wait.
    pub connections: usize,
    /// Nothing may be pushed or deleted.
    pub read_only: bool,
    pub tls: Option<TlsFiles>,
    /// Users and their bcrypt hashes, as `htpasswd -B` writes them; without the file everybody may do everything.
    pub htpasswd: Option<PathBuf>,
    /// Accounts beyond loopback without TLS, for where something else does that.
    pub insecure_plain_http: bool,
    /// Be a cache of another registry.
    pub cache: Option<CacheConfig>,
    /// Collect garbage so often, beginning that long after the start.
    pub collect: Option<(Duration, CollectOptions)>,
}

impl ServerConfig {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            delete: true,
            connections: 512,
            read_only: false,
            tls: None,
            htpasswd: None,
            insecure_plain_http: false,
            cache: None,
            collect: None,
        }
    }
}

/// A registry that is ready to serve.
pub struct Server {
    listener: TcpListener,
    connections: usize,
    tls: Option<Arc<Tls>>,
    collect: Option<(Duration, CollectOptions)>,
    state: Arc<State>,
}

/// What requests share.
struct State {
    storage: Arc<Storage>,
    uploads: Uploads,
    accounts: Option<Arc<Accounts>>,
    cache: Option<Arc<Cache>>,
    delete: bool,
    read_only: bool,
}

impl Server {
    /// Opens the storage and clears what a crash left in it. Connections queue from here on.
    pub fn new(listener: TcpListener, config: ServerConfig) -> Result<Self, ServerError> {
        let address = listener.local_addr().map_err(ServerError::Listener)?;
        let in_the_clear = config.htpasswd.is_some() && config.tls.is_none();
        if in_the_clear && !address.ip().is_loopback() && !config.insecure_plain_http {
            return Err(ServerError::Exposed { address });
        }
        let tls = config.tls.as_ref().map(Tls::open).transpose()?;
        let accounts = config.htpasswd.map(Accounts::open).transpose()?;
        let upstream = config.cache.as_ref().map(|c| cache::registry(&c.upstream));
        let upstream = upstream.transpose()?;
        // Nothing is made before all else is known to be in order.
        let storage = Arc::new(Storage::open(&config.root)?);
        collect::sweep_uploads(&storage, upload::GIVEN_UP_AFTER, false)?;
        let cache = config.cache.zip(upstream);
        let cache = cache.map(|(c, upstream)| Cache::new(c, upstream, storage.clone()));
        Ok(Self {
            listener,
            connections: config.connections.max(1),
            tls: tls.map(Arc::new),
            collect: config.collect,
            state: Arc::new(State {
                uploads: Uploads::new(storage.clone()),
                accounts: accounts.map(Arc::new),
                cache: cache.map(Arc::new),
                storage,
                delete: config.delete,
                read_only: config.read_only,
            }),
        })
    }

    pub fn address(&self) -> Result<SocketAddr, ServerError> {
        self.listener.local_addr().map_err(ServerError::Listener)
    }

    /// What is done beside the requests; it ends with its owner.
    fn chores(&self) -> JoinSet<()> {
        let mut chores = JoinSet::new();
        chores.spawn(give_up_always(self.state.clone()));
        if let Some((every, options)) = self.collect {
            chores.spawn(collect_always(self.state.storage.clone(), every, options));
        }
        if let Some(cache) = self.state.cache.clone() {
            chores.spawn(cache.make_room_always());
        }
        chores
    }

    /// Serves until `shutdown` resolves, then finishes the requests under way, for at most five
    /// seconds. Needs a tokio runtime with I/O and time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let _chores = self.chores();
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
                        let (state, tls) = (self.state.clone(), self.tls.clone());
                        let connection = connection(stream, tls, state, stopped.clone());
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

/// One client, through TLS if we have it.
async fn connection(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    state: Arc<State>,
    stopped: watch::Receiver<()>,
) {
    // Without it small answers would wait for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let Some(tls) = tls else {
        return requests(stream, state, stopped).await;
    };
    match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, state, stopped).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS connection with a client"),
        Err(_) => tracing::debug!("a client did not complete its TLS handshake"),
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    state: Arc<State>,
    mut stopped: watch::Receiver<()>,
) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(route::answer(state, request).await) }
    });
    let stream = TokioIo::new(Patient::new(stream, PATIENCE));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(stream, service);
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

/// Lets go of uploads that nobody touches, for ever.
async fn give_up_always(state: Arc<State>) {
    loop {
        tokio::time::sleep(GIVING_UP).await;
        state.uploads.shelve();
        let storage = state.storage.clone();
        let sweep = move || collect::sweep_uploads(&storage, upload::GIVEN_UP_AFTER, false);
        if let Err(error) = reply::blocking(sweep).await {
            tracing::error!(%error, "cannot clear uploads");
        }
    }
}

/// Collects for ever, beside the requests.
async fn collect_always(storage: Arc<Storage>, every: Duration, options: CollectOptions) {
    loop {
        tokio::time::sleep(every).await;
        let storage = storage.clone();
        match reply::blocking(move || collect::collect_in(&storage, &options)).await {
            Ok(done) if done == Collected::default() => {}
            Ok(done) => {
                let Collected {
                    manifests,
                    blobs,
                    uploads,
                    bytes,
                } = done;
                tracing::info!(manifests, blobs, uploads, bytes, "collected garbage");
            }
            Err(error) => tracing::error!(%error, "cannot collect garbage"),
        }
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

/// Reads text as a file of accounts: see `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_users(text: &str) {
    if let Err(bad) = accounts::Users::parse(text) {
        assert!(bad.line >= 1 && bad.line <= text.lines().count());
    }
}
