//! GetContainerEvents: what happens to pods and containers, as it happens.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::error::RecvError;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use super::Shared;
use super::book::PodEntry;
use crate::proto::{ContainerEventResponse, ContainerEventType};

impl Shared {
    /// Tells whoever listens. `id`: of a container of the pod, or its own.
    pub(super) fn tell(&self, kind: ContainerEventType, id: &str, pod: &PodEntry) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let deleted = kind == ContainerEventType::ContainerDeletedEvent;
        let containers = self.book.containers_of(&pod.id);
        let directory = &pod.document.config.log_directory;
        let event = ContainerEventResponse {
            container_id: id.into(),
            container_event_type: kind.into(),
            created_at: now(),
            // A pod that is removed has no status.
            pod_sandbox_status: (!(deleted && id == pod.id.as_str())).then(|| pod.status()),
            containers_statuses: containers.iter().map(|c| c.status(directory)).collect(),
        };
        // Nobody listens any more.
        let _heard = self.events.send(event);
    }

    pub(super) fn listen(
        &self,
    ) -> impl Stream<Item = Result<ContainerEventResponse, Status>> + Send + use<> {
        let receiver = self.events.subscribe();
        passed_on(receiver)
    }
}

/// Whoever falls behind goes on with what is there: kubelet lists everything from time to time anyway.
fn passed_on(
    receiver: tokio::sync::broadcast::Receiver<ContainerEventResponse>,
) -> impl Stream<Item = Result<ContainerEventResponse, Status>> + Send {
    let (sender, events) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let mut receiver = receiver;
        loop {
            let next = tokio::select! {
                next = receiver.recv() => next,
                () = sender.closed() => return,
            };
            match next {
                Ok(event) => {
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a listener of events is too slow");
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
    tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(events)
}

/// Nanoseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |s| s.as_nanos() as i64)
}
