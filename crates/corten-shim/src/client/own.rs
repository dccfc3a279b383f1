//! What a supervisor of ours is asked beyond containerd's Task API: our own service, and the pod that it holds.

use std::path::{Path, PathBuf};

use super::{Client, Exit, exit_of};
use crate::proto::corten::{
    CheckRequest, CheckResponse, ForwardRequest, HoldPodRequest, HoldPodResponse, InheritRequest,
    InheritResponse, LoopbackForward, ReopenLogRequest, Restart, SetRestartRequest, SmallFile,
    WatchRequest,
};
use crate::proto::sandbox::{SandboxRequest, SandboxStatusRequest, SandboxStatusResponse};
use crate::{Error, OWN_SERVICE, SANDBOX_SERVICE};

impl Client {
    /// Carries what reaches the inherited sockets to the container; once its addresses are known.
    pub fn forward(&mut self, forwards: Vec<LoopbackForward>) -> Result<(), Error> {
        let message = ForwardRequest {
            id: self.id.clone(),
            forwards,
        };
        self.ask(OWN_SERVICE, "Forward", &message)
    }

    /// Puts what is at a path in the place of a descriptor that the shim inherited. Returns where it is found for as long as
    /// the shim lives.
    pub fn inherit(&mut self, place: usize, path: &Path) -> Result<PathBuf, Error> {
        let message = InheritRequest {
            place: place as u32,
            path: path.to_string_lossy().into_owned(),
        };
        let answer: InheritResponse = self.ask(OWN_SERVICE, "Inherit", &message)?;
        Ok(answer.path.into())
    }

    /// Makes the namespaces of a pod, whose id this client has, by the `config.json` of the shim's bundle.
    pub fn hold_pod(
        &mut self,
        shm_size: u64,
        files: &[(&str, String)],
    ) -> Result<HoldPodResponse, Error> {
        let files = files.iter().map(|(name, text)| SmallFile {
            name: (*name).into(),
            text: text.clone(),
        });
        let message = HoldPodRequest {
            id: self.id.clone(),
            shm_size,
            files: files.collect(),
        };
        self.ask(OWN_SERVICE, "HoldPod", &message)
    }

    /// Whether the shim holds this pod, and what holds it with the shim lives.
    pub fn holds_pod(&mut self) -> Result<bool, Error> {
        let message = SandboxStatusRequest {
            sandbox_id: self.id.clone(),
            verbose: false,
        };
        let status: SandboxStatusResponse = self.ask(SANDBOX_SERVICE, "SandboxStatus", &message)?;
        Ok(status.state == "SANDBOX_READY")
    }

    /// Ends the pod that the shim holds: its containers, its namespaces, and the shim. Waits for its end if it is our child.
    pub fn end_pod(mut self) -> Result<(), Error> {
        let message = SandboxRequest {
            sandbox_id: self.id.clone(),
        };
        self.ask::<()>(SANDBOX_SERVICE, "ShutdownSandbox", &message)?;
        self.reap();
        Ok(())
    }

    /// While the container runs, `command` is run whenever nobody answers at `socket`. An empty socket ends that.
    pub fn watch(&mut self, socket: &Path, command: Vec<String>) -> Result<(), Error> {
        let message = WatchRequest {
            id: self.id.clone(),
            socket: socket.to_string_lossy().into_owned(),
            command,
        };
        self.ask(OWN_SERVICE, "Watch", &message)
    }

    /// When the container is to be started again, from now on.
    pub fn set_restart(&mut self, restart: Restart) -> Result<(), Error> {
        let message = SetRestartRequest {
            id: self.id.clone(),
            restart: Some(restart),
        };
        self.ask(OWN_SERVICE, "SetRestart", &message)
    }

    /// Runs the container's health check now, or waits for the one that runs.
    pub fn check(&mut self) -> Result<CheckResponse, Error> {
        let message = CheckRequest {
            id: self.id.clone(),
        };
        self.ask(OWN_SERVICE, "Check", &message)
    }

    /// Waits until the container has ended for good: not only to be started again.
    pub fn wait_last(&mut self) -> Result<Exit, Error> {
        let message = self.process("");
        let stream = self.send_to(OWN_SERVICE, "WaitLast", &message)?;
        let bytes = self.finish("WaitLast", stream)?;
        exit_of(&bytes)
    }

    /// After the log's file was renamed: records go to a new file of its name from now on.
    pub fn reopen_log(&mut self) -> Result<(), Error> {
        let message = ReopenLogRequest {
            id: self.id.clone(),
        };
        self.ask(OWN_SERVICE, "ReopenLog", &message)
    }
}
