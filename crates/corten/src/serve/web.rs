//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, for whoever watches this node.
//!
//! It answers GET and HEAD, holds few connections, and waits for nobody for long: it has no part in what runs.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corten_cri::proto::runtime_service_server::RuntimeService;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::config::Address;
use super::scrape::Scrape;
use super::socket::Listening;

/// Connections at once; more wait.
const CONNECTIONS: usize = 32;
/// From the connection to the end of a request's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// One connection, all its requests.
const LIFE: Duration = Duration::from_secs(300);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A listener of either kind.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Needs a runtime around it.
    pub fn open(address: &Address) -> Result<Self, super::Error> {
        match address {
            Address::Tcp(at) => {
                let bound = std::net::TcpListener::bind(at).and_then(|l| {
                    l.set_nonblocking(true)?;
                    TcpListener::from_std(l)
                });
                bound
                    .map(Self::Tcp)
                    .map_err(|source| super::Error::Metrics {
                        address: address.to_string(),
                        source,
                    })
            }
            Address::Unix(path) => {
                let listening = Listening::bind(path)?;
                super::nonblocking(listening.listener).map(Self::Unix)
            }
        }
    }
}

/// Serves until it is dropped.
pub async fn serve<R: RuntimeService>(listener: Listener, scrape: Arc<Scrape<R>>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let slot = slots.clone().acquire_owned().await;
        let scrape = scrape.clone();
        let accepted = match &listener {
            Listener::Tcp(l) => l.accept().await.map(|(s, _)| {
                spawn(s, scrape, slot);
            }),
            Listener::Unix(l) => l.accept().await.map(|(s, _)| {
                spawn(s, scrape, slot);
            }),
        };
        if let Err(error) = accepted {
            rest(&error).await;
        }
    }
}

async fn rest(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection for metrics");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn spawn<R: RuntimeService, T>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    scrape: Arc<Scrape<R>>,
    slot: T,
) where
    T: Send + 'static,
{
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(request, scrape.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service);
        // Whoever speaks no HTTP, or goes away in the middle, is nobody's concern.
        let _ended = tokio::time::timeout(LIFE, connection).await;
        drop(slot);
    });
}

async fn answer<R: RuntimeService>(
    request: Request<Incoming>,
    scrape: Arc<Scrape<R>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".into());
        let allow = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allow);
        return Ok(refused);
    }
    Ok(match request.uri().path() {
        "/metrics" => {
            let mut page = plain(StatusCode::OK, scrape.metrics().await);
            page.headers_mut().insert(CONTENT_TYPE, METRICS);
            page
        }
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => match scrape.ready().await {
            Ok(()) => plain(StatusCode::OK, "ok\n".into()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => plain(
            StatusCode::NOT_FOUND,
            "/metrics, /healthz, /readyz\n".into(),
        ),
    })
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
