//! What a container's or pod's owner gives the streaming server, and gets from it.

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::channel::{Input, Output};

/// A command to be run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecAsk {
    pub container: String,
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The streams of a container's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachAsk {
    pub container: String,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Ports of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardAsk {
    pub pod: String,
    /// Only a WebSocket client that names none itself needs them here.
    pub ports: Vec<u16>,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// The client's ends of a process's streams. One that was not asked for is not there.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Of a terminal.
    pub resize: Option<Resizes>,
}

/// How large the client's terminal is, from now on. Sizes that nobody took before the next came are passed over.
#[derive(Debug)]
pub struct Resizes(pub(super) watch::Receiver<Option<Size>>);

impl Resizes {
    /// The next size; `None`: there will be no more. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(size) = *self.0.borrow_and_update() {
                return Some(size);
            }
        }
    }
}

/// Why a backend could not do what was asked. The client reads the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub message: String,
}

impl Failure {
    pub fn new(why: impl std::fmt::Display) -> Self {
        Self {
            message: why.to_string(),
        }
    }
}

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// A connection into a pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Containers and pods, as the streaming server sees them.
///
/// An answer is dropped when the client has gone; whatever must be done then, even so, is the backend's to
/// arrange. What was sent to an [`Output`] before an answer is ready reaches the client before the answer does.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command; answers with its exit code once all of its output was sent.
    fn exec<'a>(&'a self, ask: &'a ExecAsk, streams: Streams) -> Answer<'a, i32>;

    /// Connects to a container's own process; answers when that has ended, or has nothing more to say.
    fn attach<'a>(&'a self, ask: &'a AttachAsk, streams: Streams) -> Answer<'a, ()>;

    /// Connects to a port inside a pod.
    fn port<'a>(&'a self, pod: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>>;
}
