//! placeholder
use super::Shared;
use crate::proto::*;
use tonic::Status;
pub fn descriptors() -> Vec<MetricDescriptor> {
    Vec::new()
}
impl Shared {
    pub(super) async fn container_stats(&self, _id: &str) -> Result<ContainerStats, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) async fn all_container_stats(
        &self,
        _f: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) async fn pod_stats(&self, _id: &str) -> Result<PodSandboxStats, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) async fn all_pod_stats(
        &self,
        _f: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) async fn metrics(&self) -> Result<Vec<PodSandboxMetrics>, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) async fn checkpoint(&self, _r: CheckpointContainerRequest) -> Result<(), Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) async fn exec_sync(&self, _r: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) fn exec_url(&self, _r: ExecRequest) -> Result<String, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) fn attach_url(&self, _r: AttachRequest) -> Result<String, Status> {
        Err(Status::unimplemented("x"))
    }
    pub(super) fn forward_url(&self, _r: PortForwardRequest) -> Result<String, Status> {
        Err(Status::unimplemented("x"))
    }
}
