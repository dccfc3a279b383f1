//! `ImageService`: what kubelet does with images, on the engine's store.
//!
//! An image is one thing by its id (the digest of its config: the same in every registry), whatever names it has. What is
//! called `id` here, `image_id` of a container and `image_ref` of a pull are that same text.

mod auth;
mod convert;
mod flight;
mod pull;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corten_engine::Engine;
use corten_spec::Reference;
use tokio::sync::Semaphore;
use tonic::codegen::tokio_stream;
use tonic::{Request, Response, Status};

use crate::blocking;
use crate::proto::image_service_server::ImageService;
use crate::proto::{
    ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, ListImagesRequest, ListImagesResponse, PullImageRequest,
    PullImageResponse, RemoveImageRequest, RemoveImageResponse, StreamImagesRequest,
    StreamImagesResponse,
};
use convert::Users;
use flight::Flights;
use usage::Usages;

/// Images in one piece of a streamed list.
const CHUNK: usize = 100;
/// Pulls at once: registries that hang must not hold every thread that may block. More wait, as long as their callers do.
const PULLS: usize = 32;

/// What an administrator sets about images.
#[derive(Clone, Debug, Default)]
pub struct ImageSettings {
    /// Names of images that kubelet's garbage collection is to leave alone.
    pub pinned: Vec<Reference>,
    /// The longest that one pull may take; without one, as long as its caller waits.
    pub pull_timeout: Option<Duration>,
}

/// What has been pulled since the start.
#[derive(Debug, Default)]
pub struct Pulled {
    bytes: AtomicU64,
    whole: AtomicU64,
    failed: AtomicU64,
    under_way: AtomicU64,
}

impl Pulled {
    /// Compressed, in bytes, of whatever became of the pull.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn whole(&self) -> u64 {
        self.whole.load(Ordering::Relaxed)
    }

    /// Those given up are among them.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// The service.
pub struct Images {
    engine: Arc<Engine>,
    settings: Arc<ImageSettings>,
    flights: Arc<Flights>,
    /// For pulls at once.
    slots: Arc<Semaphore>,
    pulled: Arc<Pulled>,
    users: Arc<Users>,
    usages: Arc<Usages>,
}

impl Images {
    pub fn new(engine: Arc<Engine>, settings: ImageSettings) -> Self {
        Self {
            engine,
            settings: Arc::new(settings),
            flights: Arc::default(),
            slots: Arc::new(Semaphore::new(PULLS)),
            pulled: Arc::default(),
            users: Arc::default(),
            usages: Arc::default(),
        }
    }

    /// For whoever shows it.
    pub fn pulled(&self) -> Arc<Pulled> {
        self.pulled.clone()
    }

    async fn list(&self, filter: Option<ImageFilter>) -> Result<Vec<crate::proto::Image>, Status> {
        let wanted = filter.and_then(|f| f.image).map(|i| i.image);
        let wanted = wanted.filter(|name| !name.is_empty());
        let (engine, settings, users) = (
            self.engine.clone(),
            self.settings.clone(),
            self.users.clone(),
        );
        blocking::run(move || {
            let whole = match wanted {
                Some(name) => engine.whole_image(&name)?.into_iter().collect(),
                None => {
                    let all = engine.whole_images()?;
                    users.keep(&all);
                    all
                }
            };
            let image = |w| convert::image(&engine, &settings, &users, w);
            Ok(whole.iter().map(image).collect())
        })
        .await
    }
}

/// The name that is asked for, also for the records of the call.
fn named(spec: Option<ImageSpec>) -> Result<String, Status> {
    match spec.map(|s| s.image).filter(|name| !name.is_empty()) {
        Some(name) => {
            tracing::Span::current().record("image", &name);
            Ok(name)
        }
        None => Err(Status::invalid_argument("the request names no image")),
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type StreamImagesStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<StreamImagesResponse, Status>>>;

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = self.list(request.into_inner().filter).await?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.list(request.into_inner().filter).await?;
        let pieces = images.chunks(CHUNK).map(|images| {
            Ok(StreamImagesResponse {
                images: images.to_vec(),
            })
        });
        let pieces: Vec<_> = pieces.collect();
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let (engine, settings, users) = (
            self.engine.clone(),
            self.settings.clone(),
            self.users.clone(),
        );
        let answer = blocking::run(move || {
            let Some(whole) = engine.whole_image(&name)? else {
                return Ok(ImageStatusResponse::default());
            };
            Ok(ImageStatusResponse {
                image: Some(convert::image(&engine, &settings, &users, &whole)),
                info: match request.verbose {
                    true => convert::info(&engine, &whole)?,
                    false => Default::default(),
                },
            })
        });
        Ok(Response::new(answer.await?))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        // Of the image's annotations and the pod nothing changes what is pulled.
        let PullImageRequest { image, auth, .. } = request.into_inner();
        let name = named(image)?;
        let image_ref = self.pull(&name, auth.as_ref()).await?;
        self.usages.changed();
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = named(request.into_inner().image)?;
        let engine = self.engine.clone();
        blocking::run(move || {
            let removed = engine.remove_whole_image(&name)?;
            if !removed.deleted.is_empty() {
                tracing::info!(
                    names = removed.untagged.join(", "),
                    freed = removed.freed,
                    "image removed"
                );
            }
            Ok(())
        })
        .await?;
        self.usages.changed();
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        Ok(Response::new(self.usages.answer(&self.engine).await?))
    }
}
