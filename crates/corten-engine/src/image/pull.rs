//! Pull: reference → manifest → layers, each downloaded, checked, inflated and laid out in
//! one pass while the others are on their way.
//!
//! ```text
//!  registry ══ async ══► channel (bounded) ══► one blocking thread a layer: hash, blob file, inflate, hash, folder
//! ```
//! A lease holds everything until the image's row does. A failure of one layer stops the rest.

use std::sync::Arc;

use corten_registry::client::{BlobReader, Client, ClientConfig, Descriptor, Resolved};
use corten_spec::{Digest, Kind, Platform, Reference, media};
use corten_store::{Begin, ImageRecord, LayerDesc, LayerId, LayerRef, Lease, Store, Target};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::MAX_CONFIG;
use crate::Engine;
use crate::clock;
use crate::error::Error;

/// Layers under way at once. Two would keep two cores busy; a third hides a slow server.
const LAYERS_AT_ONCE: usize = 3;
/// Pieces of a body that wait between the socket and the layer's thread: with hyper's
/// buffers of at most some 400 kB each, a megabyte or two a layer.
const PIECES_IN_FLIGHT: usize = 4;

/// When `run` and `create` ask a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

/// What to pull, and from where.
#[derive(Clone, Debug)]
pub struct PullOptions {
    pub reference: Reference,
    pub platform: Platform,
    pub client: ClientConfig,
}

/// What a pull reports while it works, from several threads. `layer` is the digest of the
/// compressed blob.
pub trait Progress: Send + Sync {
    /// The layers are known: digests and compressed sizes in bytes.
    fn layers(&self, layers: &[(Digest, u64)]);
    /// The layer was here already.
    fn present(&self, layer: &Digest);
    /// `bytes` more have come, resumed ones included.
    fn advanced(&self, layer: &Digest, bytes: u64);
    /// The layer is whole, checked and unpacked.
    fn done(&self, layer: &Digest);
}

impl Engine {
    /// Pulls an image and enters it under its reference. Layers that are here are not asked for.
    pub fn pull(
        &self,
        options: PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageRecord, Error> {
        on_threads(pull(self, &options, progress))
    }

    /// The same, given up once `stop` is ready: then the answer is `None`. What has arrived by then is no image, and belongs
    /// to no one; another pull may go on from it until a collection removes it.
    pub fn pull_until(
        &self,
        options: PullOptions,
        progress: Arc<dyn Progress>,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<ImageRecord>, Error> {
        on_threads(async {
            tokio::select! {
                pulled = pull(self, &options, progress) => pulled.map(Some),
                () = stop => Ok(None),
            }
        })
    }

    /// Makes what was pulled survive a power cut. Without it the next start after one unpacks again;
    /// apart from the pull, since nobody needs to wait for the disk.
    pub fn flush(&self) -> Result<(), Error> {
        Ok(self.store.flush()?)
    }
}

/// Threads of its own for one pull: they, and the memory that they work in, go with it.
fn on_threads<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::io("start threads for", "/proc/self/task"))?;
    let done = threads.block_on(work);
    // Layers that were given up let go of the lease and of their partial blobs; one that hangs must not hold the error up.
    threads.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

async fn pull(
    engine: &Engine,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<ImageRecord, Error> {
    let (store, reference) = (engine.store.clone(), &options.reference);
    engine.refuse_rejected(reference)?;
    let failed = |source: corten_registry::client::Error| Error::Pull {
        reference: reference.familiar(),
        kind: source.kind(),
        source: Box::new(source),
    };
    let client = Client::new(options.client.clone());
    let resolved = client
        .resolve(reference, &options.platform)
        .await
        .map_err(failed)?;
    // Before anything of it is fetched: what is proven here is what is stored below, digest by digest.
    let digests = [&resolved.target.digest, &resolved.manifest_digest];
    engine.admit(&client, reference, &digests).await?;
    let lease = Arc::new(store.lease("pull")?);
    let config = config(&store, &client, &lease, reference, &resolved).await?;
    let diff_ids = diff_ids(reference, &resolved, &config)?;

    let sizes: Vec<(Digest, u64)> = resolved
        .manifest
        .layers
        .iter()
        .map(|l| (l.digest.clone(), l.size))
        .collect();
    progress.layers(&sizes);
    let layers = layers(
        &store, &client, &lease, reference, &resolved, diff_ids, &progress,
    )
    .await?;

    let record = ImageRecord {
        // A digest says all that a tag beside it could: the tag may have moved on already.
        reference: reference.untagged().to_string(),
        target: Target {
            digest: resolved.target.digest.clone(),
            size: resolved.target.size,
            media_type: resolved.target.media_type.clone(),
        },
        manifest: resolved.manifest_digest.clone(),
        config: resolved.manifest.config.digest.clone(),
        size: layers.iter().map(|l| l.size).sum(),
        layers,
        pulled_at: clock::now().0,
    };
    let name = record.reference.clone();
    store.put_image(record)?;
    Ok(store.image(&name)?)
}

/// Stores target, manifest and config; returns the config's bytes.
async fn config(
    store: &Store,
    client: &Client,
    lease: &Lease,
    reference: &Reference,
    resolved: &Resolved,
) -> Result<Vec<u8>, Error> {
    let descriptor = &resolved.manifest.config;
    let bytes = match store.has_blob(&descriptor.digest)? {
        true => store.read_blob(&descriptor.digest, MAX_CONFIG)?,
        false => client
            .blob_bytes(reference, descriptor, MAX_CONFIG)
            .await
            .map_err(|source| Error::Pull {
                reference: reference.familiar(),
                kind: source.kind(),
                source: Box::new(source),
            })?,
    };
    store.put_blob(lease, &resolved.target.digest, &resolved.target_bytes)?;
    store.put_blob(lease, &resolved.manifest_digest, &resolved.manifest_bytes)?;
    store.put_blob(lease, &descriptor.digest, &bytes)?;
    Ok(bytes)
}

/// The config lists the digest of each layer's tar; there must be one for each layer.
fn diff_ids(
    reference: &Reference,
    resolved: &Resolved,
    config: &[u8],
) -> Result<Vec<Digest>, Error> {
    #[derive(serde::Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(serde::Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }
    let image = reference.familiar();
    let parsed: Config = serde_json::from_slice(config).map_err(|source| Error::ImageDocument {
        what: "config",
        image: image.clone(),
        source,
    })?;
    match parsed.rootfs.diff_ids.len() == resolved.manifest.layers.len() {
        true => Ok(parsed.rootfs.diff_ids),
        false => Err(Error::ImageBroken {
            image,
            reason: "its manifest and its config differ in the number of layers",
        }),
    }
}

async fn layers(
    store: &Store,
    client: &Client,
    lease: &Arc<Lease>,
    reference: &Reference,
    resolved: &Resolved,
    diff_ids: Vec<Digest>,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<LayerRef>, Error> {
    let descriptors = &resolved.manifest.layers;
    if let Some(odd) = descriptors
        .iter()
        .find(|d| media::layer_compression(&d.media_type).is_none())
    {
        return Err(Error::LayerType {
            image: reference.familiar(),
            media_type: odd.media_type.clone(),
        });
    }
    // The largest first: on few cores the longest layer decides when the pull ends.
    let mut order: Vec<usize> = (0..descriptors.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(descriptors[i].size));
    let slots = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
    let mut tasks = JoinSet::new();
    for i in order {
        let work = LayerWork {
            store: store.clone(),
            client: client.clone(),
            lease: lease.clone(),
            reference: reference.clone(),
            descriptor: descriptors[i].clone(),
            diff_id: diff_ids[i].clone(),
            progress: progress.clone(),
        };
        let slots = slots.clone();
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _slot = slots.acquire_owned().await;
            (i, work.run().await)
        });
    }
    let mut found: Vec<Option<LayerId>> = vec![None; descriptors.len()];
    while let Some(joined) = tasks.join_next().await {
        let (i, layer) = match joined {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        found[i] = Some(layer?);
    }
    let rows = found.into_iter().flatten().zip(descriptors).zip(diff_ids);
    Ok(rows
        .map(|((layer, d), diff_id)| LayerRef {
            digest: d.digest.clone(),
            size: d.size,
            diff_id,
            layer,
        })
        .collect())
}

struct LayerWork {
    store: Store,
    client: Client,
    lease: Arc<Lease>,
    reference: Reference,
    descriptor: Descriptor,
    diff_id: Digest,
    progress: Arc<dyn Progress>,
}

impl LayerWork {
    async fn run(self) -> Result<LayerId, Error> {
        let digest = self.descriptor.digest.clone();
        let desc = LayerDesc {
            digest: digest.clone(),
            size: self.descriptor.size,
            media_type: self.descriptor.media_type.clone(),
            diff_id: self.diff_id.clone(),
        };
        let (store, lease) = (self.store.clone(), self.lease.clone());
        // Another process may be at this layer, and then this waits for it.
        let begun = blocking(move || store.begin_layer(&lease, &desc)).await?;
        let ingest = match begun {
            Begin::Present(layer) => {
                self.progress.present(&digest);
                return Ok(layer);
            }
            Begin::Ingest(ingest) => ingest,
        };
        let offset = ingest.offset();
        self.progress.advanced(&digest, offset);
        let (tx, rx) = mpsc::channel(PIECES_IN_FLIGHT);
        let (counted_tx, mut counted_rx) = mpsc::channel::<bytes::Bytes>(1);
        let remaining = self.descriptor.size.saturating_sub(offset);
        let unpack = blocking(move || ingest.run(BlobReader::new(rx, remaining)));
        let progress = self.progress.clone();
        let counted = digest.clone();
        let relay = async move {
            while let Some(piece) = counted_rx.recv().await {
                progress.advanced(&counted, piece.len() as u64);
                if tx.send(piece).await.is_err() {
                    break;
                }
            }
        };
        let fetch = self
            .client
            .raw_blob(&self.reference, &self.descriptor, offset, counted_tx);
        let (fetched, (), unpacked) = tokio::join!(fetch, relay, unpack);
        let layer = self.outcome(fetched, unpacked)?;
        self.progress.done(&digest);
        Ok(layer)
    }

    /// Both ends may fail, each because of the other. The one that stopped first tells why: a
    /// download that was abandoned failed in the unpacking, and everything else in the download.
    fn outcome(
        &self,
        fetched: Result<(), corten_registry::client::Error>,
        unpacked: Result<LayerId, Error>,
    ) -> Result<LayerId, Error> {
        use corten_registry::client::Error as Client;
        match (fetched, unpacked) {
            (Ok(()) | Err(Client::Abandoned { .. }), unpacked) => {
                unpacked.map_err(|source| Error::Pull {
                    reference: self.reference.familiar(),
                    kind: match source.kind() {
                        Kind::Internal => Kind::Internal,
                        _ => Kind::Unavailable,
                    },
                    source: Box::new(source),
                })
            }
            (Err(source), _) => Err(Error::Pull {
                reference: self.reference.familiar(),
                kind: source.kind(),
                source: Box::new(source),
            }),
        }
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, corten_store::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
