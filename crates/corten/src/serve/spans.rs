//! Spans of calls to an OpenTelemetry collector: OTLP over HTTP, in its JSON form.
//!
//! ```text
//!  call ends ─► queue (bounded; full: dropped and counted) ─► batch: 512 spans or 5 s ─► POST URL/v1/traces
//! ```
//! A collector that is slow or away costs spans and nothing else. An exporter of our own, since what OpenTelemetry's crates
//! would bring (some twenty packages, with a second HTTP client and protobuf of it all) is for spans of any kind from
//! anywhere, and ours are one kind from one place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use corten_cri::server::{Ended, Observer, TraceParent};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Spans that wait for the exporter.
const QUEUE: usize = 2048;
/// Spans in one request.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const WAIT: Duration = Duration::from_secs(5);
/// For one request, from the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two complaints about the same collector.
const QUIET: Duration = Duration::from_secs(60);
const ANSWER_MAX: usize = 64 << 10;
const SERVER: u8 = 2;

/// What became of the spans.
#[derive(Debug, Default)]
pub struct Exported {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Exported {
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Why an endpoint cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("OTLP endpoint {text:?} is no URL such as http://127.0.0.1:4318")]
    Url { text: String },
    #[error("OTLP endpoint {text:?} is not for http, and that alone is spoken")]
    Scheme { text: String },
}

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    authority: String,
    path: String,
}

impl Endpoint {
    /// `/v1/traces` is added to what does not end in it, as OpenTelemetry's own exporters do.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let no_url = || EndpointError::Url { text: text.into() };
        let uri: Uri = text.parse().map_err(|_| no_url())?;
        if uri.scheme_str().is_some_and(|s| s != "http") {
            return Err(EndpointError::Scheme { text: text.into() });
        }
        let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(no_url());
        };
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(no_url());
        }
        let port = authority.port_u16().unwrap_or(80);
        let base = uri.path().trim_end_matches('/');
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            path: match base.ends_with("/v1/traces") {
                true => base.to_owned(),
                false => format!("{base}/v1/traces"),
            },
        })
    }
}

/// The end of the queue that calls are put into.
pub struct Spans {
    queue: mpsc::Sender<Span>,
    exported: Arc<Exported>,
}

struct Span {
    name: String,
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    began: SystemTime,
    took: Duration,
    service: &'static str,
    method: &'static str,
    code: tonic::Code,
    pod: String,
    container: String,
}

impl Spans {
    /// The queue, and the work that empties it until the queue is dropped.
    pub fn new(endpoint: Endpoint) -> (Self, Arc<Exported>, impl Future<Output = ()> + Send) {
        let (queue, spans) = mpsc::channel(QUEUE);
        let exported = Arc::new(Exported::default());
        let exporter = Exporter {
            endpoint,
            exported: exported.clone(),
            complained: None,
        };
        let ours = Self {
            queue,
            exported: exported.clone(),
        };
        (ours, exported, exporter.run(spans))
    }
}

impl Observer for Spans {
    fn ended(&self, call: &Ended<'_>) {
        // Whoever began the trace has decided whether it is kept.
        if call.parent.is_some_and(|p| !p.sampled) {
            return;
        }
        if self.queue.try_send(Span::of(call)).is_err() {
            self.exported.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Span {
    fn of(call: &Ended<'_>) -> Self {
        let parent: Option<TraceParent> = call.parent;
        Self {
            name: format!("{}/{}", call.service, call.method),
            trace: parent.map_or_else(random, |p| p.trace),
            id: random(),
            parent: parent.map(|p| p.span),
            began: call.began,
            took: call.took,
            service: call.service,
            method: call.method,
            code: call.code,
            pod: call.subject.pod(),
            container: call.subject.container(),
        }
    }

    fn json(&self) -> Value {
        let began = self.began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut attributes = vec![
            attribute("rpc.system", "grpc"),
            attribute("rpc.service", self.service),
            attribute("rpc.method", self.method),
            json!({ "key": "rpc.grpc.status_code", "value": { "intValue": (self.code as i32).to_string() } }),
        ];
        for (key, id) in [
            ("k8s.pod.sandbox.id", &self.pod),
            ("container.id", &self.container),
        ] {
            if !id.is_empty() {
                attributes.push(attribute(key, id));
            }
        }
        json!({
            "traceId": hex(&self.trace),
            "spanId": hex(&self.id),
            "parentSpanId": self.parent.map_or_else(String::new, |p| hex(&p)),
            "name": self.name,
            "kind": SERVER,
            "startTimeUnixNano": began.as_nanos().to_string(),
            "endTimeUnixNano": (began + self.took).as_nanos().to_string(),
            "attributes": attributes,
            "status": match self.code {
                tonic::Code::Ok => json!({}),
                code => json!({ "code": 2, "message": format!("{code:?}") }),
            },
        })
    }
}

fn attribute(key: &str, text: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": text } })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Never all zeros, which would be no id.
fn random<const N: usize>() -> [u8; N] {
    let mut id = [0; N];
    // Without randomness (no kernel of ours lacks it) ids would be equal, and spans still be seen.
    let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    if filled.is_err() || id == [0; N] {
        id[N - 1] = 1;
    }
    id
}

struct Exporter {
    endpoint: Endpoint,
    exported: Arc<Exported>,
    complained: Option<Instant>,
}

/// What a collector did instead of taking spans.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it cannot be reached")]
    Connect(#[from] std::io::Error),
    #[error("it does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it did not answer within {PATIENCE:?}")]
    Late,
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
}

impl Exporter {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>) {
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            let full = async {
                while batch.len() < BATCH
                    && let Some(span) = spans.recv().await
                {
                    batch.push(span);
                }
            };
            // What has come is sent, whether that is all or not.
            let _whole = tokio::time::timeout(WAIT, full).await;
            self.export(&batch).await;
        }
    }

    async fn export(&mut self, batch: &[Span]) {
        let count = batch.len() as u64;
        let sent = tokio::time::timeout(PATIENCE, self.post(document(batch))).await;
        match sent.unwrap_or(Err(Refusal::Late)) {
            Ok(()) => {
                self.exported.sent.fetch_add(count, Ordering::Relaxed);
            }
            Err(refusal) => {
                self.exported.dropped.fetch_add(count, Ordering::Relaxed);
                if self.complained.is_none_or(|at| at.elapsed() >= QUIET) {
                    self.complained = Some(Instant::now());
                    let why = corten_spec::chain(&refusal);
                    tracing::warn!(
                        collector = self.endpoint.authority,
                        why,
                        count,
                        "spans are lost"
                    );
                }
            }
        }
    }

    /// One connection a batch: a few in a minute at most.
    async fn post(&self, document: Value) -> Result<(), Refusal> {
        let stream = TcpStream::connect(&self.endpoint.authority).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(&self.endpoint.path)
            .header(HOST, &self.endpoint.authority)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(document.to_string())))?;
        // It ends with the sender.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        // A short word about what was taken, which nobody reads.
        let _said = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        match status.is_success() {
            true => Ok(()),
            false => Err(Refusal::Status(status)),
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn document(batch: &[Span]) -> Value {
    let name = rustix::system::uname();
    let spans: Vec<Value> = batch.iter().map(Span::json).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            attribute("service.name", "corten"),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("host.name", &name.nodename().to_string_lossy()),
        ] },
        "scopeSpans": [{
            "scope": { "name": "corten.cri" },
            "spans": spans,
        }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let parsed = |t: &str| Endpoint::parse(t).map(|e| format!("{} {}", e.authority, e.path));
        assert_eq!(
            parsed("http://127.0.0.1:4318").unwrap(),
            "127.0.0.1:4318 /v1/traces"
        );
        assert_eq!(parsed("http://c/otel/").unwrap(), "c:80 /otel/v1/traces");
        assert_eq!(
            parsed("http://[::1]:1/v1/traces").unwrap(),
            "[::1]:1 /v1/traces"
        );
        assert!(matches!(
            Endpoint::parse("https://c"),
            Err(EndpointError::Scheme { .. })
        ));
        for bad in ["", "c:4318/x", "/x", "http://u:p@c", "http://c?x=1"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
