//! gRPC over a Unix socket: both services on one listener, by hyper's HTTP/2 alone.
//!
//! ```text
//!  accept ─► one task a connection ─► one a call: route ─► service ─► body, watched until its trailers
//!                                      │  grpc-timeout runs out: DEADLINE_EXCEEDED, and the work is dropped
//!  stop ─► no more connections; GOAWAY on each; endless streams end; calls under way have `grace`; then they are dropped
//! ```
//! Who asked for what, and how it ended, is told to an [`Observer`] once a call.

mod call;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod named;
mod route;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::proto::image_service_server::ImageService;
use crate::proto::runtime_service_server::RuntimeService;

pub use call::{Ended, Observer, Subject, TraceParent};
pub use named::METHODS;
use route::Routes;

/// Of one message, in either direction: what kubelet allows as well.
pub const MESSAGE_MAX: usize = 16 << 20;
/// Calls at once on one connection; more wait with the caller.
const STREAMS_MAX: u32 = 1000;
/// What may be under way to us unread. An account of the protocol's, and no memory until bytes come.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Between two tries to accept where there are no descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Both services, ready to be served.
pub struct Server<I, R> {
    routes: Routes<I, R>,
    grace: Duration,
}

impl<I: ImageService, R: RuntimeService> Server<I, R> {
    /// `grace`: how long calls under way may take once the server is to stop.
    pub fn new(
        images: Arc<I>,
        runtime: Arc<R>,
        observer: Arc<dyn Observer>,
        grace: Duration,
    ) -> Self {
        Self {
            routes: Routes::new(images, runtime, observer),
            grace,
        }
    }

    /// Serves until `stop`, and then as long as calls under way last, within the grace.
    pub async fn run(self, listener: UnixListener, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let routes = self.routes.clone();
                        connections.spawn(connection(stream, routes, stopped.clone()));
                    }
                    Err(error) => rest(&error).await,
                },
            }
        }
        drop(listener);
        stopping.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.grace, all).await.is_err() {
            tracing::warn!(grace = ?self.grace, "calls that did not end are given up");
        }
    }
}

/// A connection that was reset before it was accepted is nothing; no descriptors left is worth a word and a pause.
async fn rest(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(BREATH).await;
    }
}

async fn connection<I: ImageService, R: RuntimeService>(
    stream: UnixStream,
    routes: Routes<I, R>,
    stopped: watch::Receiver<bool>,
) {
    let stop = stopped.clone();
    let service = service_fn(move |request| {
        let (routes, stop) = (routes.clone(), stop.clone());
        async move { routes.answer(request, stop).await }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = call::stopping(stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    // The peer went away in the middle, or spoke no HTTP/2.
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
