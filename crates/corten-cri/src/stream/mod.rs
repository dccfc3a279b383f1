//! The streaming server: what kubelet, crictl and kubectl connect to after Exec, Attach or PortForward gave them a URL.
//!
//! ```text
//!   gRPC: Exec ──▶ Server::exec ──▶ http://host:port/exec/TOKEN ──▶ kubelet
//!                        │ token: one use, one minute
//!   GET or POST that URL ▼                                     ┌─ SPDY/3.1 ─ streams ──┐
//!        http: decide ── upgrade ── session (one connection) ──┤                       ├── remote, forward ──▶ Backend
//!                                                              └─ WebSocket ─ channels ┘
//! ```
//!
//! It owns connections, tokens and protocols. What a container or a pod is, it does not know: that is its [`Backend`]'s. Whoever
//! has a token may use it; there is no other authority but a client certificate, where one is asked for.

mod backend;
mod channel;
mod error;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod http;
mod listen;
mod remote;
mod resize;
mod session;
mod settings;
mod spdy;
mod status;
mod token;
mod upgrade;
mod websocket;

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use self::http::{Refusal, Verb};
use self::remote::Ask;
use self::token::Tokens;

pub use self::backend::{
    Answer, AttachAsk, Backend, Duplex, ExecAsk, Failure, ForwardAsk, Resizes, Size, Streams,
};
pub use self::channel::{Gone, Input, Output};
pub use self::error::{Error, ErrorKind};
pub use self::listen::TlsFiles;
pub use self::settings::Settings;

/// How long a client may take for TLS, for a request's head, and for the upgrade.
const HEAD: Duration = Duration::from_secs(10);
/// The largest head, in bytes.
const HEAD_MAX: usize = 16 << 10;
/// Connections that have not shown a token.
const STRANGERS: usize = 256;
/// How long sessions are waited for when the server ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a token stands for.
#[derive(Debug)]
enum Waiting {
    Remote(Ask),
    Forward(ForwardAsk),
}

/// The server. Copies are one server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    settings: Settings,
    backend: Arc<dyn Backend>,
    tokens: Mutex<Tokens<Waiting>>,
    tls: Option<TlsAcceptor>,
    /// Taken by `run`.
    listeners: Mutex<Vec<TcpListener>>,
    /// What URLs begin with.
    base: String,
}

/// What ends a session from outside, and lets its end be waited for.
#[derive(Clone)]
struct Life {
    stop: watch::Receiver<bool>,
    _alive: mpsc::Sender<Infallible>,
}

impl Life {
    async fn stopped(&mut self) {
        // An error: nobody is left to stop it.
        let _ended = self.stop.wait_for(|stop| *stop).await;
    }
}

impl Server {
    /// Listens. Clients are served once it [runs](Self::run).
    pub async fn bind(settings: Settings, backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let host = settings.check()?;
        let tls = match &settings.tls {
            Some(files) => Some(listen::tls(files).await?),
            None => None,
        };
        let listeners = listen::bind(&settings.addresses).await?;
        let port = listeners.first().and_then(|l| l.local_addr().ok());
        let port = port.map_or(0, |a| a.port());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tokens = Tokens::new(settings.token_ttl, settings.max_tokens);
        Ok(Self(Arc::new(Inner {
            base: format!("{scheme}://{host}:{port}"),
            settings,
            backend,
            tokens: Mutex::new(tokens),
            tls,
            listeners: Mutex::new(listeners),
        })))
    }

    /// A URL under which this command can be run, once.
    pub fn exec(&self, ask: ExecAsk) -> Result<String, Error> {
        if ask.command.is_empty() {
            return Err(Error::Missing { what: "a command" });
        }
        self.remote(Verb::Exec, Ask::Exec(ask))
    }

    /// A URL under which the container's streams can be had, once.
    pub fn attach(&self, ask: AttachAsk) -> Result<String, Error> {
        self.remote(Verb::Attach, Ask::Attach(ask))
    }

    /// A URL under which the pod's ports can be had, over one connection.
    pub fn port_forward(&self, ask: ForwardAsk) -> Result<String, Error> {
        if ask.pod.is_empty() {
            let what = "the id of a pod";
            return Err(Error::Missing { what });
        }
        upgrade::check_ports(&ask.ports)?;
        self.put(Verb::PortForward, Waiting::Forward(ask))
    }

    fn remote(&self, verb: Verb, ask: Ask) -> Result<String, Error> {
        let (Ask::Exec(ExecAsk { container, .. }) | Ask::Attach(AttachAsk { container, .. })) =
            &ask;
        if container.is_empty() {
            let what = "the id of a container";
            return Err(Error::Missing { what });
        }
        let wanted = ask.wanted();
        if wanted.tty && wanted.stderr {
            return Err(Error::TtyStderr);
        }
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(Error::NoStream);
        }
        self.put(verb, Waiting::Remote(ask))
    }

    fn put(&self, verb: Verb, waiting: Waiting) -> Result<String, Error> {
        let token = self.tokens().put(waiting, Instant::now())?;
        Ok(format!("{}/{}/{token}", self.0.base, verb.path()))
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens<Waiting>> {
        let tokens = self.0.tokens.lock();
        tokens.unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until `shutdown`, and then ends all sessions.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let listeners = self.0.listeners.lock();
        let listeners = std::mem::take(&mut *listeners.unwrap_or_else(PoisonError::into_inner));
        let (stop, stopped) = watch::channel(false);
        let (alive, mut all_ended) = mpsc::channel(1);
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        for listener in listeners {
            let life = Life {
                stop: stopped.clone(),
                _alive: alive.clone(),
            };
            tokio::spawn(self.clone().accept(listener, strangers.clone(), life));
        }
        drop(alive);
        shutdown.await;
        let _nobody_listens = stop.send(true);
        let _late = timeout(FAREWELL, all_ended.recv()).await;
    }

    async fn accept(self, listener: TcpListener, strangers: Arc<Semaphore>, mut life: Life) {
        loop {
            let next = async {
                let stranger = strangers.clone().acquire_owned().await;
                (listener.accept().await, stranger)
            };
            let (accepted, stranger) = tokio::select! {
                next = next => next,
                () = life.stopped() => return,
            };
            match accepted {
                Ok((socket, _)) => {
                    let (server, life) = (self.clone(), life.clone());
                    tokio::spawn(async move {
                        server.connection(socket, life).await;
                        drop(stranger);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a streaming client is not accepted");
                    // No descriptor is free, perhaps; trying at once would be a busy loop.
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, socket: TcpStream, mut life: Life) {
        let _without = listen::prepare(&socket);
        let Some(tls) = &self.0.tls else {
            return self.requests(socket, life).await;
        };
        let accepted = tokio::select! {
            accepted = timeout(HEAD, tls.accept(socket)) => accepted,
            () = life.stopped() => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.requests(stream, life).await,
            Ok(Err(error)) => tracing::debug!(%error, "a streaming client has failed at TLS"),
            Err(_) => {}
        }
    }

    async fn requests(&self, io: impl Duplex + 'static, mut life: Life) {
        let sessions = life.clone();
        let service = service_fn(|request| {
            let answer = self.answer(request, &sessions);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        tokio::select! {
            served = connection => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a streaming client's request has failed");
                }
            }
            () = life.stopped() => {}
        }
    }

    fn answer(&self, mut request: Request<Incoming>, life: &Life) -> Response<Full<Bytes>> {
        match self.decide(&request) {
            Ok((session, answer)) => {
                let on = hyper::upgrade::on(&mut request);
                let mut life = life.clone();
                tokio::spawn(async move {
                    if let Ok(Ok(upgraded)) = timeout(HEAD, on).await {
                        tokio::select! {
                            () = session.run(TokioIo::new(upgraded)) => {}
                            () = life.stopped() => {}
                        }
                    }
                });
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = answer;
                response
            }
            Err(refusal) => {
                tracing::debug!(status = %refusal.status, why = refusal.why, "a streaming request is refused");
                refusal.response()
            }
        }
    }

    fn decide<B>(
        &self,
        request: &Request<B>,
    ) -> Result<(upgrade::Session, ::http::HeaderMap), Refusal> {
        let (verb, token) = http::route(request.method(), request.uri().path())?;
        let waiting = self.tokens().take(token, Instant::now());
        let waiting = waiting.ok_or_else(Refusal::not_found)?;
        let fits = match &waiting {
            Waiting::Remote(Ask::Exec(_)) => verb == Verb::Exec,
            Waiting::Remote(Ask::Attach(_)) => verb == Verb::Attach,
            Waiting::Forward(_) => verb == Verb::PortForward,
        };
        if !fits {
            return Err(Refusal::not_found());
        }
        upgrade::Session::decide(request, waiting, &self.0.settings, self.0.backend.clone())
    }
}
