//! Containers: create, start, stop, remove, list; limits and logs.

use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use corten_engine::pod::{ContainerAsk, PodContainer, Settings as Kept};
use tonic::Status;

use super::book::{ContainerEntry, Exit, PodEntry};
use super::document::ContainerDocument;
use super::{Shared, filter, state};
use crate::blocking;
use crate::proto::{
    Container, ContainerConfig, ContainerEventType, ContainerFilter, ContainerMetadata,
    CreateContainerRequest,
};

/// Seconds; what is longer means for ever, and is no shorter than a year.
const PATIENCE_MAX: i64 = 366 * 24 * 3600;

impl Shared {
    pub(super) async fn create(
        self: &Arc<Self>,
        request: CreateContainerRequest,
    ) -> Result<String, Status> {
        let pod = self.book.pod(&request.pod_sandbox_id)?;
        let config = request
            .config
            .ok_or_else(|| Status::invalid_argument("config: there is none"))?;
        let metadata = metadata(&config)?;
        if Path::new(&config.log_path)
            .components()
            .any(|c| c == Component::ParentDir)
        {
            return Err(Status::invalid_argument(format!(
                "config.log_path: {:?} leads out of the pod's folder of logs",
                config.log_path
            )));
        }
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let _busy = pod.busy.lock().await;
            if !pod.is_ready() {
                return Err(Status::failed_precondition(format!(
                    "pod sandbox {} is not ready",
                    pod.id
                )));
            }
            let (worker, for_worker) = (shared.clone(), pod.clone());
            let made =
                blocking::status(move || worker.make(&for_worker, config, &metadata)).await?;
            let id = made.id.to_string();
            shared.book.add_container(made);
            shared.tell(ContainerEventType::ContainerCreatedEvent, &id, &pod);
            Ok(id)
        });
        task.await
            .map_err(|_| Status::internal("the making of the container ended without a result"))?
    }

    fn make(
        &self,
        pod: &PodEntry,
        mut config: ContainerConfig,
        metadata: &ContainerMetadata,
    ) -> Result<Arc<ContainerEntry>, Status> {
        let failed = |e: corten_engine::Error| crate::status::of(&e);
        let asked = config.image.clone().unwrap_or_default().image;
        let (image, archived) = self.image_or_checkpoint(&asked)?;
        let now = pod.now();
        let sandbox = pod.document.config.metadata.clone().unwrap_or_default();
        let ask = ContainerAsk {
            name: format!(
                "{}_{}_{}_{}_{}",
                metadata.name, sandbox.name, sandbox.namespace, sandbox.uid, metadata.attempt
            ),
            image: &image,
        };
        let mut draft = self.engine.draft(&now.pod, &ask).map_err(failed)?;
        // Before anybody looks into its root.
        let checkpoint = archived.map(|archived| draft.restore(&archived));
        let checkpoint = checkpoint.transpose().map_err(failed)?;
        let planned = super::plan::container(self, pod, &config, &mut draft)?;
        let log = state::log_path(&pod.document.config.log_directory, &config.log_path);
        let kept = Kept {
            log: (!log.is_empty()).then(|| log.into()),
            log_root: Some(pod.document.config.log_directory.clone())
                .filter(|folder| !folder.is_empty())
                .map(Into::into),
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            stop_signal: planned.stop_signal,
            target: planned.target,
            checkpoint,
        };
        for (place, id) in planned.volumes {
            let image = config.mounts.get_mut(place).and_then(|m| m.image.as_mut());
            if let Some(image) = image {
                // What the status tells of the volume.
                image.image_ref = id;
            }
        }
        let document = ContainerDocument {
            config,
            image_id: image.config.to_string(),
            user: planned.user,
            stop_signal: planned.signal_name,
        };
        let container = draft
            .finish(&planned.spec, kept, document.text())
            .map_err(failed)?;
        Ok(ContainerEntry::new(container, document, None))
    }

    pub(super) async fn start(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let entry = self.book.container(id)?;
        let pod = self.book.pod(entry.pod.as_str())?;
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let _busy = entry.busy.lock().await;
            let (engine, record) = (shared.engine.clone(), pod.now().pod);
            let mut container = PodContainer::clone(&entry.now().container);
            let (container, started) = blocking::status(move || {
                let started = engine.start_pod_container(&record, &mut container);
                Ok((container, started.map_err(|e| crate::status::of(&e))))
            })
            .await?;
            let failed = Exit::of_failure(&container.record);
            entry.set(container);
            // There may be no process whose end could be told: this is it, and it is told once.
            if failed.is_some_and(|exit| entry.set_exit(exit)) {
                let id = entry.id.as_str();
                shared.tell(ContainerEventType::ContainerStoppedEvent, id, &pod);
            }
            started?;
            // It may have ended before we knew that it began.
            shared.tell(
                ContainerEventType::ContainerStartedEvent,
                entry.id.as_str(),
                &pod,
            );
            shared.exited(entry.id.as_str()).await;
            Ok(())
        });
        task.await
            .map_err(|_| Status::internal("the start of the container ended without a result"))?
    }

    /// One that is not there is stopped. `timeout` in seconds.
    pub(super) async fn stop(self: &Arc<Self>, id: &str, timeout: i64) -> Result<(), Status> {
        self.book.readable(id, false)?;
        let Some(entry) = self.book.find_container(id) else {
            return Ok(());
        };
        let patience = Duration::from_secs(timeout.clamp(0, PATIENCE_MAX) as u64);
        let (engine, container) = (self.engine.clone(), entry.now().container);
        blocking::run(move || engine.stop_pod_container(&container, patience)).await?;
        self.exited(entry.id.as_str()).await;
        Ok(())
    }

    /// One that is not there is removed; one that runs is killed.
    pub(super) async fn remove(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        self.book.readable(id, false)?;
        let Some(entry) = self.book.find_container(id) else {
            return Ok(());
        };
        let Some(pod) = self.book.find_pod(entry.pod.as_str()) else {
            return Ok(());
        };
        let shared = self.clone();
        let task = tokio::spawn(async move { shared.remove_entry(&pod, &entry).await });
        task.await
            .map_err(|_| Status::internal("the removal of the container ended without a result"))?
    }

    pub(super) async fn remove_entry(
        self: &Arc<Self>,
        pod: &Arc<PodEntry>,
        entry: &Arc<ContainerEntry>,
    ) -> Result<(), Status> {
        let _busy = entry.busy.lock().await;
        if self.book.find_container(entry.id.as_str()).is_none() {
            return Ok(());
        }
        let (engine, record) = (self.engine.clone(), pod.now().pod);
        let now = entry.now();
        let (container, running) = (now.container.clone(), now.is_running());
        if running {
            let (engine, container) = (engine.clone(), container.clone());
            blocking::run(move || engine.stop_pod_container(&container, Duration::ZERO)).await?;
            self.exited(entry.id.as_str()).await;
        }
        blocking::run(move || engine.remove_pod_container(&record, &container)).await?;
        self.book.remove_container(&entry.id);
        self.rates.retain(|id| id != entry.id.as_str());
        self.tell(
            ContainerEventType::ContainerDeletedEvent,
            entry.id.as_str(),
            pod,
        );
        // Nobody waits for the bytes.
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || engine.sweep().map(drop));
        Ok(())
    }

    pub(super) fn list(&self, wanted: Option<ContainerFilter>) -> Vec<Container> {
        let wanted = wanted.unwrap_or_default();
        let fits = |c: &Arc<ContainerEntry>| {
            let now = c.now();
            filter::id(c.id.as_str(), &wanted.id)
                && filter::id(c.pod.as_str(), &wanted.pod_sandbox_id)
                && wanted.state.is_none_or(|s| s.state() == now.state())
                && filter::labels(&now.document.config.labels, &wanted.label_selector)
        };
        let all = self.book.containers().into_iter().filter(fits);
        let unread = self.book.unread();
        let unread = unread.iter().filter_map(|row| row.container(&wanted));
        all.map(|c| c.listed()).chain(unread).collect()
    }

    /// A container's exit may be on record: what follows from it. Whoever calls may be too early, or not the first.
    pub(super) async fn exited(self: &Arc<Self>, id: &str) {
        let Some(entry) = self.book.find_container(id) else {
            return;
        };
        let now = entry.now();
        if now.exit.is_some() || now.container.record.started.is_none() {
            return;
        }
        let (engine, container) = (self.engine.clone(), now.container);
        let read = blocking::run(move || engine.pod_exit(&container)).await;
        match read {
            Ok(Some(record)) => {
                if entry.set_exit(Exit::of(&record)) {
                    self.after_exit(&entry).await;
                }
            }
            Ok(None) => {}
            Err(status) => {
                tracing::error!(
                    container = id,
                    error = status.message(),
                    "its exit cannot be read"
                );
            }
        }
    }

    async fn after_exit(self: &Arc<Self>, entry: &Arc<ContainerEntry>) {
        let Some(pod) = self.book.find_pod(entry.pod.as_str()) else {
            return;
        };
        self.tell(
            ContainerEventType::ContainerStoppedEvent,
            entry.id.as_str(),
            &pod,
        );
        let (shared, entry) = (self.clone(), entry.clone());
        // Its output may still be on the way to a reader, and somebody may be at it: nobody waits for that here.
        tokio::spawn(async move {
            let _busy = entry.busy.lock().await;
            if shared.book.find_container(entry.id.as_str()).is_none() {
                return;
            }
            let (engine, record) = (shared.engine.clone(), pod.now().pod);
            let container = entry.now().container;
            let settled = blocking::run(move || engine.settle_pod_container(&record, &container));
            if let Err(status) = settled.await {
                tracing::error!(
                    container = entry.id.as_str(),
                    error = status.message(),
                    "not settled"
                );
            }
        });
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let entry = self.book.container(id)?;
        let now = entry.now();
        if !now.is_running() {
            return Err(Status::failed_precondition(format!(
                "container {} is not running",
                entry.id
            )));
        }
        let engine = self.engine.clone();
        blocking::run(move || engine.reopen_pod_log(&now.container)).await
    }
}

fn metadata(config: &ContainerConfig) -> Result<ContainerMetadata, Status> {
    let metadata = config.metadata.clone().unwrap_or_default();
    match metadata.name.is_empty() {
        true => Err(Status::invalid_argument(
            "config.metadata.name: a container has a name",
        )),
        false => Ok(metadata),
    }
}
