//! Uploads under way: an id, a file, an offset and a hash that grows with it. They live in this
//! process only; after a restart a client begins anew, as the specification lets us ask of it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
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

use super::storage::{Of, Storage};
use super::{PATIENCE, ServerError};

/// An upload that nobody has touched for so long is forgotten when the next one begins.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// All uploads of a server.
pub(super) struct Uploads {
    storage: Arc<Storage>,
    open: Mutex<HashMap<String, Slot>>,
}

struct Slot {
    repository: String,
    upload: Arc<tokio::sync::Mutex<Upload>>,
    touched: Instant,
}

/// One upload. Its file goes when it is dropped, unless it was committed.
pub(super) struct Upload {
    pub offset: u64,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    storage: Arc<Storage>,
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
    pub async fn begin(
        &self,
        repository: &str,
    ) -> Result<(String, Arc<tokio::sync::Mutex<Upload>>), ServerError> {
        let id = random_id();
        let path = self.storage.upload(&id);
        let file = File::create_new(&path)
            .await
            .map_err(|source| ServerError::Storage {
                doing: "create",
                path: path.clone(),
                source,
            })?;
        let upload = Arc::new(tokio::sync::Mutex::new(Upload {
            offset: 0,
            path,
            file,
            hasher: Hasher::new(Algorithm::Sha256),
            storage: self.storage.clone(),
        }));
        let slot = Slot {
            repository: repository.to_owned(),
            upload: upload.clone(),
            touched: Instant::now(),
        };
        let mut map = self.map();
        map.retain(|_, s| {
            s.touched.elapsed() < FORGOTTEN_AFTER || Arc::strong_count(&s.upload) > 1
        });
        map.insert(id.clone(), slot);
        Ok((id, upload))
    }

    /// An upload of this repository.
    pub fn get(&self, repository: &str, id: &str) -> Option<Arc<tokio::sync::Mutex<Upload>>> {
        let mut map = self.map();
        let slot = map.get_mut(id).filter(|s| s.repository == repository)?;
        slot.touched = Instant::now();
        Some(slot.upload.clone())
    }

    /// Takes an upload off the list; it is gone with its last user.
    pub fn forget(&self, repository: &str, id: &str) -> bool {
        let mut map = self.map();
        let ours = map.get(id).is_some_and(|s| s.repository == repository);
        ours && map.remove(id).is_some()
    }
}

impl Upload {
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
                None => return Err(Broken::Overrun),
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
        Broken::Disk(ServerError::Storage {
            doing: "write",
            path: self.path.clone(),
            source,
        })
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
        synced.map_err(|source| ServerError::Storage {
            doing: "sync",
            path: self.path.clone(),
            source,
        })?;
        let (path, storage, digest) = (self.path.clone(), self.storage.clone(), digest.clone());
        let (repository, link) = (repository.to_owned(), link.to_owned());
        let known = self.hasher.clone().finish();
        super::reply::blocking(move || {
            let actual = match digest.algorithm() {
                Algorithm::Sha256 => known,
                // Which algorithm it is to be is known only now: read it again.
                Algorithm::Sha512 => rehash(&path, &digest)?,
            };
            if actual != digest {
                return Ok(false);
            }
            storage.commit(&path, &repository, of, &digest, &link)?;
            Ok(true)
        })
        .await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already after a commit. What stays all the same is cleared at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn rehash(path: &std::path::Path, like: &Digest) -> Result<Digest, ServerError> {
    let failed = |source| ServerError::Storage {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hasher = like.hasher();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match io::Read::read(&mut file, &mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
