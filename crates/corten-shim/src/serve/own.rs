//! What Corten's engine asks beyond containerd's API.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use prost::Message;
use rustix::io::DupFlags;

use super::Shim;
use super::connection::Responder;
use super::create::{failed, invalid};
use super::forward::Forward;
use super::service::{Answer, decode};
use super::watch::Watch;
use crate::proto::corten::{
    ForwardRequest, InheritRequest, InheritResponse, LoopbackForward, ReopenLogRequest,
    WatchRequest,
};
use crate::ttrpc::status::{Code, Status};

impl Shim {
    /// `None`: the answer comes later.
    pub(super) fn own_call(
        &mut self,
        responder: Responder,
        method: &str,
        payload: &[u8],
    ) -> Option<Answer> {
        Some(match method {
            "Forward" => decode(payload).and_then(|r| self.forward(&r)),
            "Watch" => decode(payload).and_then(|r| self.watch(r)),
            "SetRestart" => decode(payload).and_then(|r| self.update_restart(r)),
            "ReopenLog" => decode(payload).and_then(|r: ReopenLogRequest| self.reopen_log(&r.id)),
            "WaitLast" => return self.wait_for_last(responder, decode(payload)),
            "HoldPod" => decode(payload).and_then(|r| self.hold_pod(&r)),
            "Inherit" => decode(payload).and_then(|r| self.inherit(&r)),
            "Check" => return self.check_now(responder, decode(payload)),
            other => {
                let text = format!("method {other} is not served");
                Err(Status::new(Code::Unimplemented, text))
            }
        })
    }

    /// Carries what reaches inherited sockets to the container's addresses, from now on.
    fn forward(&mut self, request: &ForwardRequest) -> Result<Vec<u8>, Status> {
        let open = |f: &LoopbackForward| {
            let socket = self.config.inherited.get(f.fd as usize);
            let socket = socket.and_then(|s| s.as_ref()?.try_clone().ok());
            let socket = socket.ok_or_else(|| {
                invalid(format!(
                    "loopback forward: no descriptor {} was passed on",
                    f.fd
                ))
            })?;
            Forward::new(socket, &f.protocol, &f.target).map_err(invalid)
        };
        let forwards = request
            .forwards
            .iter()
            .map(open)
            .collect::<Result<_, _>>()?;
        self.task(&request.id)?.forwards = forwards;
        Ok(Vec::new())
    }

    /// Puts what is at a path in the place of an inherited descriptor: what that held is let go.
    fn inherit(&mut self, request: &InheritRequest) -> Result<Vec<u8>, Status> {
        let slot = self.config.inherited.get_mut(request.place as usize);
        let slot = slot.and_then(Option::as_mut).ok_or_else(|| {
            let place = request.place;
            invalid(format!("inherit: no descriptor {place} was passed on"))
        })?;
        let path = Path::new(&request.path);
        let new = File::open(path).map_err(|e| failed("open", path, &e))?;
        rustix::io::dup3(&new, slot, DupFlags::CLOEXEC)
            .map_err(|e| failed("keep", path, &e.into()))?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), slot.as_raw_fd());
        Ok(InheritResponse { path }.encode_to_vec())
    }

    /// Looks after a process that the container needs, or no longer.
    fn watch(&mut self, request: WatchRequest) -> Result<Vec<u8>, Status> {
        let watch = match request.socket.is_empty() {
            true => None,
            false => Some(Watch::new(request.socket.into(), request.command)),
        };
        self.task(&request.id)?.watch = watch;
        Ok(Vec::new())
    }

    fn reopen_log(&mut self, id: &str) -> Answer {
        let Some(log) = &mut self.task(id)?.init.io.log else {
            let text = format!("container {id} has no log");
            return Err(Status::new(Code::FailedPrecondition, text));
        };
        let reopened = log.reopen();
        reopened.map_err(|e| {
            Status::new(Code::Unknown, format!("cannot reopen the log of {id}: {e}"))
        })?;
        Ok(Vec::new())
    }
}
