//! What is resident: every pod and container that the engine has on record, with how it stands now.
//!
//! ```text
//!   engine's rows ── at the start ──▶ Book ◀── exits of containers, ends of supervisors (watch.rs)
//!                                      │
//!                                      └──▶ lists and states, without asking anybody
//! ```
//! Whoever changes a pod or container holds its `busy` lock; who reads takes the short lock inside, never over an `await`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_engine::container::record::ExitRecord;
use corten_engine::pod::{ContainerRecord, Pod, PodContainer};
use corten_spec::ContainerId;
use tokio::sync::Mutex as Busy;
use tonic::Status;

use super::document::{ContainerDocument, PodDocument};
use super::unread::Unread;
use crate::proto::{ContainerState, PodSandboxState};
use crate::stats::Layer;

/// One pod.
#[derive(Debug)]
pub struct PodEntry {
    pub id: ContainerId,
    pub document: PodDocument,
    /// Nanoseconds since 1970.
    created_at: i64,
    /// Held by who runs, stops or removes it, or makes a container in it.
    pub busy: Busy<()>,
    state: Mutex<PodNow>,
}

#[derive(Clone, Debug)]
pub struct PodNow {
    pub pod: Arc<Pod>,
    /// Its supervisor lives.
    pub ready: bool,
}

/// One container.
#[derive(Debug)]
pub struct ContainerEntry {
    pub id: ContainerId,
    pub pod: ContainerId,
    /// Nanoseconds since 1970.
    created_at: i64,
    /// Held by who starts or removes it, or changes its limits.
    pub busy: Busy<()>,
    state: Mutex<ContainerNow>,
    /// What it has written, as it was counted last.
    layer: Mutex<Option<Layer>>,
}

#[derive(Clone, Debug)]
pub struct ContainerNow {
    pub container: Arc<PodContainer>,
    pub document: Arc<ContainerDocument>,
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub status: i32,
    /// Nanoseconds since 1970.
    pub at: i64,
    pub oom: bool,
}

#[derive(Debug, Default)]
pub struct Book {
    tables: Mutex<Tables>,
    /// Names of pods that are being made.
    names: Arc<Mutex<BTreeSet<String>>>,
}

/// A name that nobody else makes a pod of while this is held.
#[derive(Debug)]
pub struct Name {
    names: Arc<Mutex<BTreeSet<String>>>,
    name: String,
}

impl Drop for Name {
    fn drop(&mut self) {
        lock(&self.names).remove(&self.name);
    }
}

#[derive(Debug, Default)]
struct Tables {
    pods: BTreeMap<ContainerId, Arc<PodEntry>>,
    containers: BTreeMap<ContainerId, Arc<ContainerEntry>>,
    unread: BTreeMap<ContainerId, Arc<Unread>>,
}

/// Nobody panics while holding one of these; if somebody did, what is inside is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PodEntry {
    pub fn new(pod: Pod, document: PodDocument, ready: bool) -> Arc<Self> {
        Arc::new(Self {
            id: pod.id.clone(),
            document,
            created_at: pod.created_at,
            busy: Busy::new(()),
            state: Mutex::new(PodNow {
                pod: Arc::new(pod),
                ready,
            }),
        })
    }

    pub fn now(&self) -> PodNow {
        lock(&self.state).clone()
    }

    pub fn set(&self, pod: Pod, ready: bool) {
        *lock(&self.state) = PodNow {
            pod: Arc::new(pod),
            ready,
        };
    }

    /// It has ended, and nobody could clear up after it yet.
    pub fn set_lost(&self) {
        lock(&self.state).ready = false;
    }

    pub fn is_ready(&self) -> bool {
        lock(&self.state).ready
    }

    pub fn state(&self) -> PodSandboxState {
        match self.is_ready() {
            true => PodSandboxState::SandboxReady,
            false => PodSandboxState::SandboxNotready,
        }
    }
}

/// Whether what was counted `at` is still good `now`, in nanoseconds. With a clock that was set back, or far ahead, it is not.
fn is_fresh(at: i64, now: i64, good: Duration) -> bool {
    let good = i64::try_from(good.as_nanos()).unwrap_or(i64::MAX);
    (0..good).contains(&now.saturating_sub(at))
}

impl ContainerEntry {
    pub fn new(
        container: PodContainer,
        document: ContainerDocument,
        exit: Option<Exit>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: container.id.clone(),
            pod: container.pod.clone(),
            created_at: container.created_at,
            busy: Busy::new(()),
            state: Mutex::new(ContainerNow {
                container: Arc::new(container),
                document: Arc::new(document),
                exit,
            }),
            layer: Mutex::new(None),
        })
    }

    /// What it has written, unless that was counted longer ago than this.
    pub fn layer(&self, good: Duration) -> Option<Layer> {
        let known = lock(&self.layer).clone()?;
        is_fresh(known.at, crate::stats::now(), good).then_some(known)
    }

    pub fn set_layer(&self, layer: Layer) {
        *lock(&self.layer) = Some(layer);
    }

    pub fn now(&self) -> ContainerNow {
        lock(&self.state).clone()
    }

    pub fn set(&self, container: PodContainer) {
        lock(&self.state).container = Arc::new(container);
    }

    pub fn set_document(&self, container: PodContainer, document: ContainerDocument) {
        let mut state = lock(&self.state);
        state.container = Arc::new(container);
        state.document = Arc::new(document);
    }

    /// `false`: it was known already.
    pub fn set_exit(&self, exit: Exit) -> bool {
        let mut state = lock(&self.state);
        let new = state.exit.is_none();
        state.exit = Some(exit);
        new
    }
}

impl ContainerNow {
    pub fn state(&self) -> ContainerState {
        let record = &self.container.record;
        match (&record.failure, &record.started, &self.exit) {
            (Some(_), _, _) | (None, Some(_), Some(_)) => ContainerState::ContainerExited,
            (None, Some(_), None) => ContainerState::ContainerRunning,
            (None, None, _) => ContainerState::ContainerCreated,
        }
    }

    pub fn is_running(&self) -> bool {
        self.state() == ContainerState::ContainerRunning
    }
}

impl Exit {
    /// Of a container whose start has failed.
    pub fn of_failure(record: &ContainerRecord) -> Option<Self> {
        let failure = record.failure.as_ref()?;
        Some(Self {
            status: failure.exit_code as i32,
            at: record.started.map_or(0, |s| s.at),
            oom: false,
        })
    }

    pub fn of(record: &ExitRecord) -> Self {
        let at = record.exited_at.parse::<jiff::Timestamp>();
        let at = at.map_or(0, |at| at.as_nanosecond());
        Self {
            status: record.exit_status as i32,
            at: i64::try_from(at).unwrap_or_default(),
            oom: record.oom_killed,
        }
    }
}

impl Book {
    /// `None`: somebody makes a pod of this name.
    pub fn name(&self, name: &str) -> Option<Name> {
        let free = lock(&self.names).insert(name.into());
        free.then(|| Name {
            names: self.names.clone(),
            name: name.into(),
        })
    }

    pub fn add_pod(&self, entry: Arc<PodEntry>) {
        lock(&self.tables).pods.insert(entry.id.clone(), entry);
    }

    pub fn add_container(&self, entry: Arc<ContainerEntry>) {
        lock(&self.tables)
            .containers
            .insert(entry.id.clone(), entry);
    }

    /// Names it in the log, too.
    pub fn add_unread(&self, row: Unread) {
        row.warn();
        lock(&self.tables)
            .unread
            .insert(row.id.clone(), Arc::new(row));
    }

    /// Oldest first.
    pub fn unread(&self) -> Vec<Arc<Unread>> {
        let mut all: Vec<_> = lock(&self.tables).unread.values().cloned().collect();
        all.sort_by_key(|row| row.created_at);
        all
    }

    /// `pod`: of a pod itself, or of a container.
    pub fn find_unread(&self, id: &str, pod: bool) -> Option<Arc<Unread>> {
        let found = find(&lock(&self.tables).unread, id);
        found.filter(|row| row.pod.is_none() == pod)
    }

    /// Refuses what would change something that nobody here understands.
    pub fn readable(&self, id: &str, pod: bool) -> Result<(), Status> {
        match self.find_unread(id, pod) {
            Some(row) => Err(row.refused()),
            None => Ok(()),
        }
    }

    pub fn remove_pod(&self, id: &ContainerId) {
        lock(&self.tables).pods.remove(id);
    }

    pub fn remove_container(&self, id: &ContainerId) {
        lock(&self.tables).containers.remove(id);
    }

    /// Oldest first, as all lists here.
    pub fn pods(&self) -> Vec<Arc<PodEntry>> {
        let mut all: Vec<_> = lock(&self.tables).pods.values().cloned().collect();
        all.sort_by_key(|p| p.created_at);
        all
    }

    pub fn containers(&self) -> Vec<Arc<ContainerEntry>> {
        self.some_containers(|_| true)
    }

    pub fn containers_of(&self, pod: &ContainerId) -> Vec<Arc<ContainerEntry>> {
        self.some_containers(|c| c.pod == *pod)
    }

    fn some_containers(&self, which: impl Fn(&ContainerEntry) -> bool) -> Vec<Arc<ContainerEntry>> {
        let tables = lock(&self.tables);
        let wanted = tables.containers.values().filter(|c| which(c));
        let mut all: Vec<_> = wanted.cloned().collect();
        drop(tables);
        all.sort_by_key(|c| c.created_at);
        all
    }

    /// By id, or by the beginning of one that no other has.
    pub fn find_pod(&self, id: &str) -> Option<Arc<PodEntry>> {
        find(&lock(&self.tables).pods, id)
    }

    pub fn find_container(&self, id: &str) -> Option<Arc<ContainerEntry>> {
        find(&lock(&self.tables).containers, id)
    }

    pub fn pod(&self, id: &str) -> Result<Arc<PodEntry>, Status> {
        self.readable(id, true)?;
        self.find_pod(id)
            .ok_or_else(|| Status::not_found(format!("no pod sandbox {id:?}")))
    }

    pub fn container(&self, id: &str) -> Result<Arc<ContainerEntry>, Status> {
        self.readable(id, false)?;
        self.find_container(id)
            .ok_or_else(|| Status::not_found(format!("no container {id:?}")))
    }
}

fn find<T>(all: &BTreeMap<ContainerId, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    let mut found = all.iter().filter(|(own, _)| own.as_str().starts_with(id));
    match (found.next(), found.next()) {
        (Some((_, only)), None) => Some(only.clone()),
        // A whole id begins no other.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_had_once_at_a_time() {
        let book = Book::default();
        let first = book.name("a").unwrap();
        assert!(book.name("a").is_none());
        assert!(book.name("b").is_some());
        drop(first);
        assert!(book.name("a").is_some());
    }

    #[test]
    fn the_beginning_of_an_id_that_two_have_finds_neither() {
        let id = |text: &str| text.parse::<ContainerId>().unwrap();
        let all = ["ab1", "ab2", "ac", "b"].map(|i| (id(i), Arc::new(i)));
        let all = BTreeMap::from(all);
        let found = |text: &str| find(&all, text).map(|f| *f);
        assert_eq!(found("ab1"), Some("ab1"));
        assert_eq!(found("ac"), Some("ac"));
        assert_eq!((found("ab"), found("a"), found("")), (None, None, None));
        assert_eq!((found("b"), found("c")), (Some("b"), None));
    }

    #[test]
    fn a_clock_that_jumps_makes_nothing_last() {
        let (second, good) = (1_000_000_000, Duration::from_secs(10));
        assert!(is_fresh(5 * second, 5 * second, good));
        assert!(is_fresh(5 * second, 15 * second - 1, good));
        for now in [15 * second, 5 * second - 1, i64::MIN, i64::MAX] {
            assert!(!is_fresh(5 * second, now, good), "{now}");
        }
    }
}
