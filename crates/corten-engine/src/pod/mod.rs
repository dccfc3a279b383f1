//! Pods: namespaces that containers share, and the containers in them, as orchestrators want them.
//!
//! ```text
//!   run ─► Ready ── stop ─► Stopped ── remove ─► gone          containers:
//!            │  its supervisor is lost ──┘                        draft ─► Created ── start ─► Running ── exit ─► Exited ── remove ─► gone
//! ```
//!
//! A pod has one supervisor ([`corten_shim`]), which holds the namespaces and runs all of the pod's containers in process; no
//! program of its own runs in a pod. Rows come first and go last, as everywhere: what a killed process leaves has its owner
//! ([`Engine::clear_pod`]). How a container ended is told by the exit record that the supervisor writes into one folder
//! ([`crate::Paths::pod_exits`]), which whoever serves pods watches; it is nowhere else.
//!
//! The engine does not know what a pod means to its orchestrator: it keeps the orchestrator's own words ([`Record::document`]) and
//! gives them back.

pub mod checkpoint;
mod cni;
mod draft;
mod end;
mod files;
mod record;
mod recover;
mod run;
mod start;
mod stop;

use corten_shim::client::{self, Client};
use corten_spec::ContainerId;
use corten_spec::Kind;
use corten_store::PodRow;

pub use crate::container::random_id as new_id;
pub use checkpoint::{Archived, CheckpointAsk, CheckpointError, GivenUp};
pub use cni::{Cni, NetworkAsk};
pub use draft::{ContainerAsk, Draft, Settings};
pub use files::Dns;
pub use record::{ContainerRecord, Record, Run, Started};
pub use recover::Recovered;
pub use run::PodAsk;

use crate::Engine;
use crate::error::Error;

/// How long a supervisor may take for one answer. A restored container is the slowest.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// A pod as it is on record.
#[derive(Clone, Debug)]
pub struct Pod {
    pub id: ContainerId,
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub record: Record,
}

/// A row that cannot be read: another version has written it, or nobody who meant it. It is left alone, with all that carries its id.
#[derive(Debug)]
pub struct Unread {
    pub id: ContainerId,
    /// `None`: it is a pod's own.
    pub pod: Option<ContainerId>,
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub why: Error,
}

/// What is on record of pods.
#[derive(Debug, Default)]
pub struct Rows {
    pub pods: Vec<Pod>,
    pub containers: Vec<PodContainer>,
    pub unread: Vec<Unread>,
}

/// A container of a pod as it is on record.
#[derive(Clone, Debug)]
pub struct PodContainer {
    pub id: ContainerId,
    pub pod: ContainerId,
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub record: ContainerRecord,
}

impl Engine {
    /// All pods and all their containers, oldest first.
    pub fn pods(&self) -> Result<Rows, Error> {
        let mut rows = Rows::default();
        for row in self.store.pods().list()? {
            let unread = |why| Unread {
                id: row.id.clone(),
                pod: row.pod.clone(),
                name: row.name.clone(),
                created_at: row.created_at,
                why,
            };
            let read = match row.pod.clone() {
                None => Pod::parse(row.clone()).map(|pod| rows.pods.push(pod)),
                Some(pod) => {
                    let read = PodContainer::parse(row.clone(), pod);
                    read.map(|container| rows.containers.push(container))
                }
            };
            if let Err(why) = read {
                rows.unread.push(unread(why));
            }
        }
        Ok(rows)
    }

    /// A connection to a pod's supervisor, about one of its containers, or about the pod itself. `None`: nobody answers.
    pub fn pod_supervisor(
        &self,
        pod: &ContainerId,
        about: &ContainerId,
    ) -> Result<Option<Client>, Error> {
        match client::connect(&self.paths.pod_bundle(pod), about) {
            Ok(client) => {
                client.limit(PATIENCE)?;
                Ok(Some(client))
            }
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes a pod's record back.
    pub fn save_pod(&self, pod: &Pod) -> Result<(), Error> {
        Ok(self.store.pods().update(&pod.row()?)?)
    }

    /// Writes a container's record back.
    pub fn save_pod_container(&self, container: &PodContainer) -> Result<(), Error> {
        Ok(self.store.pods().update(&container.row()?)?)
    }
}

impl Pod {
    fn row(&self) -> Result<PodRow, Error> {
        Ok(PodRow {
            id: self.id.clone(),
            pod: None,
            name: self.name.clone(),
            created_at: self.created_at,
            record: record::text(&self.id, &self.record)?,
        })
    }

    fn parse(row: PodRow) -> Result<Self, Error> {
        Ok(Self {
            record: record::parse(&row.id, &row.record)?,
            id: row.id,
            name: row.name,
            created_at: row.created_at,
        })
    }

    /// Its namespaces are there, as far as the record knows.
    pub fn is_ready(&self) -> bool {
        self.record.run.is_some() && !self.record.stopped
    }
}

impl PodContainer {
    fn row(&self) -> Result<PodRow, Error> {
        Ok(PodRow {
            id: self.id.clone(),
            pod: Some(self.pod.clone()),
            name: self.name.clone(),
            created_at: self.created_at,
            record: record::text(&self.id, &self.record)?,
        })
    }

    fn parse(row: PodRow, pod: ContainerId) -> Result<Self, Error> {
        Ok(Self {
            record: record::parse(&row.id, &row.record)?,
            id: row.id,
            pod,
            name: row.name,
            created_at: row.created_at,
        })
    }
}
