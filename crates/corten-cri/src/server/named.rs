//! Between the wire and the services: learns from each message which pod and which container it is about.
//!
//! The table below is the interface, call by call; a call that it lacks, or that the interface lacks, does not compile.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::Subject;
use crate::proto::image_service_server::{self, ImageService};
use crate::proto::runtime_service_server::{self, RuntimeService};
use crate::proto::*;

/// A service whose calls tell what they are about.
pub(super) struct Named<S>(pub Arc<S>);

/// `[set field]` after a message: where it names the pod or the container.
macro_rules! services {
    ($(
        $trait:ident $module:ident $list:ident {
            $(call $rpc:ident $name:ident($asked:ident $([$set:ident $field:ident])*)
                -> $answer:ident $([$answer_set:ident $answer_field:ident])*;)*
            $(stream $stream_rpc:ident $stream_name:ident($stream_asked:ident) -> $stream:ident;)*
        }
    )*) => {
        $(
            const $list: &[&str] = &[$(stringify!($rpc),)* $(stringify!($stream_rpc)),*];

            #[tonic::async_trait]
            impl<S: $trait> $trait for Named<S> {
                $(
                    async fn $name(
                        &self,
                        request: Request<$asked>,
                    ) -> Result<Response<$answer>, Status> {
                        let _subject = subject(&request);
                        $(_subject.$set(&request.get_ref().$field);)*
                        let answer = self.0.$name(request).await?;
                        $(_subject.$answer_set(&answer.get_ref().$answer_field);)*
                        Ok(answer)
                    }
                )*
                $(
                    type $stream = S::$stream;

                    async fn $stream_name(
                        &self,
                        request: Request<$stream_asked>,
                    ) -> Result<Response<S::$stream>, Status> {
                        self.0.$stream_name(request).await
                    }
                )*
            }
        )*

        /// Every call: its service, and its name.
        pub const METHODS: &[(&str, &[&str])] =
            &[$(($module::SERVICE_NAME, $list)),*];
    };
}

services! {
    RuntimeService runtime_service_server RUNTIME {
        call Version version(VersionRequest) -> VersionResponse;
        call RunPodSandbox run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse [set_pod pod_sandbox_id];
        call StopPodSandbox stop_pod_sandbox(StopPodSandboxRequest [set_pod pod_sandbox_id]) -> StopPodSandboxResponse;
        call RemovePodSandbox remove_pod_sandbox(RemovePodSandboxRequest [set_pod pod_sandbox_id]) -> RemovePodSandboxResponse;
        call PodSandboxStatus pod_sandbox_status(PodSandboxStatusRequest [set_pod pod_sandbox_id]) -> PodSandboxStatusResponse;
        call ListPodSandbox list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        call CreateContainer create_container(CreateContainerRequest [set_pod pod_sandbox_id]) -> CreateContainerResponse [set_container container_id];
        call StartContainer start_container(StartContainerRequest [set_container container_id]) -> StartContainerResponse;
        call StopContainer stop_container(StopContainerRequest [set_container container_id]) -> StopContainerResponse;
        call RemoveContainer remove_container(RemoveContainerRequest [set_container container_id]) -> RemoveContainerResponse;
        call ListContainers list_containers(ListContainersRequest) -> ListContainersResponse;
        call ContainerStatus container_status(ContainerStatusRequest [set_container container_id]) -> ContainerStatusResponse;
        call UpdateContainerResources update_container_resources(UpdateContainerResourcesRequest [set_container container_id]) -> UpdateContainerResourcesResponse;
        call ReopenContainerLog reopen_container_log(ReopenContainerLogRequest [set_container container_id]) -> ReopenContainerLogResponse;
        call ExecSync exec_sync(ExecSyncRequest [set_container container_id]) -> ExecSyncResponse;
        call Exec exec(ExecRequest [set_container container_id]) -> ExecResponse;
        call Attach attach(AttachRequest [set_container container_id]) -> AttachResponse;
        call PortForward port_forward(PortForwardRequest [set_pod pod_sandbox_id]) -> PortForwardResponse;
        call ContainerStats container_stats(ContainerStatsRequest [set_container container_id]) -> ContainerStatsResponse;
        call ListContainerStats list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        call PodSandboxStats pod_sandbox_stats(PodSandboxStatsRequest [set_pod pod_sandbox_id]) -> PodSandboxStatsResponse;
        call ListPodSandboxStats list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        call UpdateRuntimeConfig update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        call Status status(StatusRequest) -> StatusResponse;
        call CheckpointContainer checkpoint_container(CheckpointContainerRequest [set_container container_id]) -> CheckpointContainerResponse;
        call ListMetricDescriptors list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        call ListPodSandboxMetrics list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        call RuntimeConfig runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        call UpdatePodSandboxResources update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest [set_pod pod_sandbox_id]) -> UpdatePodSandboxResourcesResponse;
        stream StreamPodSandboxes stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesStream;
        stream StreamContainers stream_containers(StreamContainersRequest) -> StreamContainersStream;
        stream StreamContainerStats stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsStream;
        stream StreamPodSandboxStats stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsStream;
        stream GetContainerEvents get_container_events(GetEventsRequest) -> GetContainerEventsStream;
        stream StreamPodSandboxMetrics stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsStream;
    }
    ImageService image_service_server IMAGE {
        call ListImages list_images(ListImagesRequest) -> ListImagesResponse;
        call ImageStatus image_status(ImageStatusRequest) -> ImageStatusResponse;
        call PullImage pull_image(PullImageRequest) -> PullImageResponse;
        call RemoveImage remove_image(RemoveImageRequest) -> RemoveImageResponse;
        call ImageFsInfo image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
        stream StreamImages stream_images(StreamImagesRequest) -> StreamImagesStream;
    }
}

/// What the server has put beside the request; a caller that is no server of ours has none.
fn subject<T>(request: &Request<T>) -> Subject {
    request
        .extensions()
        .get::<Subject>()
        .cloned()
        .unwrap_or_default()
}

/// The service and the method of a path, if they are the interface's.
pub(super) fn known(path: &str) -> (&'static str, &'static str) {
    let mut parts = path.strip_prefix('/').unwrap_or(path).splitn(2, '/');
    let (service, method) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    for (name, methods) in METHODS {
        if *name == service
            && let Some(found) = methods.iter().find(|m| **m == method)
        {
            return (name, found);
        }
    }
    match service {
        super::health::SERVICE_NAME if method == "Check" => (super::health::SERVICE_NAME, "Check"),
        _ => ("", "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_interface_is_known() {
        let count: usize = METHODS.iter().map(|(_, m)| m.len()).sum();
        assert_eq!(count, 41);
        assert_eq!(
            known("/runtime.v1.ImageService/PullImage"),
            ("runtime.v1.ImageService", "PullImage")
        );
        assert_eq!(known("/runtime.v1.ImageService/Stop"), ("", "unknown"));
        assert_eq!(known("/x"), ("", "unknown"));
    }
}
