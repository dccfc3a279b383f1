//! Channels: streams whose number is the first byte of each message, or, where messages are text, its first digit; the rest is
//! then in base64.
//!
//! ```text
//!   exec, attach    0 stdin   1 stdout   2 stderr   3 error   4 resize; by version 5, 255 n: no more will come on n
//!   port-forward    2i data, 2i+1 error of the i-th port; the first two bytes of each are the port, little endian
//! ```

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc::{self, WeakSender};

use super::frame::{self, Decoder, Frame};
use crate::stream::backend::{Backend, Streams};
use crate::stream::channel::{self, Budget, Feed, Gone, Input, Outgoing, Output};
use crate::stream::remote::{self, Ask, Opened};
use crate::stream::session::{Activity, Wire};
use crate::stream::status::Format;

/// The protocols of exec and attach.
pub(in crate::stream) const REMOTE: &[&str] = &[
    "",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v5.channel.k8s.io",
];

/// The protocols of port-forward.
pub(in crate::stream) const FORWARD: &[&str] = &[
    "",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "portforward.k8s.io",
    super::TUNNEL,
];

const STDIN: usize = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: usize = 4;
const CLOSE: u8 = 255;

/// The largest message in base64, which has to be collected.
const TEXT_MAX: usize = 1 << 20;

/// The reading side.
#[derive(Debug)]
pub(in crate::stream) struct Channels {
    decoder: Decoder,
    base64: bool,
    closes: bool,
    /// By number; `None`: nothing is read from it.
    feeds: Vec<Option<Feed>>,
    /// What the message that comes in is for.
    message: Message,
    budget: Budget,
    to: WeakSender<Outgoing>,
    activity: Activity,
}

#[derive(Debug, Default)]
enum Message {
    #[default]
    New,
    /// Bytes of this channel; known to be none of ours if it is `None`.
    Raw(Option<Feed>),
    /// To be collected.
    Collected(Vec<u8>),
}

impl Channels {
    pub fn new(protocol: &str, to: &mpsc::Sender<Outgoing>, activity: Activity) -> Self {
        Self {
            decoder: Decoder::default(),
            base64: protocol.contains("base64"),
            closes: protocol == "v5.channel.k8s.io",
            feeds: Vec::new(),
            message: Message::New,
            budget: Budget::new(),
            to: to.downgrade(),
            activity,
        }
    }

    pub fn wire(&self) -> Wire {
        Wire::Channels {
            base64: self.base64,
        }
    }

    /// A channel that the client writes to.
    fn input(&mut self, number: usize) -> Input {
        let (feed, input) = channel::input(&self.budget);
        if self.feeds.len() <= number {
            self.feeds.resize(number + 1, None);
        }
        self.feeds[number] = Some(feed);
        input
    }

    /// Reads until the client has gone, or is found not to speak the protocol.
    pub async fn run<R: AsyncRead + Unpin>(mut self, mut io: R) {
        loop {
            let done = match self.decoder.next_frame() {
                Ok(Some(Frame::Part { first, bytes, last })) => {
                    self.part(first, &bytes, last).await
                }
                Ok(Some(Frame::Ping(payload))) => {
                    self.say(frame::pong(&payload)).await;
                    Ok(())
                }
                Ok(Some(Frame::Pong)) => Ok(()),
                Ok(Some(Frame::Close)) => Err(frame::NORMAL),
                Ok(None) => {
                    let read = self.activity.read(&mut io, self.decoder.buffer());
                    if !read.await.unwrap_or(false) {
                        return;
                    }
                    Ok(())
                }
                Err(broken) => {
                    tracing::debug!(%broken, "a WebSocket client is sent away");
                    Err(frame::PROTOCOL_ERROR)
                }
            };
            if let Err(code) = done {
                return self.say(frame::close(code)).await;
            }
        }
    }

    /// `Err`: the code to close with.
    async fn part(&mut self, first: bool, mut bytes: &[u8], last: bool) -> Result<(), u16> {
        if first {
            self.message = match self.base64 {
                true => Message::Collected(Vec::new()),
                false => Message::New,
            };
        }
        if let (Message::New, Some((channel, rest))) = (&self.message, bytes.split_first()) {
            if self.closes && *channel == CLOSE {
                self.message = Message::Collected(Vec::new());
            } else {
                let feed = self.feeds.get(usize::from(*channel));
                self.message = Message::Raw(feed.cloned().flatten());
            }
            bytes = rest;
        }
        match &mut self.message {
            Message::New | Message::Raw(None) => {}
            Message::Raw(Some(feed)) => {
                let to = &self.to;
                feed.data(bytes, || ask(to)).await;
            }
            Message::Collected(text) if text.len() + bytes.len() > TEXT_MAX => {
                return Err(frame::TOO_BIG);
            }
            Message::Collected(text) => {
                text.extend_from_slice(bytes);
                if last {
                    let text = std::mem::take(text);
                    self.message = Message::New;
                    return match self.base64 {
                        true => self.text(&text).await,
                        false => self.close(&text),
                    };
                }
            }
        }
        Ok(())
    }

    async fn text(&mut self, text: &[u8]) -> Result<(), u16> {
        let Some((digit, text)) = text.split_first() else {
            return Ok(());
        };
        let feed = self.feeds.get(usize::from(digit.wrapping_sub(b'0')));
        let Some(feed) = feed.cloned().flatten() else {
            return Ok(());
        };
        let bytes = STANDARD.decode(text).map_err(|_| frame::PROTOCOL_ERROR)?;
        feed.data(&bytes, || ask(&self.to)).await;
        Ok(())
    }

    /// The client's half of a channel.
    fn close(&mut self, number: &[u8]) -> Result<(), u16> {
        let [number] = number else {
            return Err(frame::PROTOCOL_ERROR);
        };
        let feed = self.feeds.get_mut(usize::from(*number));
        if let Some(feed) = feed.and_then(Option::take) {
            feed.end();
        }
        Ok(())
    }

    async fn say(&self, frame: Bytes) {
        if let Some(to) = self.to.upgrade() {
            let _gone = to.send(Outgoing::Control(frame)).await;
        }
    }
}

/// Whether anybody is there: a ping that cannot be sent says that nobody is.
fn ask(to: &WeakSender<Outgoing>) {
    if let Some(to) = to.upgrade() {
        let _full = to.try_send(Outgoing::Control(frame::ping()));
    }
}

/// Exec and attach: opens the channels, and gives what serves them.
pub(in crate::stream) fn remote(
    channels: &mut Channels,
    protocol: &str,
    to: mpsc::Sender<Outgoing>,
    ask: Arc<Ask>,
    backend: Arc<dyn Backend>,
) -> impl Future<Output = ()> + Send + use<> {
    let wanted = ask.wanted();
    let output = |number, wanted: bool| wanted.then(|| Output::new(number, &to));
    let (stdout, stderr) = (output(STDOUT, wanted.stdout), output(STDERR, wanted.stderr));
    let error = Output::new(ERROR, &to);
    let stdin = wanted.stdin.then(|| channels.input(STDIN));
    let resize = wanted.tty.then(|| remote::resizes(channels.input(RESIZE)));
    let (resizes, resize) = resize.unzip();
    let lowest = stdout
        .as_ref()
        .or(stderr.as_ref())
        .unwrap_or(&error)
        .channel;
    let opened = Opened {
        streams: Streams {
            stdin,
            stdout,
            stderr,
            resize: resizes,
        },
        resize,
        error,
        format: match protocol {
            "v4.channel.k8s.io" | "v4.base64.channel.k8s.io" | "v5.channel.k8s.io" => Format::Json,
            _ => Format::Words,
        },
        ends: Vec::new(),
    };
    async move {
        if open(lowest, &[], &to).await.is_ok() {
            let _gone = remote::serve(opened, &ask, &*backend).await;
        }
        bye(&to).await;
    }
}

/// Port-forward without SPDY: a pair of channels for each port, all connected at once.
pub(in crate::stream) fn forward(
    channels: &mut Channels,
    to: mpsc::Sender<Outgoing>,
    pod: Arc<str>,
    ports: &[u16],
    backend: Arc<dyn Backend>,
) -> impl Future<Output = ()> + Send + use<> {
    let mut pairs = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let input = channels.input(2 * i);
        let [data, error] = [2 * i, 2 * i + 1].map(|n| Output::new(n as u32, &to));
        pairs.push((*port, input, data, error));
    }
    async move {
        let mut running = tokio::task::JoinSet::new();
        for (port, input, data, error) in pairs {
            for number in [data.channel, error.channel] {
                if open(number, &port.to_le_bytes(), &to).await.is_err() {
                    return;
                }
            }
            let (pod, backend) = (pod.clone(), backend.clone());
            running.spawn(async move { pair(port, input, data, error, &pod, &*backend).await });
        }
        while running.join_next().await.is_some() {}
        bye(&to).await;
    }
}

async fn pair(
    port: u16,
    mut input: Input,
    data: Output,
    error: Output,
    pod: &str,
    backend: &dyn Backend,
) -> Result<(), Gone> {
    use crate::stream::forward::{Ends, forward};
    match forward(&mut input, &data, Ends::Pod, pod, port, backend).await {
        Ok(()) => Ok(()),
        Err(failure) => error.send(failure.message.into()).await,
    }
}

/// The first message of a channel, empty ones included.
async fn open(channel: u32, bytes: &[u8], to: &mpsc::Sender<Outgoing>) -> Result<(), Gone> {
    let bytes = Bytes::copy_from_slice(bytes);
    let sent = to.send(Outgoing::Data { channel, bytes }).await;
    sent.map_err(|_| Gone)
}

pub(super) async fn bye(to: &mpsc::Sender<Outgoing>) {
    let close = Outgoing::Control(frame::close(frame::NORMAL));
    let _gone = to.send(close).await;
}
