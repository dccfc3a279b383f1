//! One method a call; the work is elsewhere.

use std::pin::Pin;

use tonic::codegen::tokio_stream::{self, Stream};
use tonic::{Request, Response, Status};

use super::Runtime;
use super::status::version;
use crate::proto::runtime_service_server::RuntimeService;
use crate::proto::*;

/// Items in one piece of a streamed list.
const CHUNK: usize = 100;

type Answer<T> = Result<Response<T>, Status>;
type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

/// A list in pieces of at least one item; of an empty list there are none.
fn pieces<I: Clone + Send + 'static, T: Send + 'static>(
    items: Vec<I>,
    piece: impl Fn(Vec<I>) -> T,
) -> Answer<Pieces<T>> {
    let all: Vec<Result<T, Status>> = items.chunks(CHUNK).map(|c| Ok(piece(c.to_vec()))).collect();
    answer(Box::pin(tokio_stream::iter(all)))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(version())
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest {
            config,
            runtime_handler,
        } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("config: there is none"))?;
        let pod_sandbox_id = self.shared.run_sandbox(config, runtime_handler).await?;
        answer(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.shared.stop_sandbox(&id).await?;
        answer(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.shared.remove_sandbox(&id).await?;
        answer(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose,
        } = request.into_inner();
        if let Some(row) = self.shared.book.find_unread(&pod_sandbox_id, true) {
            return answer(PodSandboxStatusResponse {
                status: Some(row.pod_status()),
                timestamp: super::events::now(),
                ..PodSandboxStatusResponse::default()
            });
        }
        let pod = self.shared.book.pod(&pod_sandbox_id)?;
        let info = match verbose {
            true => {
                let bundle = self.shared.engine.paths().pod_bundle(&pod.id);
                let read = move || Ok(super::plan::shown(&bundle.join("config.json")));
                pod.info(crate::blocking::status(read).await?)
            }
            false => Default::default(),
        };
        let containers = self.shared.book.containers_of(&pod.id);
        let directory = &pod.document.config.log_directory;
        answer(PodSandboxStatusResponse {
            status: Some(pod.status()),
            info,
            containers_statuses: containers.iter().map(|c| c.status(directory)).collect(),
            timestamp: super::events::now(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let items = self.shared.list_sandboxes(request.into_inner().filter);
        answer(ListPodSandboxResponse { items })
    }

    type StreamPodSandboxesStream = Pieces<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = self.shared.list_sandboxes(request.into_inner().filter);
        pieces(items, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        })
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let container_id = self.shared.create(request.into_inner()).await?;
        answer(CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        self.shared
            .start(&request.into_inner().container_id)
            .await?;
        answer(StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let StopContainerRequest {
            container_id,
            timeout,
        } = request.into_inner();
        self.shared.stop(&container_id, timeout).await?;
        answer(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.shared
            .remove(&request.into_inner().container_id)
            .await?;
        answer(RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let containers = self.shared.list(request.into_inner().filter);
        answer(ListContainersResponse { containers })
    }

    type StreamContainersStream = Pieces<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = self.shared.list(request.into_inner().filter);
        pieces(items, |containers| StreamContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let ContainerStatusRequest {
            container_id,
            verbose,
        } = request.into_inner();
        if let Some(row) = self.shared.book.find_unread(&container_id, false) {
            return answer(ContainerStatusResponse {
                status: Some(row.container_status()),
                ..ContainerStatusResponse::default()
            });
        }
        let entry = self.shared.book.container(&container_id)?;
        let info = match verbose {
            true => {
                let (shared, entry) = (self.shared.clone(), entry.clone());
                crate::blocking::status(move || Ok(shared.container_info(&entry))).await?
            }
            false => Default::default(),
        };
        let directory = self.shared.log_directory(&entry);
        answer(ContainerStatusResponse {
            status: Some(entry.status(&directory)),
            info,
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        self.shared.limit(request.into_inner()).await?;
        answer(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.shared
            .reopen_log(&request.into_inner().container_id)
            .await?;
        answer(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        answer(self.shared.exec_sync(request.into_inner()).await?)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let url = self.shared.exec_url(request.into_inner())?;
        answer(ExecResponse { url })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let url = self.shared.attach_url(request.into_inner())?;
        answer(AttachResponse { url })
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Answer<PortForwardResponse> {
        let url = self.shared.forward_url(request.into_inner())?;
        answer(PortForwardResponse { url })
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let stats = self.shared.container_stats(&id).await?;
        answer(ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = self.shared.all_container_stats(request.into_inner().filter);
        answer(ListContainerStatsResponse {
            stats: stats.await?,
        })
    }

    type StreamContainerStatsStream = Pieces<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.shared.all_container_stats(request.into_inner().filter);
        pieces(stats.await?, |container_stats| {
            StreamContainerStatsResponse { container_stats }
        })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = self.shared.pod_stats(&id).await?;
        answer(PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = self.shared.all_pod_stats(request.into_inner().filter);
        answer(ListPodSandboxStatsResponse {
            stats: stats.await?,
        })
    }

    type StreamPodSandboxStatsStream = Pieces<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.shared.all_pod_stats(request.into_inner().filter);
        pieces(stats.await?, |pod_sandbox_stats| {
            StreamPodSandboxStatsResponse { pod_sandbox_stats }
        })
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config;
        self.shared.update_runtime_config(config).await?;
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        answer(self.shared.status(request.into_inner().verbose).await?)
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        self.shared.checkpoint(request.into_inner()).await?;
        answer(CheckpointContainerResponse {})
    }

    type GetContainerEventsStream = Pieces<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        answer(Box::pin(self.shared.listen()))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let descriptors = crate::stats::descriptors();
        answer(ListMetricDescriptorsResponse { descriptors })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let pod_metrics = self.shared.metrics().await?;
        answer(ListPodSandboxMetricsResponse { pod_metrics })
    }

    type StreamPodSandboxMetricsStream = Pieces<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let all = self.shared.metrics().await?;
        pieces(all, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        })
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        answer(self.shared.runtime_config())
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        self.shared.limit_pod(request.into_inner())?;
        answer(UpdatePodSandboxResourcesResponse {})
    }
}
