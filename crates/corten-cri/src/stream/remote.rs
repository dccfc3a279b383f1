//! A command's or a container's streams, once they are open: the same for both protocols.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::backend::{AttachAsk, Backend, ExecAsk, Resizes, Size, Streams};
use super::channel::{Gone, Input, Output};
use super::resize;
use super::spdy::connection::{Acceptor, OnList, Stream};
use super::spdy::frame;
use super::status::{Format, Status};

/// What a session is for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Exec(ExecAsk),
    Attach(AttachAsk),
}

/// The versions in SPDY. From the third on terminals have sizes, from the fourth on the end is a status.
pub(super) const SPDY: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// The streams that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Ask {
    pub fn wanted(&self) -> Wanted {
        let (stdin, stdout, stderr, tty) = match self {
            Self::Exec(ask) => (ask.stdin, ask.stdout, ask.stderr, ask.tty),
            Self::Attach(ask) => (ask.stdin, ask.stdout, ask.stderr, ask.tty),
        };
        Wanted {
            stdin,
            stdout,
            stderr,
            tty,
        }
    }
}

/// Everything that a session goes over.
#[derive(Debug)]
pub(super) struct Opened {
    pub streams: Streams,
    pub resize: Option<(Input, watch::Sender<Option<Size>>)>,
    pub error: Output,
    pub format: Format,
    /// What is ended at our end before the status is told.
    pub ends: Vec<Output>,
}

pub(super) fn resizes(input: Input) -> (Resizes, (Input, watch::Sender<Option<Size>>)) {
    let (sizes, resizes) = watch::channel(None);
    (Resizes(resizes), (input, sizes))
}

/// Runs it, and tells the client how it ended.
pub(super) async fn serve(opened: Opened, ask: &Ask, backend: &dyn Backend) -> Result<(), Gone> {
    let sizes = async {
        if let Some((input, sizes)) = opened.resize {
            resize::follow(input, sizes).await;
        }
        pending().await
    };
    let answer = async {
        match ask {
            Ask::Exec(ask) => backend.exec(ask, opened.streams).await.map(Status::of_exit),
            Ask::Attach(ask) => {
                let attached = backend.attach(ask, opened.streams).await;
                attached.map(|()| Status::Success)
            }
        }
    };
    let status = tokio::select! {
        status = answer => status.unwrap_or_else(Status::Failed),
        never = sizes => never,
    };
    for output in opened.ends {
        // One that the client has reset is none the client waits for.
        let _reset = output.end().await;
    }
    let words = status.encode(opened.format);
    opened.error.send(words.into()).await?;
    opened.error.end().await
}

/// Waits for the streams of a SPDY client, and serves them.
pub(super) async fn over_spdy(
    mut acceptor: Acceptor,
    version: &'static str,
    patience: Duration,
    ask: &Ask,
    backend: &dyn Backend,
) {
    let opening = open(&mut acceptor, ask.wanted(), version);
    if let Ok(Ok((opened, listed))) = timeout(patience, opening).await {
        // One that nobody looks at would stop the reader, and with it the others.
        acceptor.close().await;
        let _gone = serve(opened, ask, backend).await;
        drop(listed);
    } else {
        tracing::debug!("a SPDY client has not opened its streams");
    }
    acceptor.go_away().await;
}

async fn open(
    acceptor: &mut Acceptor,
    wanted: Wanted,
    version: &'static str,
) -> Result<(Opened, Vec<OnList>), Gone> {
    let resizable = matches!(version, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let mut missing = vec!["error"];
    missing.extend(wanted.stdin.then_some("stdin"));
    missing.extend(wanted.stdout.then_some("stdout"));
    missing.extend(wanted.stderr.then_some("stderr"));
    missing.extend((wanted.tty && resizable).then_some("resize"));
    let mut streams: HashMap<&str, Stream> = HashMap::new();
    while !missing.is_empty() {
        let incoming = acceptor.next().await.ok_or(Gone)?;
        let kind = incoming.headers().get("streamtype").unwrap_or_default();
        match missing.iter().position(|m| *m == kind) {
            Some(at) => {
                let kind = missing.swap_remove(at);
                streams.insert(kind, incoming.accept().await?);
            }
            // A second of its kind, or one that nobody has asked for.
            None => incoming.refuse(frame::PROTOCOL_ERROR).await?,
        }
    }
    let mut listed = Vec::new();
    let mut take = |kind: &str| {
        let stream = streams.remove(kind)?;
        listed.push(stream.listed);
        Some((stream.input, stream.output))
    };
    let (stdin, stdout, stderr) = (take("stdin"), take("stdout"), take("stderr"));
    let (resize, error) = (take("resize"), take("error").ok_or(Gone)?);
    let mut ends = Vec::new();
    ends.extend(stdout.iter().chain(&stderr).map(|(_, o)| o.clone()));
    ends.extend(stdin.iter().chain(&resize).map(|(_, o)| o.clone()));
    let (resizes, resize) = resize.map(|(input, _)| resizes(input)).unzip();
    let opened = Opened {
        streams: Streams {
            stdin: stdin.map(|(input, _)| input),
            stdout: stdout.map(|(_, output)| output),
            stderr: stderr.map(|(_, output)| output),
            resize: resizes,
        },
        resize,
        error: error.1,
        format: match version {
            "v4.channel.k8s.io" => Format::Json,
            _ => Format::Words,
        },
        ends,
    };
    Ok((opened, listed))
}
