//! CheckpointContainer, and which checkpoint a container that is to be made goes on from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corten_engine::Engine;
use corten_engine::image::ImageRecord;
use corten_engine::pod::{Archived, CheckpointAsk, GivenUp};
use serde_json::{Value, json};
use tonic::Status;

use super::Shared;
use super::book::{ContainerEntry, PodEntry};
use crate::blocking;
use crate::proto::{CheckpointContainerRequest, ContainerStatus};

/// Seconds: what is longer is as good as for ever.
const PATIENCE_MAX: i64 = 366 * 24 * 3600;

impl Shared {
    /// Runs to its end even if nobody waits any more; but once `timeout` has passed no archive comes of it.
    pub(super) async fn checkpoint(
        self: &Arc<Self>,
        request: CheckpointContainerRequest,
    ) -> Result<(), Status> {
        let entry = self.book.container(&request.container_id)?;
        let pod = self.book.pod(entry.pod.as_str())?;
        Engine::check_checkpoint_location(Path::new(&request.location))
            .map_err(|e| Status::invalid_argument(format!("location: {e}")))?;
        let timeout = request.timeout;
        if timeout < 0 {
            return Err(Status::invalid_argument(format!(
                "timeout: {timeout} seconds are less than none"
            )));
        }
        running(&entry)?;
        let given_up = Arc::new(GivenUp::default());
        let work = self.clone().write(pod, entry, request, given_up.clone());
        let mut task = tokio::spawn(work);
        let ended = || Status::internal("the checkpoint ended without a result");
        if timeout > 0 {
            let patience = Duration::from_secs(timeout.min(PATIENCE_MAX).unsigned_abs());
            match tokio::time::timeout(patience, &mut task).await {
                Ok(done) => return done.map_err(|_| ended())?,
                Err(_) if given_up.give_up() => {
                    return Err(Status::deadline_exceeded(format!(
                        "the container was not checkpointed within {timeout} s"
                    )));
                }
                // It is just getting its name.
                Err(_) => {}
            }
        }
        task.await.map_err(|_| ended())?
    }

    async fn write(
        self: Arc<Self>,
        pod: Arc<PodEntry>,
        entry: Arc<ContainerEntry>,
        request: CheckpointContainerRequest,
        given_up: Arc<GivenUp>,
    ) -> Result<(), Status> {
        // A second one waits for the first; so do its removal and other limits.
        let _busy = entry.busy.lock().await;
        running(&entry)?;
        let status = shown(&entry.status(&self.log_directory(&entry))).to_string();
        let (record, container) = (pod.now().pod, entry.now().container);
        let engine = self.engine.clone();
        blocking::run(move || {
            engine.checkpoint_container(
                &record,
                &container,
                &CheckpointAsk {
                    location: Path::new(&request.location),
                    status: &status,
                    given_up: &given_up,
                },
            )
        })
        .await
    }

    /// What a container is made of: an image, or the image below a checkpoint and that.
    pub(super) fn image_or_checkpoint(
        &self,
        asked: &str,
    ) -> Result<(ImageRecord, Option<Archived>), Status> {
        let failed = |e: corten_engine::Error| crate::status::of(&e);
        let archived = if asked.starts_with('/') {
            let opened = self.engine.open_checkpoint(Path::new(asked));
            opened.map_err(failed)?
        } else {
            let image = self.engine.image(asked).map_err(failed)?;
            if !self.engine.holds_checkpoint(&image).map_err(failed)? {
                return Ok((image, None));
            }
            if !self.settings.restore_images {
                return Err(Status::failed_precondition(format!(
                    "image {asked:?} is a checkpoint, and images.restore-checkpoints of serve.toml does not allow those"
                )));
            }
            let opened = self.engine.open_checkpoint_image(&image);
            opened.map_err(failed)?
        };
        let base = self.engine.checkpoint_base(&archived).map_err(failed)?;
        Ok((base, Some(archived)))
    }
}

fn running(entry: &ContainerEntry) -> Result<(), Status> {
    match entry.now().is_running() {
        true => Ok(()),
        false => Err(Status::failed_precondition(format!(
            "container {} is not running, and only what runs can be checkpointed",
            entry.id
        ))),
    }
}

/// A container's status in the JSON that others put into archives, by the interface's own names.
fn shown(status: &ContainerStatus) -> Value {
    let metadata = status.metadata.clone().unwrap_or_default();
    let image = status.image.clone().unwrap_or_default();
    json!({
        "id": status.id,
        "metadata": {"name": metadata.name, "attempt": metadata.attempt},
        "state": status.state,
        "created_at": status.created_at,
        "started_at": status.started_at,
        "image": {"image": image.image},
        "image_ref": status.image_ref,
        "image_id": status.image_id,
        "labels": status.labels,
        "annotations": status.annotations,
        "log_path": status.log_path,
        "mounts": status.mounts.iter().map(|m| json!({
            "container_path": m.container_path,
            "host_path": m.host_path,
            "readonly": m.readonly,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ContainerMetadata;

    #[test]
    fn a_status_has_the_interfaces_names() {
        let metadata = Some(ContainerMetadata {
            name: "web".into(),
            attempt: 2,
        });
        let status = ContainerStatus {
            id: "4f".into(),
            metadata,
            state: 1,
            ..ContainerStatus::default()
        };
        let shown = shown(&status);
        assert_eq!(shown["metadata"]["attempt"], 2);
        assert_eq!((&shown["id"], &shown["state"]), (&json!("4f"), &json!(1)));
    }
}
