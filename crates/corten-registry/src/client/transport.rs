//! One request, one answer, over pooled HTTP/1.1 connections. Knows nothing of registries.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::connect::{Origin, connect};
use super::outgoing::{Content, Outgoing};
use super::place::Place;
use super::proxy::{Proxy, ProxySettings};
use super::tls::TlsProfile;
use super::{Error, Timeouts};

/// Registries close idle connections after a minute or more; one that we let go costs a handshake.
const IDLE_MAX: Duration = Duration::from_secs(50);
/// Idle connections kept for one origin.
const IDLE_PER_ORIGIN: usize = 8;

/// What a connection reads ahead, and the largest head of an answer. A piece of a body keeps the whole of its buffer.
const BUFFER_MAX: usize = 128 << 10;

/// A connection: where requests go, and the task that moves its bytes. It ends with its owner, and with it the reading of
/// what it was still to send.
struct Wire {
    sender: SendRequest<Outgoing>,
    task: AbortHandle,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The pool, and how connections are made.
pub(super) struct Transport {
    idle: Mutex<HashMap<Origin, Vec<(Wire, Instant)>>>,
    timeouts: Timeouts,
    proxy: ProxySettings,
}

/// A request that can be sent again.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub method: Method,
    pub place: Place,
    pub headers: HeaderMap,
    pub body: Content,
}

/// The head of an answer, and its body still on the wire. Read to its end, the connection goes
/// back to the pool; dropped before, it is closed.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub place: Place,
    body: Incoming,
    wire: Option<Wire>,
    /// Answered before all of the request was sent: no other request can follow.
    early: bool,
    origin: Origin,
    transport: Arc<Transport>,
    received: u64,
    pace: Pace,
}

/// How fast a body comes, by the time that we wait for it; what its consumer takes is not counted.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The rate in bytes a second, once a window's worth of waiting is over and it lies below the floor.
    fn below(&mut self, waited: Duration, bytes: usize, timeouts: &Timeouts) -> Option<u64> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < timeouts.idle {
            return None;
        }
        let rate = (self.bytes as f64 / self.waited.as_secs_f64().max(0.001)) as u64;
        *self = Self::default();
        (rate < timeouts.floor).then_some(rate)
    }
}

impl Transport {
    pub fn new(timeouts: Timeouts, proxy: ProxySettings) -> Self {
        Self {
            idle: Mutex::new(HashMap::new()),
            timeouts,
            proxy,
        }
    }

    /// Sends `message` on a pooled connection, or a new one where there is none or it had gone stale.
    pub async fn send(
        self: &Arc<Self>,
        message: &Message,
        tls: &Arc<TlsProfile>,
        dial: Option<Duration>,
    ) -> Result<Answer, Error> {
        let origin = Origin::of(&message.place, tls);
        let proxy = self.proxy.on_the_way(&message.place)?;
        let request = |p: Option<&Proxy>| prepare(message, p);
        while let Some(mut wire) = self.take(&origin) {
            if wire.sender.ready().await.is_err() {
                continue;
            }
            match self
                .exchange(wire, request(proxy.as_ref())?, &origin, message)
                .await
            {
                // The registry closed it while it lay idle: says nothing about the registry's health.
                Err(Error::Cut {
                    source: Some(e), ..
                }) if stale(&e, &message.method) => {}
                other => return other,
            }
        }
        let limit = dial.unwrap_or(self.timeouts.connect);
        let stream = connect(&message.place, proxy.as_ref(), tls, limit).await?;
        let handshake = http1::Builder::new()
            .max_buf_size(BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|e| cut(&message.place, e))?;
        // The connection's failure surfaces in the request that uses it.
        let task = tokio::spawn(connection).abort_handle();
        let wire = Wire { sender, task };
        self.exchange(wire, request(proxy.as_ref())?, &origin, message)
            .await
    }

    async fn exchange(
        self: &Arc<Self>,
        mut wire: Wire,
        request: Request<Outgoing>,
        origin: &Origin,
        message: &Message,
    ) -> Result<Answer, Error> {
        let sending = std::pin::pin!(wire.sender.send_request(request));
        let response = self.answered(sending, message).await?;
        let (head, body) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            place: message.place.clone(),
            body,
            wire: Some(wire),
            early: message.body.is_unsent(),
            origin: origin.clone(),
            transport: self.clone(),
            received: 0,
            pace: Pace::default(),
        })
    }

    /// Waits for the head of the answer. A body that is still being taken is patience's reason to begin anew.
    async fn answered(
        &self,
        mut sending: Pin<&mut impl Future<Output = hyper::Result<http::Response<Incoming>>>>,
        message: &Message,
    ) -> Result<http::Response<Incoming>, Error> {
        let after = self.timeouts.answer;
        let host = || message.place.authority();
        loop {
            let before = message.body.sent();
            match timeout(after, sending.as_mut()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(e)) if e.is_parse() || e.is_parse_too_large() => {
                    return Err(Error::NotARegistry {
                        host: host(),
                        why: format!("its answer is no HTTP ({e})"),
                    });
                }
                Ok(Err(e)) => return Err(cut(&message.place, e)),
                Err(_) if message.body.sent() > before => {}
                Err(_) => {
                    return Err(Error::Timeout {
                        host: host(),
                        doing: "answer",
                        after,
                    });
                }
            }
        }
    }

    fn take(&self, origin: &Origin) -> Option<Wire> {
        let mut idle = self.idle.lock().unwrap_or_else(|p| p.into_inner());
        let list = idle.get_mut(origin)?;
        while let Some((wire, since)) = list.pop() {
            if !wire.sender.is_closed() && since.elapsed() < IDLE_MAX {
                return Some(wire);
            }
        }
        None
    }

    fn give_back(&self, origin: Origin, wire: Wire) {
        let mut idle = self.idle.lock().unwrap_or_else(|p| p.into_inner());
        let list = idle.entry(origin).or_default();
        if list.len() < IDLE_PER_ORIGIN {
            list.push((wire, Instant::now()));
        }
    }
}

/// May a request that failed on a used connection be sent again without a second thought?
fn stale(e: &hyper::Error, method: &Method) -> bool {
    e.is_canceled() || (method.is_safe() && (e.is_incomplete_message() || e.is_closed()))
}

fn cut(place: &Place, source: hyper::Error) -> Error {
    Error::Cut {
        host: place.authority(),
        what: "its answer".into(),
        received: 0,
        tries: 1,
        source: Some(source),
    }
}

fn prepare(message: &Message, proxy: Option<&Proxy>) -> Result<Request<Outgoing>, Error> {
    let place = &message.place;
    let invalid = |_| Error::NotARegistry {
        host: place.authority(),
        why: "its address does not fit into a request".into(),
    };
    // A proxy without a tunnel wants the whole URL (RFC 9112 §3.2.2).
    let direct = proxy.filter(|_| !place.tls);
    let target = match direct {
        Some(_) => place.to_string(),
        None => place.path.clone(),
    };
    let mut request = Request::new(message.body.open());
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = target.parse().map_err(|_| ()).map_err(invalid)?;
    let host: HeaderValue = place.authority().parse().map_err(|_| ()).map_err(invalid)?;
    *request.headers_mut() = message.headers.clone();
    request.headers_mut().insert(HOST, host);
    if let Some(a) = direct.and_then(|p| p.authorization.as_ref()) {
        let value = HeaderValue::from_str(a.expose())
            .map_err(|_| ())
            .map_err(invalid)?;
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    for secret in [AUTHORIZATION, PROXY_AUTHORIZATION] {
        if let Some(v) = request.headers_mut().get_mut(secret) {
            v.set_sensitive(true);
        }
    }
    Ok(request)
}

impl Answer {
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header(http::header::CONTENT_LENGTH)?
            .trim()
            .parse()
            .ok()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let timeouts = self.transport.timeouts;
        let after = timeouts.idle;
        loop {
            let since = Instant::now();
            let frame = timeout(after, self.body.frame())
                .await
                .map_err(|_| Error::Timeout {
                    host: self.place.authority(),
                    doing: "send more",
                    after,
                })?;
            match frame {
                None => {
                    if let Some(wire) = self.wire.take().filter(|_| !self.early) {
                        self.transport.give_back(self.origin.clone(), wire);
                    }
                    return Ok(None);
                }
                Some(Err(source)) => {
                    return Err(Error::Cut {
                        host: self.place.authority(),
                        what: "its answer".into(),
                        received: self.received,
                        tries: 1,
                        source: Some(source),
                    });
                }
                Some(Ok(frame)) => {
                    // What is no data is trailers, which mean nothing here.
                    if let Ok(data) = frame.into_data() {
                        self.received += data.len() as u64;
                        let slow = self.pace.below(since.elapsed(), data.len(), &timeouts);
                        return match slow {
                            None => Ok(Some(data)),
                            Some(rate) => Err(Error::Slow {
                                host: self.place.authority(),
                                rate,
                                floor: timeouts.floor,
                            }),
                        };
                    }
                }
            }
        }
    }

    /// The whole body, at most `max` bytes.
    pub async fn bytes(&mut self, what: &str, max: usize) -> Result<Bytes, Error> {
        let large = |host: String| Error::TooLarge {
            host,
            what: what.into(),
            limit: max as u64,
        };
        if self.content_length().is_some_and(|n| n > max as u64) {
            return Err(large(self.place.authority()));
        }
        let mut out = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if out.len() + chunk.len() > max {
                return Err(large(self.place.authority()));
            }
            out.extend_from_slice(&chunk);
        }
        Ok(out.freeze())
    }

    /// Reads away a small body so that the connection can be used again; a large or broken one costs the connection.
    pub async fn discard(mut self) {
        let mut left = crate::protocol::ERROR_BODY_MAX;
        while let Ok(Some(chunk)) = self.chunk().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}
