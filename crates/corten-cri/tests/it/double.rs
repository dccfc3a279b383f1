//! Services that do what a test wants of them: answer, wait for ever, or stream without end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use corten_cri::proto::image_service_server::ImageService;
use corten_cri::proto::runtime_service_server::RuntimeService;
use corten_cri::proto::*;
use tonic::codegen::tokio_stream::{self, Empty, Stream};
use tonic::{Request, Response, Status};

/// Pulls never end; `dropped` counts those that were given up.
#[derive(Default)]
pub struct Images {
    pub dropped: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type StreamImagesStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<StreamImagesResponse, Status>>>;

    /// As many bytes as the filter's annotations ask for.
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let spec = request
            .into_inner()
            .filter
            .and_then(|f| f.image)
            .unwrap_or_default();
        let length = spec.image.parse().unwrap_or(0);
        let image = Image {
            username: "x".repeat(length),
            ..Image::default()
        };
        Ok(Response::new(ListImagesResponse {
            images: vec![image],
        }))
    }

    async fn stream_images(
        &self,
        _: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let pieces = vec![
            Ok(StreamImagesResponse::default()),
            Err(Status::data_loss("in the middle")),
        ];
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn image_status(
        &self,
        _: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        Err(Status::not_found("no such \u{fc}mage\nanywhere"))
    }

    async fn pull_image(
        &self,
        _: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let _counted = Counted(self.dropped.clone());
        std::future::pending().await
    }

    async fn remove_image(
        &self,
        _: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        Ok(Response::new(ImageFsInfoResponse::default()))
    }
}

/// Events never come, and never end.
pub struct Runtime;

pub struct Silence;

impl Stream for Silence {
    type Item = Result<ContainerEventResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Pending
    }
}

macro_rules! runtime {
    ($(call $name:ident($asked:ident) -> $answer:ident;)*
     $(stream $stream_name:ident($stream_asked:ident) -> $item:ident as $stream:ident;)*) => {
        #[tonic::async_trait]
        impl RuntimeService for Runtime {
            async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
                Ok(Response::new(VersionResponse {
                    version: request.into_inner().version,
                    ..VersionResponse::default()
                }))
            }

            async fn stop_container(&self, _: Request<StopContainerRequest>) -> Result<Response<StopContainerResponse>, Status> {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                Ok(Response::new(StopContainerResponse {}))
            }

            type GetContainerEventsStream = Silence;

            async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Result<Response<Silence>, Status> {
                Ok(Response::new(Silence))
            }

            $(async fn $name(&self, _: Request<$asked>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented("not by this double"))
            })*

            $(type $stream = Empty<Result<$item, Status>>;

            async fn $stream_name(&self, _: Request<$stream_asked>) -> Result<Response<Self::$stream>, Status> {
                Err(Status::unimplemented("not by this double"))
            })*
        }
    };
}

runtime! {
    call run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    call stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    call remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    call pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    call list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    call create_container(CreateContainerRequest) -> CreateContainerResponse;
    call start_container(StartContainerRequest) -> StartContainerResponse;
    call remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    call list_containers(ListContainersRequest) -> ListContainersResponse;
    call container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    call update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    call reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    call exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    call exec(ExecRequest) -> ExecResponse;
    call attach(AttachRequest) -> AttachResponse;
    call port_forward(PortForwardRequest) -> PortForwardResponse;
    call container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    call list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    call pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    call list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    call update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    call status(StatusRequest) -> StatusResponse;
    call checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    call list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    call list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    call runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    call update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    stream stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse as StreamPodSandboxesStream;
    stream stream_containers(StreamContainersRequest) -> StreamContainersResponse as StreamContainersStream;
    stream stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse as StreamContainerStatsStream;
    stream stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse as StreamPodSandboxStatsStream;
    stream stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse as StreamPodSandboxMetricsStream;
}
