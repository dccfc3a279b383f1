//! `corten serve`: the one place where what needs a resident is put together.
//!
//! ```text
//!  lock ─► socket (systemd's, or ours) ─► services ─► READY=1 ─► serve ─► SIGTERM ─► no new calls, grace, the socket goes
//! ```
//! It owns nothing that is not on disk or in a supervisor: pods run on without it, and the next one finds them.

pub mod config;
mod lock;
mod metrics;
mod notify;
mod pods;
mod scrape;
mod socket;
pub mod spans;
mod streams;
mod web;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corten_cri::image::Images;
use corten_cri::runtime::{self, Runtime};
use corten_cri::server::{Ended, Observer, Server};
use corten_cri::spec::Host;
use corten_engine::Engine;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use config::Config;
pub use config::ConfigError;
pub use lock::LockError;
use metrics::Calls;
use scrape::Scrape;
use socket::Listening;
pub use socket::SocketError;
pub use spans::EndpointError;
use spans::{Endpoint, Spans};

/// Threads that serve. The work behind a call is done on others, which come and go.
const WORKERS: usize = 2;
/// At once; the rest of the work waits for one. Many calls do nothing but wait: for a container's end, for a registry.
const BLOCKING: usize = 512;
/// How long such a thread waits for more.
const KEEP: Duration = Duration::from_secs(5);
/// Heaps for all threads; more would each keep what its busiest moment took.
const HEAPS: u16 = 2;
/// From the last call, or from readiness, to the moment when what only work needs is given back.
const CALM: Duration = Duration::from_secs(2);
/// The longest that such a moment is waited for.
const BUSY: Duration = Duration::from_secs(60);

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("cannot serve metrics on {address}")]
    Metrics {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error("the streaming server cannot start")]
    Streams(#[from] corten_cri::stream::Error),
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn run(engine: Engine, config: Config) -> Result<(), Error> {
    let endpoint = config
        .otlp_endpoint
        .as_deref()
        .map(Endpoint::parse)
        .transpose()?;
    let _lock = lock::Lock::take(engine.paths())?;
    let listening = Listening::open(&config.socket)?;
    corten_sys::memory::few_heaps(HEAPS);
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(KEEP)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(Error::io("start threads"))?;
    let served = threads.block_on(serve(Arc::new(engine), config, endpoint, &listening));
    // What still works for a caller who is gone has its leases on disk.
    threads.shutdown_timeout(Duration::from_secs(2));
    served
}

async fn serve(
    engine: Arc<Engine>,
    config: Config,
    endpoint: Option<Endpoint>,
    listening: &Listening,
) -> Result<(), Error> {
    // First: a signal from here on is a graceful end.
    let mut signals = Signals::take()?;
    let listener = listening
        .accepting()
        .map_err(Error::io("serve the socket"))?;
    let (calls, calm) = (Arc::new(Calls::new()), Arc::new(Notify::new()));
    let (spans, exported, exporting) = match endpoint.map(Spans::new) {
        Some((spans, exported, work)) => (Some(spans), Some(exported), Some(tokio::spawn(work))),
        None => (None, None, None),
    };
    let images = Arc::new(Images::new(engine.clone(), config.images));
    let host = Host::probe().map_err(Error::io("look at this host"))?;
    let runtime = Arc::new(Runtime::start(engine.clone(), config.pods, host)?);
    let streams = runtime.listen(config.streams).await?;
    let (stop_streams, streams_stopped) = tokio::sync::oneshot::channel::<()>();
    let streaming = tokio::spawn(streams.run(async {
        let _stopped = streams_stopped.await;
    }));
    let observer = Arc::new(Watchers {
        calls: calls.clone(),
        spans,
        calm: calm.clone(),
    });
    let scrape = Arc::new(Scrape {
        calls,
        images: images.clone(),
        runtime: runtime.clone(),
        spans: exported,
    });
    let web = match &config.metrics {
        Some(address) => Some(tokio::spawn(web::serve(
            web::Listener::open(address)?,
            scrape,
        ))),
        None => None,
    };
    let server = Server::new(images, runtime, observer, config.grace);
    announce(&config.socket, listening.is_given());
    tokio::spawn(rest(calm));
    server.run(listener, signals.stop()).await;
    drop(stop_streams);
    let _ended = tokio::time::timeout(config.grace, streaming).await;
    tracing::info!("stopped; pods run on");
    if let Some(web) = web {
        web.abort();
    }
    // The server had the last handle on the queue: what waits in it is sent, if somebody takes it soon.
    if let Some(exporting) = exporting {
        let _sent = tokio::time::timeout(Duration::from_secs(2), exporting).await;
    }
    Ok(())
}

/// Everybody who hears of calls.
struct Watchers {
    calls: Arc<Calls>,
    spans: Option<Spans>,
    calm: Arc<Notify>,
}

impl Observer for Watchers {
    fn began(&self) {
        self.calls.began();
    }

    fn ended(&self, call: &Ended<'_>) {
        self.calls.ended(call);
        if let Some(spans) = &self.spans {
            spans.ended(call);
        }
        self.calm.notify_one();
    }
}

fn announce(socket: &Path, given: bool) {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, socket = %socket.display(), given, "serving");
    if let Err(error) = notify::tell("READY=1\nSTATUS=serving\n") {
        tracing::warn!(%error, "cannot tell systemd that we are ready");
    }
}

/// Gives memory back whenever there was work and none comes for a while, and now and then where it never ends: kubelet asks
/// for something every second. Where nobody asks, it sleeps.
async fn rest(work: Arc<Notify>) {
    loop {
        let latest = Instant::now() + BUSY;
        loop {
            let calm = (Instant::now() + CALM).min(latest);
            let more = tokio::time::timeout_at(calm, work.notified()).await;
            if more.is_err() || Instant::now() >= latest {
                break;
            }
        }
        corten_sys::memory::trim();
        work.notified().await;
    }
}

/// The signals that mean something here.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn take() -> Result<Self, Error> {
        let of = |kind| signal(kind).map_err(Error::io("take signals"));
        Ok(Self {
            term: of(SignalKind::terminate())?,
            int: of(SignalKind::interrupt())?,
            hup: of(SignalKind::hangup())?,
        })
    }

    /// Until SIGTERM or SIGINT. SIGHUP is what a terminal sends when it goes, and what other daemons reload at: settings are
    /// read at the start alone, so that no daemon runs on half of a file, and it is told where.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => break,
                _ = self.int.recv() => break,
                _ = self.hup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: settings are read at the start, and a restart leaves pods running");
                }
            }
        }
        tracing::info!("asked to stop");
        if let Err(error) = notify::tell("STOPPING=1\n") {
            tracing::warn!(%error, "cannot tell systemd that we stop");
        }
    }
}
