//! One call: until when, about what, and how it ended.
//!
//! A call ends with its trailers, with its deadline, or by being dropped because the caller has gone (CANCELLED);
//! each exactly once told to the [`Observer`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use super::named;

/// The longest deadline that is kept as one; a timer's arithmetic ends somewhere.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The pod and the container that a call is about, where it is about some; known once its message is read.
#[derive(Clone, Debug, Default)]
pub struct Subject(Arc<Mutex<Ids>>);

#[derive(Clone, Debug, Default)]
struct Ids {
    pod: String,
    container: String,
}

impl Subject {
    pub fn pod(&self) -> String {
        self.ids().pod.clone()
    }

    pub fn container(&self) -> String {
        self.ids().container.clone()
    }

    /// Also for the records that are logged from here on.
    pub(super) fn set_pod(&self, id: &str) {
        if !id.is_empty() {
            id.clone_into(&mut self.ids().pod);
            Span::current().record("pod", id);
        }
    }

    pub(super) fn set_container(&self, id: &str) {
        if !id.is_empty() {
            id.clone_into(&mut self.ids().container);
            Span::current().record("container", id);
        }
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, Ids> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose work a call is part of (W3C Trace Context, `traceparent`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub sampled: bool,
}

impl TraceParent {
    /// Version 00; of later ones, what they share with it. All zeros are no ids.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let bad =
            version.len() != 2 || version == "ff" || (version == "00" && parts.next().is_some());
        let parent = Self {
            trace: hex(trace)?,
            span: hex(span)?,
            sampled: hex::<1>(flags)?[0] & 1 == 1,
        };
        (!bad && parent.trace != [0; 16] && parent.span != [0; 8]).then_some(parent)
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// A call that is over.
#[derive(Debug)]
pub struct Ended<'a> {
    /// `runtime.v1.ImageService`; empty for one that is not known.
    pub service: &'static str,
    /// `PullImage`; `unknown` for one that is not known, so that callers cannot invent names without end.
    pub method: &'static str,
    pub code: Code,
    pub began: SystemTime,
    pub took: Duration,
    pub subject: &'a Subject,
    pub parent: Option<TraceParent>,
}

/// Hears of each call, from the threads that serve: it must not block.
pub trait Observer: Send + Sync + 'static {
    fn began(&self) {}
    fn ended(&self, call: &Ended<'_>);
}

/// A call under way.
pub(super) struct Call {
    pub subject: Subject,
    pub span: Span,
    pub deadline: Option<tokio::time::Instant>,
    end: End,
    /// Whether its answer may go on for as long as the server does.
    endless: bool,
}

impl Call {
    pub fn begin<B>(request: &Request<B>, observer: Arc<dyn Observer>) -> Self {
        let (service, method) = named::known(request.uri().path());
        let text = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        // At the highest level, so that it is there for records of every level.
        let span = tracing::error_span!(
            "cri",
            method,
            pod = tracing::field::Empty,
            container = tracing::field::Empty,
            image = tracing::field::Empty
        );
        let subject = Subject::default();
        let allowed = text("grpc-timeout").and_then(timeout);
        observer.began();
        Self {
            deadline: allowed.map(|t| tokio::time::Instant::now() + t.min(FOREVER)),
            endless: method == "GetContainerEvents",
            end: End {
                service,
                method,
                code: Code::Cancelled,
                began: SystemTime::now(),
                clock: Instant::now(),
                subject: subject.clone(),
                parent: text("traceparent").and_then(TraceParent::parse),
                span: span.clone(),
                observer,
            },
            subject,
            span,
        }
    }

    /// What is said where the time ran out.
    pub fn late(&self) -> Status {
        late(self.end.method)
    }

    /// The answer, watched until its end.
    pub fn watch(
        mut self,
        answer: Response<Body>,
        stopped: watch::Receiver<bool>,
    ) -> Response<Watched> {
        let (parts, body) = answer.into_parts();
        // Without a body the status is among the headers.
        if let Some(status) = Status::from_header_map(&parts.headers) {
            self.end.code = status.code();
            self.end.refused(&status);
        }
        let sleep = self
            .deadline
            .map(|at| Box::pin(tokio::time::sleep_until(at)));
        let stop: Option<Stop> = self.endless.then(|| stopping(stopped));
        let watched = Watched {
            body,
            sleep,
            stop,
            over: false,
            end: Some(self.end),
        };
        Response::from_parts(parts, watched)
    }
}

type Stop = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Ready once the server is to stop.
pub(super) fn stopping(mut stopped: watch::Receiver<bool>) -> Stop {
    Box::pin(async move {
        // A sender that is gone has stopped, too.
        drop(stopped.wait_for(|s| *s).await);
    })
}

fn late(method: &str) -> Status {
    Status::deadline_exceeded(format!(
        "{method} did not end within the time that the caller gave it"
    ))
}

/// Tells the observer when it is dropped.
struct End {
    service: &'static str,
    method: &'static str,
    code: Code,
    began: SystemTime,
    clock: Instant,
    subject: Subject,
    parent: Option<TraceParent>,
    span: Span,
    observer: Arc<dyn Observer>,
}

impl End {
    /// Failures that are the caller's everyday business are not worth a warning.
    fn refused(&self, status: &Status) {
        let _in = self.span.enter();
        match status.code() {
            Code::Ok => {}
            Code::NotFound | Code::Cancelled | Code::AlreadyExists => {
                tracing::debug!(code = ?status.code(), why = status.message(), "refused");
            }
            // A probe that takes too long: kubelet tells of it, and it may be so every second.
            Code::DeadlineExceeded if self.method == "ExecSync" => {
                tracing::debug!(code = ?status.code(), why = status.message(), "refused");
            }
            code => tracing::warn!(?code, why = status.message(), "failed"),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let took = self.clock.elapsed();
        self.span.in_scope(|| {
            // Whole microseconds: the rest would be noise of binary fractions.
            let ms = took.as_micros() as f64 / 1e3;
            tracing::debug!(code = ?self.code, ms, "ended");
        });
        self.observer.ended(&Ended {
            service: self.service,
            method: self.method,
            code: self.code,
            began: self.began,
            took,
            subject: &self.subject,
            parent: self.parent,
        });
    }
}

/// An answer's body that knows when it ends, and ends in time.
pub(super) struct Watched {
    body: Body,
    sleep: Option<Pin<Box<Sleep>>>,
    stop: Option<Stop>,
    over: bool,
    /// Dropped at the last frame: the caller may keep the rest of this for long.
    end: Option<End>,
}

impl Watched {
    pub fn nothing() -> Self {
        Self {
            body: Body::empty(),
            sleep: None,
            stop: None,
            over: true,
            end: None,
        }
    }

    /// A status in place of all that might still have come.
    fn cut(&mut self, status: &Status) -> Option<Frame<Bytes>> {
        self.over = true;
        self.body = Body::empty();
        if let Some(mut end) = self.end.take() {
            end.code = status.code();
            end.refused(status);
        }
        let mut trailers = HeaderMap::new();
        // Its text is plain ASCII, which every header takes.
        status.add_header(&mut trailers).ok()?;
        Some(Frame::trailers(trailers))
    }

    /// Why the body must end now.
    fn due(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        if let Some(sleep) = &mut self.sleep
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Some(late(self.end.as_ref().map_or("the call", |e| e.method)));
        }
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            return Some(Status::unavailable("the runtime stops"));
        }
        None
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let span = self.end.as_ref().map(|e| e.span.clone());
        let _in = span.as_ref().map(Span::enter);
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref()
                    && let Some(mut end) = self.end.take()
                {
                    let status = Status::from_header_map(trailers);
                    let status = status.unwrap_or_else(|| Status::unknown("no status"));
                    end.code = status.code();
                    end.refused(&status);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(other) => {
                self.over = true;
                drop(self.end.take());
                Poll::Ready(other)
            }
            Poll::Pending => match self.due(cx) {
                Some(status) => Poll::Ready(self.cut(&status).map(Ok)),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// gRPC's `grpc-timeout`: at most eight digits and a unit. What is malformed is no deadline, as with other servers.
pub(super) fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(timeout("1500m"), Some(Duration::from_millis(1500)));
        for bad in ["", "S", "5", "123456789S", "-1S", "1.5S", "1é", "5s"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn trace_parents() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(text).unwrap();
        assert_eq!(
            (parent.trace[0], parent.span[7], parent.sampled),
            (0x4b, 0xb7, true)
        );
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf9-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
