//! Making room: what was used longest ago goes first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use corten_spec::Digest;

use super::super::ServerError;
use super::super::manifests;
use super::super::reply::blocking;
use super::super::storage::{Of, Storage};
use super::Cache;

/// How often it is looked at what nobody uses any more.
const PAUSE: Duration = Duration::from_secs(60);

/// Content, and who has it.
struct Kept {
    digest: Digest,
    size: u64,
    idle: Duration,
    links: Vec<(String, Of)>,
}

impl Cache {
    /// Evicts what is over the bounds; a failure is logged, and the next time may do better.
    pub(super) async fn make_room(&self) {
        let (max_bytes, max_idle) = (self.config.max_bytes, self.config.max_idle);
        if max_bytes.is_none() && max_idle.is_none() {
            return;
        }
        let storage = self.storage.clone();
        match blocking(move || evict(&storage, max_bytes, max_idle)).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "made room"),
            Err(error) => tracing::error!(%error, "cannot make room"),
        }
    }

    /// Looks from time to time, for ever.
    pub async fn make_room_always(self: Arc<Self>) {
        loop {
            self.make_room().await;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn evict(
    storage: &Storage,
    max_bytes: Option<u64>,
    max_idle: Option<Duration>,
) -> Result<u64, ServerError> {
    let mut kept = kept(storage)?;
    kept.sort_by_key(|k| std::cmp::Reverse(k.idle));
    let mut total: u64 = kept.iter().map(|k| k.size).sum();
    let mut freed = 0;
    for one in kept {
        let old = max_idle.is_some_and(|max| one.idle > max);
        let full = max_bytes.is_some_and(|max| total > max);
        if old || full {
            total -= one.size;
            freed += remove(storage, &one)?;
        }
    }
    Ok(freed)
}

/// All content, with the time since anybody used it.
fn kept(storage: &Storage) -> Result<Vec<Kept>, ServerError> {
    let mut found: HashMap<Digest, Kept> = HashMap::new();
    for name in storage.repositories()? {
        for of in [Of::Blob, Of::Manifest] {
            for digest in storage.links(&name, of)? {
                let idle = storage.link_idle(&name, of, &digest)?.unwrap_or_default();
                let size = storage.size(&digest)?.unwrap_or(0);
                let entry = found.entry(digest.clone()).or_insert(Kept {
                    digest,
                    size,
                    idle,
                    links: Vec::new(),
                });
                entry.idle = entry.idle.min(idle);
                entry.links.push((name.clone(), of));
            }
        }
    }
    Ok(found.into_values().collect())
}

fn remove(storage: &Storage, one: &Kept) -> Result<u64, ServerError> {
    let order = storage.order()?;
    for (name, of) in &one.links {
        match of {
            Of::Manifest => manifests::remove(storage, &order, name, &one.digest)?,
            Of::Blob => storage.unlink(&order, name, Of::Blob, &one.digest)?,
        };
    }
    Ok(one.size)
}
