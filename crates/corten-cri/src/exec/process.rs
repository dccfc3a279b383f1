//! A process on a shim's list: started, waited for, killed, forgotten. The shim's client blocks, and so works on threads that may.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use corten_shim::attach::{self, Hello, Size};
use corten_shim::client::{Client, Exit, Waiting};
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;

use super::error::Error;
use super::pump::Frames;
use crate::readable::readable;

/// A process that was announced to a shim, with streams over `attach.sock`, and was not started.
#[derive(Debug)]
pub struct Announced {
    /// About the process's container.
    pub shim: Client,
    pub exec_id: String,
    /// The container's: where its `attach.sock` is.
    pub bundle: PathBuf,
    pub tty: bool,
}

impl Announced {
    /// Attaches and then starts it, so that nothing of its output is missed, and its terminal has its size from the first moment. What does not
    /// start is forgotten.
    pub(super) async fn start(
        self,
        hello: Hello,
        size: Option<Size>,
    ) -> Result<(Process, Frames), Error> {
        let work = move || {
            let Self {
                mut shim,
                exec_id,
                bundle,
                ..
            } = self;
            let attached = attach::connect(&bundle, &hello);
            let attached = attached.map_err(|source| Error::Attach { bundle, source });
            let started = attached.and_then(|attached| {
                let sized = size.map_or(Ok(()), |s| shim.resize(&exec_id, s.rows, s.cols));
                let started = sized.and_then(|()| shim.start(&exec_id));
                started.map_err(|source| Error::Start { source })?;
                Ok(attached)
            });
            match started {
                Ok(attached) => Ok((shim, exec_id, attached)),
                Err(error) => {
                    // Else the shim would keep it for as long as the container lives.
                    let _forgotten = shim.delete(&exec_id);
                    Err(error)
                }
            }
        };
        let (shim, exec_id, attached) = blocking(work).await??;
        let process = Process::new(shim, exec_id)?;
        let streams = |source| Error::Streams { source };
        Ok((process, Frames::new(attached).map_err(streams)?))
    }
}

/// A container's own streams.
pub(super) async fn attach(bundle: PathBuf, hello: Hello) -> Result<Frames, Error> {
    let work = move || attach::connect(&bundle, &hello).map_err(|e| (bundle, e));
    let attached = blocking(work).await?;
    let attached = attached.map_err(|(bundle, source)| Error::Attach { bundle, source })?;
    Frames::new(attached).map_err(|source| Error::Streams { source })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|_| Error::Unfinished)
}

/// A process that was started.
pub(super) struct Process {
    /// Away only while a thread has it.
    shim: Option<Client>,
    /// The client's socket once more, to be waited for.
    ready: AsyncFd<OwnedFd>,
    waiting: Option<Waiting>,
    exec_id: String,
}

impl Process {
    fn new(shim: Client, exec_id: String) -> Result<Self, Error> {
        let copy = shim.as_fd().try_clone_to_owned();
        let ready = copy.and_then(readable);
        let ready = ready.map_err(|source| Error::Streams { source })?;
        Ok(Self {
            shim: Some(shim),
            ready,
            waiting: None,
            exec_id,
        })
    }

    /// Waits until it has exited and its output has been taken. May be dropped, and called again.
    pub async fn exit(&mut self) -> Result<Exit, Error> {
        let lost = |source| Error::Lost { source };
        loop {
            let shim = self.shim.as_mut().ok_or(Error::Unfinished)?;
            if self.waiting.is_none() {
                let waiting = shim.begin_wait(&self.exec_id);
                self.waiting = Some(waiting.map_err(lost)?);
            }
            if let Some(waiting) = &self.waiting
                && let Some(exit) = shim.poll_wait(waiting).map_err(lost)?
            {
                self.waiting = None;
                return Ok(exit);
            }
            let streams = |source| Error::Streams { source };
            self.ready.readable().await.map_err(streams)?.clear_ready();
        }
    }

    /// `all`: with its descendants. That it has ended meanwhile is no failure.
    pub async fn kill(&mut self, signal: u32, all: bool) {
        let exec_id = self.exec_id.clone();
        self.lend(move |shim| {
            if let Err(error) = shim.kill(&exec_id, signal, all) {
                tracing::debug!(%error, exec_id, signal, "a process got no signal");
            }
        })
        .await;
    }

    /// Takes it off the shim's list, after its end.
    pub async fn forget(mut self) {
        let exec_id = self.exec_id.clone();
        self.lend(move |shim| {
            if let Err(error) = shim.delete(&exec_id) {
                tracing::warn!(%error, exec_id, "a process stays on its shim's list");
            }
        })
        .await;
    }

    async fn lend(&mut self, work: impl FnOnce(&mut Client) + Send + 'static) {
        let Some(mut shim) = self.shim.take() else {
            return;
        };
        let lent = blocking(move || {
            work(&mut shim);
            shim
        });
        self.shim = lent.await.ok();
    }
}
