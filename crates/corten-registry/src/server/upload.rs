//! Uploads under way: an id, a file, an offset and a hash that grows with it.
//!
//! What has come lies in `uploads/ID`, and `ID.of` beside it says for which repository. So an upload outlives its
//! server: the next one reads the file through its hash again, and goes on. Whoever works at an upload holds a lock on
//! its file, by which a collector in any process knows it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corten_spec::Digest;
use corten_spec::digest::{Algorithm, Hasher};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::reply::blocking;
use super::storage::{Of, Storage, is_upload_id};
use super::{PATIENCE, ServerError};

/// An upload that nobody has touched for so long is held open no longer; its file stays for when it goes on.
const SHELVED_AFTER: Duration = Duration::from_secs(3600);
/// An upload that nobody has touched for so long is given up.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Bytes on their way to a file, one write after the other.
pub(super) const BUFFER: usize = 256 << 10;

type Shared = Arc<tokio::sync::Mutex<Upload>>;

/// All uploads of a server.
pub(super) struct Uploads {
    storage: Arc<Storage>,
    open: Mutex<HashMap<String, Slot>>,
}

struct Slot {
    repository: String,
    upload: Shared,
    over: Arc<AtomicBool>,
    touched: Instant,
}

/// One upload.
pub(super) struct Upload {
    pub offset: u64,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    storage: Arc<Storage>,
    /// Cancelled, committed or refused: the files go with the last user.
    over: Arc<AtomicBool>,
}

/// Why bytes could not be taken.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client went away or fell silent.
    Body,
    /// More bytes than the client had announced.
    Overrun,
    Disk(ServerError),
}

/// 128 random bits in hexadecimal. The id is all that an upload is known by.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    // Ring's generator fails only where the kernel has none; the hash keys then still keep ids apart.
    if rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .is_err()
    {
        use std::hash::{BuildHasher as _, Hasher as _};
        for half in bytes.chunks_mut(8) {
            let word = std::hash::RandomState::new().build_hasher().finish();
            half.copy_from_slice(&word.to_ne_bytes());
        }
    }
    format!("{:032x}", u128::from_ne_bytes(bytes))
}

impl Uploads {
    pub fn new(storage: Arc<Storage>) -> Self {
        Self {
            storage,
            open: Mutex::new(HashMap::new()),
        }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.open.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Begins an upload.
    pub async fn begin(&self, repository: &str) -> Result<(String, Shared), ServerError> {
        let (storage, name, id) = (self.storage.clone(), repository.to_owned(), random_id());
        let new = id.clone();
        let upload = blocking(move || Upload::create(storage, &name, &new)).await?;
        self.shelve();
        Ok((id.clone(), self.enter(repository, id, upload)))
    }

    fn enter(&self, repository: &str, id: String, upload: Upload) -> Shared {
        let over = upload.over.clone();
        let fresh = || Slot {
            repository: repository.to_owned(),
            upload: Arc::new(tokio::sync::Mutex::new(upload)),
            over,
            touched: Instant::now(),
        };
        self.map().entry(id).or_insert_with(fresh).upload.clone()
    }

    /// Lets go of what was not touched for a while, so that it can be given up in time.
    pub fn shelve(&self) {
        self.map()
            .retain(|_, s| s.touched.elapsed() < SHELVED_AFTER || Arc::strong_count(&s.upload) > 1);
    }

    /// An upload of this repository; one of an earlier server is taken up again.
    pub async fn get(&self, repository: &str, id: &str) -> Result<Option<Shared>, ServerError> {
        if let Some(slot) = self.map().get_mut(id) {
            slot.touched = Instant::now();
            return Ok((slot.repository == repository).then(|| slot.upload.clone()));
        }
        if !is_upload_id(id) {
            return Ok(None);
        }
        let (storage, name, own) = (self.storage.clone(), repository.to_owned(), id.to_owned());
        let found = blocking(move || Upload::take_up(storage, &name, &own)).await?;
        Ok(found.map(|upload| self.enter(repository, id.to_owned(), upload)))
    }

    /// Ends an upload; it is gone with its last user.
    pub async fn end(&self, repository: &str, id: &str) -> Result<bool, ServerError> {
        let found = self.get(repository, id).await?.is_some();
        if found && let Some(slot) = self.map().remove(id) {
            slot.over.store(true, Ordering::SeqCst);
        }
        Ok(found)
    }
}

impl Upload {
    fn create(storage: Arc<Storage>, repository: &str, id: &str) -> Result<Self, ServerError> {
        let path = storage.upload(id);
        let file = fs::File::create_new(&path).map_err(|e| failed("create", &path, e))?;
        file.lock().map_err(|e| failed("lock", &path, e))?;
        let of = storage.upload(&format!("{id}.of"));
        fs::write(&of, repository).map_err(|e| failed("write", &of, e))?;
        Ok(Self::over_file(
            storage,
            path,
            file,
            0,
            Hasher::new(Algorithm::Sha256),
        ))
    }

    /// What an earlier server has left, if it is of this repository and nobody has it.
    fn take_up(
        storage: Arc<Storage>,
        repository: &str,
        id: &str,
    ) -> Result<Option<Self>, ServerError> {
        let path = storage.upload(id);
        let of = storage.upload(&format!("{id}.of"));
        if !fs::read(&of).is_ok_and(|name| name == repository.as_bytes()) {
            return Ok(None);
        }
        let opened = fs::File::options().read(true).append(true).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", &path, e)),
        };
        // Two requests at once: the one that comes second finds the first one's in the list, or begins anew.
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let length = hash(&mut file, &mut hasher).map_err(|e| failed("read", &path, e))?;
        Ok(Some(Self::over_file(storage, path, file, length, hasher)))
    }

    fn over_file(
        storage: Arc<Storage>,
        path: PathBuf,
        file: fs::File,
        offset: u64,
        hasher: Hasher,
    ) -> Self {
        let mut file = File::from_std(file);
        file.set_max_buf_size(BUFFER);
        Self {
            offset,
            path,
            file,
            hasher,
            storage,
            over: Arc::default(),
        }
    }

    /// Appends a request's body, of at most `limit` bytes. What came before a failure stays.
    pub async fn append(&mut self, mut body: Incoming, limit: Option<u64>) -> Result<(), Broken> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut outcome = Ok(());
        loop {
            let frame = match timeout(PATIENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => {
                    outcome = Err(Broken::Body);
                    break;
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            match left.checked_sub(data.len() as u64) {
                Some(rest) => left = rest,
                None => {
                    outcome = Err(Broken::Overrun);
                    break;
                }
            }
            self.write(&data).await?;
        }
        // tokio's file buffers: what the offset promises must be in the kernel's hands.
        self.file.flush().await.map_err(|e| self.disk(e))?;
        outcome
    }

    async fn write(&mut self, data: &Bytes) -> Result<(), Broken> {
        self.file.write_all(data).await.map_err(|e| self.disk(e))?;
        self.hasher.update(data);
        self.offset += data.len() as u64;
        Ok(())
    }

    fn disk(&self, source: io::Error) -> Broken {
        Broken::Disk(failed("write", &self.path, source))
    }

    /// Is what came the content of `digest`? Then it becomes the repository's.
    pub async fn commit(
        &mut self,
        repository: &str,
        of: Of,
        digest: &Digest,
        link: &[u8],
    ) -> Result<bool, ServerError> {
        let synced = self.file.sync_all().await;
        synced.map_err(|e| failed("sync", &self.path, e))?;
        let (path, storage, digest) = (self.path.clone(), self.storage.clone(), digest.clone());
        let (repository, link) = (repository.to_owned(), link.to_owned());
        let known = self.hasher.clone().finish();
        blocking(move || {
            let actual = match digest.algorithm() {
                Algorithm::Sha256 => known,
                // Which algorithm it is to be is known only now: read it again.
                Algorithm::Sha512 => rehash(&path, &digest)?,
            };
            if actual != digest {
                return Ok(false);
            }
            let order = storage.order()?;
            storage.commit(&order, &path, &repository, of, &digest, &link)?;
            Ok(true)
        })
        .await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.over.load(Ordering::SeqCst) {
            return;
        }
        // Gone already after a commit. What stays all the same is cleared by a collector, or at the next start.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.path.with_extension("of"));
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> ServerError {
    ServerError::Storage {
        doing,
        path: path.to_owned(),
        source,
    }
}

fn rehash(path: &Path, like: &Digest) -> Result<Digest, ServerError> {
    let mut file = fs::File::open(path).map_err(|e| failed("open", path, e))?;
    let mut hasher = like.hasher();
    hash(&mut file, &mut hasher).map_err(|e| failed("read", path, e))?;
    Ok(hasher.finish())
}

/// Reads a file through a hash; its length.
fn hash(file: &mut fs::File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let mut length = 0;
    loop {
        match io::Read::read(file, &mut buffer)? {
            0 => return Ok(length),
            n => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}
