//! Forwarded ports: connections into a pod, each beside a stream on which its failure is told.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backend::{Backend, Duplex, Failure};
use super::channel::{Gone, Input, Output, Received};
use super::spdy::connection::{Acceptor, Incoming, Stream};
use super::spdy::frame;

pub(super) const SPDY: &[&str] = &["portforward.k8s.io"];

/// Read from a pod at once, in bytes.
const READ: usize = 32 << 10;

/// Which of a pair a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Data,
    Error,
}

/// A pair whose other half has not come.
struct Waiting {
    half: Half,
    stream: Stream,
    port: u16,
    until: Instant,
}

/// Serves pairs of streams until the client opens no more, and then until the last has ended.
pub(super) async fn over_spdy(
    mut acceptor: Acceptor,
    pod: Arc<str>,
    patience: Duration,
    backend: Arc<dyn Backend>,
) {
    let mut pairs: HashMap<String, Waiting> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let next_late = pairs.values().map(|w| w.until).min();
        let late = async {
            match next_late {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            incoming = acceptor.next() => {
                let Some(incoming) = incoming else { break };
                match pair(incoming, &mut pairs, patience).await {
                    Ok(Some((data, error, port))) => {
                        let (pod, backend) = (pod.clone(), backend.clone());
                        running.spawn(async move { serve(data, error, &pod, port, &*backend).await });
                    }
                    Ok(None) => {}
                    Err(Gone) => break,
                }
            }
            Some(_) = running.join_next(), if !running.is_empty() => {}
            () = late => give_up(&mut pairs).await,
        }
    }
    while running.join_next().await.is_some() {}
    acceptor.go_away().await;
}

/// Lets a stream in, and finds its other half.
async fn pair(
    incoming: Incoming,
    pairs: &mut HashMap<String, Waiting>,
    patience: Duration,
) -> Result<Option<(Stream, Stream, u16)>, Gone> {
    let headers = incoming.headers();
    let half = match headers.get("streamtype") {
        Some("data") => Half::Data,
        Some("error") => Half::Error,
        _ => return incoming.refuse(frame::PROTOCOL_ERROR).await.map(|()| None),
    };
    let port = headers.get("port").and_then(|p| p.parse().ok());
    let Some(port) = port.filter(|p: &u16| *p > 0) else {
        return incoming.refuse(frame::PROTOCOL_ERROR).await.map(|()| None);
    };
    let request = headers.get("requestid").filter(|id| !id.is_empty());
    let request = request.map(|id| format!("id {id}"));
    let stream = incoming.accept().await?;
    // Old clients name no request; their error stream has the number before that of their data stream.
    let request = request.unwrap_or_else(|| match half {
        Half::Error => format!("stream {}", stream.id),
        Half::Data => format!("stream {}", stream.id.wrapping_sub(2)),
    });
    match pairs.remove(&request) {
        Some(first) if first.half != half && first.port == port => Ok(Some(match half {
            Half::Data => (stream, first.stream, port),
            Half::Error => (first.stream, stream, port),
        })),
        Some(first) => {
            pairs.insert(request, first);
            stream.reset(frame::PROTOCOL_ERROR).await.map(|()| None)
        }
        None => {
            let until = Instant::now() + patience;
            let waiting = Waiting {
                half,
                stream,
                port,
                until,
            };
            pairs.insert(request, waiting);
            Ok(None)
        }
    }
}

/// Resets the streams whose other half is late.
async fn give_up(pairs: &mut HashMap<String, Waiting>) {
    let now = Instant::now();
    for (_, waiting) in pairs.extract_if(|_, w| w.until <= now) {
        if waiting.half == Half::Error {
            let words = "the data stream of this request was not opened";
            let _gone = waiting.stream.output.send(words.into()).await;
        }
        let _gone = waiting.stream.reset(frame::CANCEL).await;
    }
}

async fn serve(
    mut data: Stream,
    error: Stream,
    pod: &str,
    port: u16,
    backend: &dyn Backend,
) -> Result<(), Gone> {
    let (input, output) = (&mut data.input, &data.output);
    match forward(input, output, Ends::Both, pod, port, backend).await {
        Ok(()) => error.output.end().await,
        Err(failure) => {
            error.output.send(failure.message.into()).await?;
            // The client reads the words, and then finds its connection broken.
            data.reset(frame::CANCEL).await?;
            error.reset(frame::CANCEL).await
        }
    }
}

/// When a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// When both sides have ended theirs.
    Both,
    /// When the pod has: the client has no words for its own end.
    Pod,
}

/// Connects, and carries bytes until the end, or until the client has gone.
pub(super) async fn forward(
    input: &mut Input,
    output: &Output,
    ends: Ends,
    pod: &str,
    port: u16,
    backend: &dyn Backend,
) -> Result<(), Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::new(format_args!(
            "cannot forward port {port} of pod {pod}: {why}"
        ))
    };
    let connection = backend.port(pod, port).await.map_err(|e| failed(&e))?;
    let carried = carry(input, output, ends, connection).await;
    carried.map_err(|e| failed(&e))
}

async fn carry(
    input: &mut Input,
    output: &Output,
    ends: Ends,
    connection: Box<dyn Duplex>,
) -> std::io::Result<()> {
    let (mut from, mut to) = tokio::io::split(connection);
    let deaf = Notify::new();
    let up = async {
        loop {
            match input.receive().await {
                // A pod that reads no more may still be writing; and what the client sends must not pile up.
                Received::Data(bytes) if to.write_all(&bytes).await.is_err() => deaf.notify_one(),
                Received::Data(_) => {}
                Received::End => {
                    let _closed = to.shutdown().await;
                    return Ok(());
                }
                Received::Gone => return Err(Gone),
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            if from.read_buf(&mut buffer).await? == 0 {
                // Told at once: the client may wait for it before it ends its own side.
                return Ok::<_, std::io::Error>(output.end().await);
            }
            if output.send(buffer.split().freeze()).await.is_err() {
                return Ok(Err(Gone));
            }
        }
    };
    let (mut up, mut down) = (pin!(up), pin!(down));
    tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => down.await.map(drop),
            Err(Gone) => Ok(()),
        },
        ended = &mut down => {
            if let (Ok(()), Ends::Both) = (ended?, ends) {
                tokio::select! {
                    _ = up => {}
                    () = deaf.notified() => {}
                }
            }
            Ok(())
        }
    }
}
