//! Garbage: blobs that no manifest of their repository names, uploads that nobody goes on with, content that a
//! crash left without a name; and, if asked for, manifests without a tag.
//!
//! ```text
//!  each repository, under the order of links:
//!    manifests ──► everything that they name
//!    blobs that are not named and not used for the grace's time ──► link removed
//!  then content without links, each under the order; then uploads without an owner
//! ```
//!
//! Works beside a running server, in its process or another. A push first uploads or mounts its blobs, or is told
//! that they are there; each of these counts as a use. So a push that ends within the grace's time loses nothing.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use corten_spec::Digest;

use super::ServerError;
use super::storage::{Of, Order, Storage, is_upload_id};
use crate::protocol::manifest;

/// What to collect.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// What was used within this time stays.
    pub grace: Duration,
    /// Manifests too that no tag, index or subject leads to.
    pub untagged: bool,
    /// Only tell.
    pub dry_run: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 3600),
            untagged: false,
            dry_run: false,
        }
    }
}

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests taken from a repository.
    pub manifests: u64,
    /// Blobs taken from a repository.
    pub blobs: u64,
    pub uploads: u64,
    /// On disk, of content and of uploads.
    pub bytes: u64,
}

/// Collects in the registry's folder `root`, whether or not a server runs on it. Blocking.
pub fn collect(root: &Path, options: &CollectOptions) -> Result<Collected, ServerError> {
    collect_in(&Storage::join(root)?, options)
}

pub(super) fn collect_in(
    storage: &Storage,
    options: &CollectOptions,
) -> Result<Collected, ServerError> {
    let mut sweep = Sweep {
        storage,
        options,
        done: Collected::default(),
        dropped: HashSet::new(),
    };
    for name in storage.repositories()? {
        let order = storage.order()?;
        sweep.repository(&order, &name)?;
    }
    sweep.content()?;
    sweep.uploads()?;
    Ok(sweep.done)
}

struct Sweep<'a> {
    storage: &'a Storage,
    options: &'a CollectOptions,
    done: Collected,
    /// What a dry run would have unlinked, by repository.
    dropped: HashSet<(String, Digest)>,
}

impl Sweep<'_> {
    fn repository(&mut self, order: &Order<'_>, name: &str) -> Result<(), ServerError> {
        let mut manifests = self.storage.links(name, Of::Manifest)?;
        if self.options.untagged {
            let kept = self.reachable(name)?;
            let mut rest = Vec::new();
            for digest in manifests {
                match kept.contains(&digest) || self.in_use(name, Of::Manifest, &digest)? {
                    true => rest.push(digest),
                    false => self.drop_manifest(order, name, &digest)?,
                }
            }
            manifests = rest;
        }
        let mut named = HashSet::new();
        for digest in &manifests {
            named.extend(digests(&self.storage.read(digest)?.unwrap_or_default()));
        }
        for digest in self.storage.links(name, Of::Blob)? {
            if !named.contains(&digest) && !self.in_use(name, Of::Blob, &digest)? {
                self.done.blobs += 1;
                self.drop_link(order, name, Of::Blob, &digest)?;
            }
        }
        Ok(())
    }

    /// The manifests that tags lead to, by indexes and by subjects.
    fn reachable(&self, name: &str) -> Result<HashSet<Digest>, ServerError> {
        let mut open = Vec::new();
        for tag in self.storage.tags(name)?.unwrap_or_default() {
            open.extend(self.storage.tag(name, &tag)?);
        }
        let mut kept = HashSet::new();
        while let Some(digest) = open.pop() {
            if !kept.insert(digest.clone()) {
                continue;
            }
            open.extend(self.storage.referrers_digests(name, &digest)?);
            for named in digests(&self.storage.read(&digest)?.unwrap_or_default()) {
                if self.storage.linked(name, Of::Manifest, &named)?.is_some() {
                    open.push(named);
                }
            }
        }
        Ok(kept)
    }

    fn in_use(&self, name: &str, of: Of, digest: &Digest) -> Result<bool, ServerError> {
        let idle = self.storage.link_idle(name, of, digest)?;
        Ok(idle.is_none_or(|idle| idle < self.options.grace))
    }

    fn drop_manifest(
        &mut self,
        order: &Order<'_>,
        name: &str,
        digest: &Digest,
    ) -> Result<(), ServerError> {
        self.done.manifests += 1;
        if let Ok(Some(relation)) =
            manifest::relation(&self.storage.read(digest)?.unwrap_or_default())
            && !self.options.dry_run
        {
            self.storage
                .remove_referrer(order, name, &relation.subject, digest)?;
        }
        self.drop_link(order, name, Of::Manifest, digest)
    }

    fn drop_link(
        &mut self,
        order: &Order<'_>,
        name: &str,
        of: Of,
        digest: &Digest,
    ) -> Result<(), ServerError> {
        match self.options.dry_run {
            true => {
                self.dropped.insert((name.to_owned(), digest.clone()));
            }
            false => {
                self.storage.drop_link(order, name, of, digest)?;
            }
        }
        Ok(())
    }

    /// Content that no repository has.
    fn content(&mut self) -> Result<(), ServerError> {
        let mut linked = HashSet::new();
        for name in self.storage.repositories()? {
            for of in [Of::Blob, Of::Manifest] {
                let links = self.storage.links(&name, of)?;
                let kept = links
                    .into_iter()
                    .filter(|d| !self.dropped.contains(&(name.clone(), d.clone())));
                linked.extend(kept);
            }
        }
        for digest in self.storage.contents()? {
            if linked.contains(&digest) {
                continue;
            }
            // What was linked meanwhile is seen, once nobody else can link.
            let freed = match self.options.dry_run {
                true => self.storage.size(&digest)?,
                false => self.storage.drop_unused(&self.storage.order()?, &digest)?,
            };
            self.done.bytes += freed.unwrap_or(0);
        }
        Ok(())
    }

    fn uploads(&mut self) -> Result<(), ServerError> {
        let (count, bytes) = sweep_uploads(self.storage, self.options.grace, self.options.dry_run)?;
        self.done.uploads += count;
        self.done.bytes += bytes;
        Ok(())
    }
}

/// Removes the uploads that nobody works at and that were not touched for `age`: how many, and their bytes.
pub(super) fn sweep_uploads(
    storage: &Storage,
    age: Duration,
    dry_run: bool,
) -> Result<(u64, u64), ServerError> {
    let (mut count, mut bytes) = (0, 0);
    for id in storage.uploads()?.iter().filter(|n| is_upload_id(n)) {
        let path = storage.upload(id);
        let Some(idle) = storage.idle(&path)? else {
            continue;
        };
        // The lock says that a server has it, however long its client sleeps.
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if idle < age || file.try_lock().is_err() {
            continue;
        }
        count += 1;
        bytes += file.metadata().map(|m| m.len()).unwrap_or(0);
        if !dry_run {
            storage.remove_upload(id)?;
        }
    }
    Ok((count, bytes))
}

/// Every digest that a manifest names, in whatever field: what is kept for one too many costs little.
fn digests(manifest: &[u8]) -> HashSet<Digest> {
    let mut found = HashSet::new();
    let Ok(value) = serde_json::from_slice(manifest) else {
        return found;
    };
    let mut open: Vec<serde_json::Value> = vec![value];
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::String(text) => found.extend(text.parse::<Digest>().ok()),
            serde_json::Value::Array(list) => open.extend(list),
            serde_json::Value::Object(map) => open.extend(map.into_iter().map(|(_, v)| v)),
            _ => {}
        }
    }
    found
}
