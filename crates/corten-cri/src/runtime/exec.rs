use super::Shared;
use crate::proto::*;
use tonic::Status;
impl Shared {
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
