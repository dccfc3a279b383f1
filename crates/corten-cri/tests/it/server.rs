//! Deadlines, callers that go away, ends of the server, bounds, and what the observer hears of each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corten_cri::proto::*;
use corten_cri::server::{Ended, Observer, Server, TraceParent};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;

use super::double::{Images, Runtime};

/// What was told: method, code, pod, container.
#[derive(Default)]
struct Heard {
    calls: Mutex<Vec<(String, Code, String, String)>>,
    parents: Mutex<Vec<Option<TraceParent>>>,
    begun: AtomicUsize,
}

impl Observer for Heard {
    fn began(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn ended(&self, call: &Ended<'_>) {
        let (pod, container) = (call.subject.pod(), call.subject.container());
        let told = (call.method.to_owned(), call.code, pod, container);
        self.calls.lock().unwrap().push(told);
        self.parents.lock().unwrap().push(call.parent);
    }
}

struct Rig {
    _folder: tempfile::TempDir,
    heard: Arc<Heard>,
    dropped: Arc<AtomicUsize>,
    sender: SendRequest<Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Rig {
    async fn new(grace: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (heard, images) = (Arc::new(Heard::default()), Images::default());
        let dropped = images.dropped.clone();
        let server = Server::new(Arc::new(images), Arc::new(Runtime), heard.clone(), grace);
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.run(listener, async { drop(stopped.await) }));
        let stream = UnixStream::connect(&path).await.unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self {
            _folder: folder,
            heard,
            dropped,
            sender,
            stop: Some(stop),
            serving,
        }
    }

    fn call(
        &self,
        path: &str,
        message: &impl Message,
        headers: &[(&str, &str)],
    ) -> JoinHandle<Option<Answer>> {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        frame.extend(message.encode_to_vec());
        let mut request = Request::post(format!("http://cri/runtime.v1.{path}"));
        request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let request = request.body(Full::new(Bytes::from(frame))).unwrap();
        let mut sender = self.sender.clone();
        tokio::spawn(async move {
            sender.ready().await.ok()?;
            let answer = sender.send_request(request).await.ok()?;
            let headers = answer.headers().clone();
            let collected = answer.into_body().collect().await.ok()?;
            let trailers = collected.trailers().cloned().unwrap_or(headers);
            Some(Answer {
                trailers,
                body: collected.to_bytes(),
            })
        })
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// The one call that has ended by now.
    async fn heard(&self) -> (String, Code, String, String) {
        for _ in 0..500 {
            if let Some(call) = self.heard.calls.lock().unwrap().pop() {
                return call;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was heard of a call");
    }
}

struct Answer {
    trailers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn code(&self) -> i32 {
        let text = self
            .trailers
            .get("grpc-status")
            .and_then(|v| v.to_str().ok());
        text.and_then(|t| t.parse().ok()).unwrap_or(-1)
    }

    fn message<T: Message + Default>(&self) -> T {
        T::decode(&self.body[5..]).unwrap()
    }
}

async fn answer(call: JoinHandle<Option<Answer>>) -> Answer {
    let answer = tokio::time::timeout(Duration::from_secs(10), call).await;
    answer.expect("in time").unwrap().expect("an answer")
}

#[tokio::test]
async fn a_call_is_answered_and_heard_of_once() {
    let rig = Rig::new(Duration::from_secs(1)).await;
    let version = VersionRequest {
        version: "v9".into(),
    };
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("traceparent", parent), ("grpc-timeout", "5S")];
    let got = answer(rig.call("RuntimeService/Version", &version, &headers)).await;
    assert_eq!(got.code(), 0);
    assert_eq!(got.message::<VersionResponse>().version, "v9");
    assert_eq!(
        rig.heard().await,
        ("Version".into(), Code::Ok, String::new(), String::new())
    );
    assert_eq!(
        rig.heard.parents.lock().unwrap().pop(),
        Some(TraceParent::parse(parent))
    );
    // A status with an answer of nothing but itself, whatever its text holds.
    let got = answer(rig.call(
        "ImageService/ImageStatus",
        &ImageStatusRequest::default(),
        &[],
    ))
    .await;
    assert_eq!(got.code(), Code::NotFound as i32);
    assert_eq!(rig.heard().await.1, Code::NotFound);
    // And one after a piece of a stream.
    let got = answer(rig.call(
        "ImageService/StreamImages",
        &StreamImagesRequest::default(),
        &[],
    ))
    .await;
    assert_eq!((got.code(), got.body.len()), (Code::DataLoss as i32, 5));
    assert_eq!(rig.heard().await.1, Code::DataLoss);
    assert_eq!(rig.heard.begun.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_pod_and_the_container_are_those_of_the_message() {
    let rig = Rig::new(Duration::from_secs(1)).await;
    let stop = StopContainerRequest {
        container_id: "c1".into(),
        timeout: 0,
    };
    assert_eq!(
        answer(rig.call("RuntimeService/StopContainer", &stop, &[]))
            .await
            .code(),
        0
    );
    assert_eq!(
        rig.heard().await,
        ("StopContainer".into(), Code::Ok, String::new(), "c1".into())
    );
    let create = CreateContainerRequest {
        pod_sandbox_id: "p1".into(),
        ..CreateContainerRequest::default()
    };
    answer(rig.call("RuntimeService/CreateContainer", &create, &[])).await;
    assert_eq!(rig.heard().await.2, "p1");
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_its_work() {
    let rig = Rig::new(Duration::from_secs(1)).await;
    let began = Instant::now();
    let headers = [("grpc-timeout", "200m")];
    let got = answer(rig.call(
        "ImageService/PullImage",
        &PullImageRequest::default(),
        &headers,
    ))
    .await;
    assert_eq!(got.code(), Code::DeadlineExceeded as i32);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(rig.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(rig.heard().await.1, Code::DeadlineExceeded);
    // Of a stream, too, after its head is out.
    let got = answer(rig.call(
        "RuntimeService/GetContainerEvents",
        &GetEventsRequest {},
        &headers,
    ))
    .await;
    assert_eq!(got.code(), Code::DeadlineExceeded as i32);
    assert_eq!(
        rig.heard().await,
        (
            "GetContainerEvents".into(),
            Code::DeadlineExceeded,
            String::new(),
            String::new()
        )
    );
}

#[tokio::test]
async fn a_caller_that_goes_takes_the_work_along() {
    let rig = Rig::new(Duration::from_secs(1)).await;
    let call = rig.call("ImageService/PullImage", &PullImageRequest::default(), &[]);
    while rig.heard.begun.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    call.abort();
    assert_eq!(rig.heard().await.1, Code::Cancelled);
    assert_eq!(rig.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_too_large_is_refused_in_both_directions() {
    let rig = Rig::new(Duration::from_secs(1)).await;
    let list = |length: usize| ListImagesRequest {
        filter: Some(ImageFilter {
            image: Some(ImageSpec {
                image: length.to_string(),
                ..ImageSpec::default()
            }),
        }),
    };
    let fits = answer(rig.call("ImageService/ListImages", &list(15 << 20), &[])).await;
    assert_eq!((fits.code(), fits.body.len() > 15 << 20), (0, true));
    let large = answer(rig.call("ImageService/ListImages", &list(17 << 20), &[])).await;
    assert_eq!(large.code(), Code::OutOfRange as i32);
    let version = VersionRequest {
        version: "v".repeat(17 << 20),
    };
    let large = answer(rig.call("RuntimeService/Version", &version, &[])).await;
    assert_eq!(large.code(), Code::OutOfRange as i32);
}

#[tokio::test]
async fn at_the_end_calls_may_end_and_endless_streams_do() {
    let mut rig = Rig::new(Duration::from_secs(5)).await;
    let events = rig.call(
        "RuntimeService/GetContainerEvents",
        &GetEventsRequest {},
        &[],
    );
    let stop = rig.call(
        "RuntimeService/StopContainer",
        &StopContainerRequest::default(),
        &[],
    );
    while rig.heard.begun.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    rig.stop();
    assert_eq!(answer(events).await.code(), Code::Unavailable as i32);
    assert_eq!(
        answer(stop).await.code(),
        0,
        "it had the time that it needed"
    );
    (&mut rig.serving).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let more = rig.call("RuntimeService/Version", &VersionRequest::default(), &[]);
    assert!(more.await.unwrap().is_none(), "nobody is there any more");
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_given_up() {
    let mut rig = Rig::new(Duration::from_millis(300)).await;
    let pull = rig.call("ImageService/PullImage", &PullImageRequest::default(), &[]);
    while rig.heard.begun.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.stop();
    tokio::time::timeout(Duration::from_secs(3), &mut rig.serving)
        .await
        .expect("in time")
        .unwrap();
    assert!(pull.await.unwrap().is_none());
    assert_eq!(rig.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(rig.heard().await.1, Code::Cancelled);
}
