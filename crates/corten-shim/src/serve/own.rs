//! What Corten's engine asks beyond containerd's API.

use super::Shim;
use super::connection::Responder;
use super::create::invalid;
use super::forward::Forward;
use super::service::{Answer, decode};
use super::watch::Watch;
use crate::proto::corten::{ForwardRequest, LoopbackForward, ReopenLogRequest, WatchRequest};
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
