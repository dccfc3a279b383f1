//! One blob on its way from upstream: into a file, and to every client that wants it meanwhile.
//!
//! ```text
//!  upstream ──► task ──► uploads/fetch-ID ──► verified ──► blobs/…, linked into each repository that asked
//!                 │ how far                      │
//!                 └────────► client, client … ◄──┘ the last byte
//! ```
//!
//! There is one download of a blob at a time, whoever asks. Clients read the file behind it, out of the page cache. The last
//! byte is kept from them until the digest is known to be right: bytes that are not the blob's never make
//! a whole answer. A download goes on when its clients have left; what it brings is wanted again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use corten_spec::{Digest, Reference};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, watch};

use super::super::ServerError;
use super::super::reply::blocking;
use super::super::storage::Of;
use super::super::upload::{BUFFER, random_id};
use super::Cache;
use crate::client::{Descriptor, Error};
use crate::protocol::header::Span;

/// Pieces that wait between upstream and the file.
const WAITING: usize = 16;

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Progress {
    /// So many bytes are in the file.
    Bytes(u64),
    /// All, and they are right.
    Done,
    Failed,
}

pub(super) struct Download {
    file: Arc<std::fs::File>,
    progress: watch::Receiver<Progress>,
    repositories: Mutex<BTreeSet<String>>,
}

/// A part of a blob that may still be coming.
#[derive(Debug)]
pub(in super::super) struct Growing {
    /// To be read at a place: there is one offset for all who have it.
    pub file: Arc<std::fs::File>,
    pub span: Span,
    size: u64,
    progress: watch::Receiver<Progress>,
}

impl Growing {
    /// Waits until something behind `position` can be handed out; up to where. `None`: it will never come.
    pub async fn ready(&mut self, position: u64) -> Option<u64> {
        let (size, end) = (self.size, self.span.end);
        let far = move |p: &Progress| match p {
            Progress::Bytes(n) => (*n).min(size.saturating_sub(1)),
            Progress::Done | Progress::Failed => size,
        };
        let waited = self.progress.wait_for(|p| far(p) > position).await;
        let now = *waited.ok()?;
        (now != Progress::Failed).then(|| far(&now).min(end))
    }
}

impl Download {
    pub fn reader(&self, size: u64, span: Span) -> Growing {
        Growing {
            file: self.file.clone(),
            span,
            size,
            progress: self.progress.clone(),
        }
    }
}

impl Cache {
    fn downloads(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::HashMap<Digest, Arc<Download>>> {
        self.downloads.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Joins the download of a blob, or begins it.
    pub(super) async fn download(
        self: &Arc<Self>,
        name: &str,
        reference: &Reference,
        digest: &Digest,
        size: u64,
    ) -> Result<Arc<Download>, ServerError> {
        let path = self.storage.upload(&format!("fetch-{}", random_id()));
        let mut downloads = self.downloads();
        if let Some(running) = downloads.get(digest) {
            let mut repositories = running
                .repositories
                .lock()
                .unwrap_or_else(|p| p.into_inner());
            repositories.insert(name.to_owned());
            drop(repositories);
            return Ok(running.clone());
        }
        // Under the lock, so that there is one: creating a file does not take long.
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let opened = file.and_then(|f| Ok((f.try_clone()?, f)));
        let (file, writing) = opened.map_err(|source| ServerError::Storage {
            doing: "create",
            path: path.clone(),
            source,
        })?;
        let (tell, progress) = watch::channel(Progress::Bytes(0));
        let download = Arc::new(Download {
            file: Arc::new(file),
            progress,
            repositories: Mutex::new(BTreeSet::from([name.to_owned()])),
        });
        downloads.insert(digest.clone(), download.clone());
        drop(downloads);
        let descriptor = Descriptor {
            digest: digest.clone(),
            size,
            media_type: String::new(),
        };
        let task = Fetch {
            cache: self.clone(),
            download: download.clone(),
            reference: reference.clone(),
            descriptor,
            path,
            tell,
        };
        tokio::spawn(task.run(writing));
        Ok(download)
    }
}

/// What the downloading task has.
struct Fetch {
    cache: Arc<Cache>,
    download: Arc<Download>,
    reference: Reference,
    descriptor: Descriptor,
    path: PathBuf,
    tell: watch::Sender<Progress>,
}

/// Why a download came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Upstream(#[from] Error),
    #[error(transparent)]
    Disk(#[from] ServerError),
}

impl Fetch {
    async fn run(self, file: std::fs::File) {
        let digest = &self.descriptor.digest;
        // Clients come and go, and what they have begun goes on: there must not be any number of it.
        let turn = self.cache.turns.acquire().await;
        let outcome = match self.fetch(file).await {
            Ok(()) => self.keep().await.map_err(Failed::from),
            Err(e) => Err(e),
        };
        drop(turn);
        match outcome {
            Ok(()) => {
                self.tell.send_replace(Progress::Done);
                self.cache.make_room().await;
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, %digest, "a blob did not come from upstream");
                self.cache.downloads().remove(digest);
                self.tell.send_replace(Progress::Failed);
                // What stays all the same is cleared at the next start.
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }

    /// Into the file, verified at its end.
    async fn fetch(&self, file: std::fs::File) -> Result<(), Failed> {
        let (tx, rx) = mpsc::channel(WAITING);
        let client = &self.cache.client;
        let download = client.blob(&self.reference, &self.descriptor, 0, tx);
        // A disk that fails ends the download, and is the better reason of the two.
        let (fetched, written) = tokio::join!(download, self.write(file, rx));
        written?;
        self.cache.met(fetched)?;
        Ok(())
    }

    async fn write(
        &self,
        file: std::fs::File,
        mut rx: mpsc::Receiver<Bytes>,
    ) -> Result<(), ServerError> {
        let failed = |source| ServerError::Storage {
            doing: "write",
            path: self.path.clone(),
            source,
        };
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(BUFFER);
        let mut position = 0;
        while let Some(bytes) = rx.recv().await {
            file.write_all(&bytes).await.map_err(failed)?;
            position += bytes.len() as u64;
            // Readers may only be sent to what is in the kernel's hands. While more waits there is no hurry.
            if rx.is_empty() {
                file.flush().await.map_err(failed)?;
                self.tell.send_replace(Progress::Bytes(position));
            }
        }
        file.flush().await.map_err(failed)?;
        self.tell.send_replace(Progress::Bytes(position));
        file.sync_all().await.map_err(failed)
    }

    /// Makes it content, and links it for all that asked, of whom some may still come while we do.
    async fn keep(&self) -> Result<(), ServerError> {
        let mut linked = BTreeSet::new();
        loop {
            let asked = {
                let mut downloads = self.cache.downloads();
                let asked = self.download.repositories.lock();
                let asked = asked.unwrap_or_else(|p| p.into_inner()).clone();
                if asked == linked {
                    downloads.remove(&self.descriptor.digest);
                    return Ok(());
                }
                asked
            };
            for name in asked.difference(&linked) {
                self.link(name.clone(), linked.is_empty()).await?;
            }
            linked = asked;
        }
    }

    async fn link(&self, name: String, first: bool) -> Result<(), ServerError> {
        let (storage, path) = (self.cache.storage.clone(), self.path.clone());
        let digest = self.descriptor.digest.clone();
        blocking(move || {
            let order = storage.order()?;
            match first && path.exists() {
                true => storage.commit(&order, &path, &name, Of::Blob, &digest, b""),
                false => storage.link(&order, &name, &digest).map(drop),
            }
        })
        .await
    }
}
