//! The runtime's version and condition, while there is nothing behind the other calls of its service: each of those says so.

use corten_cri::proto::runtime_service_server::RuntimeService;
use corten_cri::proto::*;
use tonic::codegen::tokio_stream::Empty;
use tonic::{Request, Response, Status};

pub struct Bare;

macro_rules! bare {
    ($(call $name:ident($asked:ident) -> $answer:ident;)*
     $(stream $stream_name:ident($stream_asked:ident) -> $item:ident as $stream:ident;)*) => {
        #[tonic::async_trait]
        impl RuntimeService for Bare {
            async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
                Ok(Response::new(VersionResponse {
                    version: "0.1.0".into(),
                    runtime_name: "corten".into(),
                    runtime_version: env!("CARGO_PKG_VERSION").into(),
                    runtime_api_version: "v1".into(),
                }))
            }

            async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
                let condition = |name: &str| RuntimeCondition {
                    r#type: name.into(),
                    status: false,
                    reason: "NoPods".into(),
                    message: "this version serves images, and no pods".into(),
                };
                Ok(Response::new(StatusResponse {
                    status: Some(RuntimeStatus {
                        conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
                    }),
                    ..StatusResponse::default()
                }))
            }

            $(async fn $name(&self, _: Request<$asked>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented("this version serves images, and no pods"))
            })*

            $(type $stream = Empty<Result<$item, Status>>;

            async fn $stream_name(&self, _: Request<$stream_asked>) -> Result<Response<Self::$stream>, Status> {
                Err(Status::unimplemented("this version serves images, and no pods"))
            })*
        }
    };
}

bare! {
    call run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    call stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    call remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    call pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    call list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    call create_container(CreateContainerRequest) -> CreateContainerResponse;
    call start_container(StartContainerRequest) -> StartContainerResponse;
    call stop_container(StopContainerRequest) -> StopContainerResponse;
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
    call checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    call list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    call list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    call runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    call update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    stream stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse as StreamPodSandboxesStream;
    stream stream_containers(StreamContainersRequest) -> StreamContainersResponse as StreamContainersStream;
    stream stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse as StreamContainerStatsStream;
    stream stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse as StreamPodSandboxStatsStream;
    stream get_container_events(GetEventsRequest) -> ContainerEventResponse as GetContainerEventsStream;
    stream stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse as StreamPodSandboxMetricsStream;
}
