//! `RuntimeService`: pods and containers as kubelet wants them, on the engine's pods.
//!
//! ```text
//!   service.rs ── one method a call ──▶ sandbox, container, exec, stats, … ──▶ corten_engine::pod (blocking threads)
//!                                             │                                      │
//!                                             ▼                                      ▼
//!   watch.rs ── exits, lost supervisors ──▶ book.rs (resident)              rows, supervisors, CNI
//! ```
//! A server that is killed at any instruction loses nothing: the next one reads the rows, asks the supervisors
//! ([`corten_engine::Engine::recover_pods`]), and hears of exits that happened meanwhile from their records.

mod book;
mod checkpoint;
mod container;
mod document;
mod events;
mod exec;
mod filter;
mod limits;
mod own_network;
mod plan;
mod sandbox;
mod service;
mod settings;
mod state;
mod stats;
mod status;
mod unread;
mod watch;

use std::sync::{Arc, OnceLock};

use corten_engine::Engine;
use tokio::sync::broadcast;

use crate::proto::ContainerEventResponse;
use crate::spec::Host;
use crate::stats::Rates;
use crate::stream;
use book::{Book, ContainerEntry, Exit, PodEntry};
use document::{ContainerDocument, PodDocument};
use unread::Unread;

pub use settings::{Handler, Settings};

/// Events that a slow listener may be behind; then it misses some, and lists anew.
const EVENTS: usize = 1024;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Engine>,
    settings: Settings,
    host: Host,
    book: Book,
    events: broadcast::Sender<ContainerEventResponse>,
    rates: Rates,
    /// Set once, soon after the start.
    streams: OnceLock<stream::Server>,
}

/// Why the service cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pods of an earlier run cannot be taken over")]
    Recover(#[from] corten_engine::Error),
    #[error("cannot watch {path:?} for exits")]
    Watch {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Runtime {
    /// Takes over what is there, and begins to watch it. Inside a tokio runtime.
    pub fn start(engine: Arc<Engine>, settings: Settings, host: Host) -> Result<Self, Error> {
        for (handler, setting) in &settings.handlers {
            // It may be installed later, and counts then; until then its pods are refused.
            if let Err(error) = engine.check_pod_runtime(setting.runtime.as_deref()) {
                let error = corten_spec::chain(&error);
                tracing::warn!(handler, error, "a runtime handler that cannot be used");
            }
        }
        let recovered = engine.recover_pods(&settings.cni)?;
        let exits = engine.paths().pod_exits();
        // Before the records are read: what comes in between is told twice, not missed.
        let folder = watch::Folder::watch(&exits).map_err(|source| Error::Watch {
            path: exits,
            source,
        })?;
        for note in &recovered.notes {
            tracing::warn!("{note}");
        }
        let shared = Arc::new(Shared {
            engine,
            settings,
            host,
            book: Book::default(),
            events: broadcast::Sender::new(EVENTS),
            rates: Rates::default(),
            streams: OnceLock::new(),
        });
        for row in recovered.unread {
            shared.book.add_unread(row.into());
        }
        for pod in recovered.pods {
            shared.take_over_pod(pod);
        }
        for container in recovered.containers {
            shared.take_over_container(container);
        }
        tokio::spawn(shared.clone().watch_exits(folder));
        Ok(Self { shared })
    }

    /// Listens for those who are to be given streams. The server is the caller's to run.
    pub async fn listen(
        &self,
        settings: stream::Settings,
    ) -> Result<stream::Server, stream::Error> {
        let behind = exec::Behind(self.shared.clone());
        let server = stream::Server::bind(settings, Arc::new(behind)).await?;
        // A second one would only be another way to the same.
        Ok(self.shared.streams.get_or_init(|| server).clone())
    }

    /// How many pods and containers are ready and running, and how many there are.
    pub fn count(&self) -> Counts {
        let pods = self.shared.book.pods();
        let containers = self.shared.book.containers();
        Counts {
            ready: pods.iter().filter(|p| p.is_ready()).count(),
            pods: pods.len(),
            running: containers.iter().filter(|c| c.now().is_running()).count(),
            containers: containers.len(),
        }
    }
}

/// What is there, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub ready: usize,
    pub pods: usize,
    pub running: usize,
    pub containers: usize,
}

impl Shared {
    fn take_over_pod(self: &Arc<Self>, pod: corten_engine::pod::Pod) {
        let document = match PodDocument::parse(&pod.record.document) {
            Ok(document) => document,
            Err(error) => {
                return self.book.add_unread(Unread {
                    why: corten_spec::chain(&error),
                    id: pod.id,
                    pod: None,
                    name: pod.name,
                    created_at: pod.created_at,
                });
            }
        };
        // One that was found dead and could not be cleared up is not ready, whatever its row says.
        let ready = pod.is_ready() && self.engine.pod_lives(&pod);
        if ready {
            // One whose server was killed before it came to that.
            self.leave_service(&pod);
        }
        let entry = PodEntry::new(pod, document, ready);
        self.book.add_pod(entry.clone());
        if ready {
            self.watch_supervisor(&entry);
        }
    }

    fn take_over_container(&self, container: corten_engine::pod::PodContainer) {
        let document = match ContainerDocument::parse(&container.record.document) {
            Ok(document) => document,
            Err(error) => {
                return self.book.add_unread(Unread {
                    why: corten_spec::chain(&error),
                    id: container.id,
                    pod: Some(container.pod),
                    name: container.name,
                    created_at: container.created_at,
                });
            }
        };
        let exit = match self.engine.pod_exit(&container) {
            Ok(record) => record.as_ref().map(Exit::of),
            Err(error) => {
                tracing::error!(container = container.id.as_str(), error = %corten_spec::chain(&error), "exit unknown");
                None
            }
        };
        self.book
            .add_container(ContainerEntry::new(container, document, exit));
    }
}
