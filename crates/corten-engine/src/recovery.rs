//! After a crash: compare what is there with what the rows own, name the difference, and put it
//! right.
//!
//! Everything of a container is found by its id: folder, bundle, runtime state, cgroup, veth,
//! address, published port, snapshot. So one rule serves for all of them: what belongs to a
//! container that has no row is removed; what belongs to one that does not run is given back.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use corten_cgroup::{Cgroup, Layout};
use corten_shim::proto::task::Status as TaskStatus;
use corten_spec::{ContainerId, Kind};
use serde::Serialize;

use crate::container::{Container, Status, volumes_of, wait_for};
use crate::error::Error;
use crate::{Engine, clock, remove_tree, volume};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What it is: `control group without a container`, …
    pub what: String,
    /// Which one: a path, an id, an address.
    #[serde(rename = "Where")]
    pub place: String,
    pub repaired: bool,
}

/// What `system prune` took away.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pruned {
    pub containers: Vec<String>,
    pub networks: Vec<String>,
    /// Bytes on disk.
    pub freed: u64,
}

/// What was found is nobody's, and nobody makes it his while this is held.
pub(crate) struct Claim {
    _lock: Option<File>,
}

impl Engine {
    /// Looks for what crashes left, and with `repair` removes it.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        // What lies there has been removed already; that is no finding.
        self.sweep()?;
        self.check_containers(repair, &mut found)?;
        self.check_bundles(repair, &mut found)?;
        self.check_runtime_state(repair, &mut found)?;
        self.check_cgroups(repair, &mut found)?;
        self.check_connections(repair, &mut found)?;
        self.check_networks(repair, &mut found)?;
        self.check_folders(repair, &mut found)?;
        self.check_mounted(repair, &mut found)?;
        for f in self.store.check(repair)? {
            found.push(Finding {
                what: f.what.to_string(),
                place: f.where_,
                repaired: f.repaired,
            });
        }
        Ok(found)
    }

    /// Whatever was found of the container `id` belongs to nobody if that has no row, or does not run and
    /// no process is at it. To be asked after the finding: the row is made before all else.
    pub(crate) fn claim(&self, id: &str) -> Result<Option<Claim>, Error> {
        // Whoever serves pods puts them in order itself.
        if self.is_of_pods(id)? {
            return Ok(None);
        }
        let container = match self.container(id) {
            Ok(c) if c.id.as_str() == id => c,
            Ok(_) | Err(Error::ContainerMissing { .. }) => return Ok(Some(Claim { _lock: None })),
            Err(e) => return Err(e),
        };
        let (lock, container) = match self.try_hold(&container.id) {
            Ok(None) => return Ok(None),
            Ok(Some((lock, container))) => (Some(lock), container),
            Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => (None, container),
            Err(e) => return Err(e),
        };
        let running = self.status(&container)?.is_active();
        Ok((!running).then_some(Claim { _lock: lock }))
    }

    /// Is there a row with this id? To be asked after something of it was found.
    fn is_known(&self, id: &str) -> Result<bool, Error> {
        match self.container(id) {
            Ok(container) => Ok(container.id.as_str() == id),
            Err(Error::ContainerMissing { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Images that somebody had mounted, whose mount a crash or a reboot has taken.
    fn check_mounted(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        for row in self.lost_mounts()? {
            if repair {
                self.forget_mounted(&row)?;
            }
            found.push(Finding {
                what: "image that was mounted and no longer is".into(),
                place: row.reference,
                repaired: repair,
            });
        }
        Ok(())
    }

    /// Containers whose run ended, or was never begun, without anybody giving back what it held.
    fn check_containers(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        for container in self.containers()? {
            let (lock, container) = match self.try_hold(&container.id) {
                // Another process is starting, releasing or removing it at this moment.
                Ok(None) | Err(Error::ContainerMissing { .. }) => continue,
                // Nothing but its row: for `rm`.
                Err(Error::ContainerState { .. }) => continue,
                Ok(Some(held)) => held,
                Err(e) => return Err(e),
            };
            let status = self.status(&container)?;
            let held = self.paths.bundle(&container.id).exists();
            let never_started = status.is_running() && self.waits_for_nobody(&container)?;
            let auto_remove = container.record.options.auto_remove;
            let wanted = !self.is_stopped(&container) && self.wants_to_run(&container)?;
            let revive = match &status {
                Status::Exited(exit) => wanted && exit.restarting.is_some(),
                Status::Lost => wanted,
                _ => false,
            };
            let what = match (&status, held) {
                _ if never_started => "container made ready by a process that is gone",
                (Status::Running { .. } | Status::Restarting(_), _) => continue,
                _ if revive => "container to be restarted whose supervisor is gone",
                (Status::Lost, _) if held => "container whose supervisor is gone",
                (_, true) => "container that has exited and still holds resources",
                (Status::Exited(_) | Status::Lost, false) if auto_remove => {
                    "container that should have removed itself"
                }
                _ => continue,
            };
            if repair {
                if never_started {
                    self.kill_and_wait(&container)?;
                }
                if held {
                    self.release_locked(&container)?;
                }
                drop(lock);
                if revive {
                    self.prepare(&container)?.start()?;
                } else if auto_remove {
                    self.remove(&container, true, true)?;
                }
            }
            found.push(Finding {
                what: what.into(),
                place: container.name.to_string(),
                repaired: repair,
            });
        }
        Ok(())
    }

    /// Its init was made and waits, and the process that was to start it does not live: that one
    /// held the lock, which is ours.
    pub(crate) fn waits_for_nobody(&self, container: &Container) -> Result<bool, Error> {
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(false);
        };
        Ok(shim
            .state("")
            .is_ok_and(|s| s.status() == TaskStatus::Created))
    }

    fn check_bundles(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        for id in names(&self.paths.bundles())? {
            if self.is_known(&id)? {
                continue;
            }
            if repair {
                // What is no id was never a container's.
                if let Ok(id) = id.parse::<ContainerId>() {
                    if let Some(mut shim) = self.supervisor(&id)? {
                        // What it does not do in an orderly way, the checks below do by force.
                        let _asked = shim.kill("", 9, true);
                        let _gone = wait_for(&mut shim, std::time::Duration::from_secs(5));
                        let _down = shim.delete("").and_then(|_| shim.shutdown());
                    }
                    corten_shim::foreign::clean(&self.paths.bundle(&id), &id)?;
                }
                remove_tree(&self.paths.bundles().join(&id))?;
            }
            found.push(Finding {
                what: "bundle without a container".into(),
                place: self.paths.bundles().join(&id).display().to_string(),
                repaired: repair,
            });
        }
        Ok(())
    }

    fn check_runtime_state(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        let root = self.paths.runtime_state();
        for name in names(&root)? {
            let Some(_claim) = self.claim(&name)? else {
                continue;
            };
            if repair {
                if let Ok(id) = name.parse() {
                    match corten_runtime::delete(&root, &id, true) {
                        Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
                        _ => {}
                    }
                }
                remove_tree(&root.join(&name))?;
            }
            found.push(Finding {
                what: "runtime state without a running container".into(),
                place: root.join(&name).display().to_string(),
                repaired: repair,
            });
        }
        Ok(())
    }

    fn check_cgroups(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        let parent = self.paths.cgroup_parent();
        for path in Layout::probe()?.list(&parent)? {
            let id = path.rsplit('/').next().unwrap_or_default();
            let Some(_claim) = self.claim(id)? else {
                continue;
            };
            if repair {
                self.remove_cgroup(&path)?;
            }
            found.push(Finding {
                what: "control group without a running container".into(),
                place: path,
                repaired: repair,
            });
        }
        Ok(())
    }

    fn check_folders(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        for name in names(&self.paths.containers())? {
            if self.is_known(&name)? {
                continue;
            }
            let path = self.paths.containers().join(&name);
            if repair {
                remove_tree(&path)?;
            }
            found.push(Finding {
                what: "container folder without a container".into(),
                place: path.display().to_string(),
                repaired: repair,
            });
        }
        Ok(())
    }

    /// Kills what is in a cgroup and removes it; one that is not there is removed already.
    pub(crate) fn remove_cgroup(&self, path: &str) -> Result<(), Error> {
        let group = match Cgroup::open(&Layout::probe()?, path) {
            Ok(group) => group,
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        group.kill(rustix::process::Signal::KILL.as_raw())?;
        match group.delete() {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            done => Ok(done?),
        }
    }

    /// Removes every container that does not run, every network without one, every layer and blob that nothing names, and, once
    /// no container is left, the network's bridge and rules.
    pub fn prune(&self) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for container in self.containers()? {
            let whole = self.paths.container(&container.id).exists();
            let age = clock::nanoseconds() - container.created_at;
            // A row of this minute without a folder: another process is making it.
            let in_the_making = !whole && age < 60_000_000_000;
            if !in_the_making && !self.status(&container)?.is_active() {
                match self.remove(&container, false, true) {
                    Ok(()) => pruned.containers.push(container.id.to_string()),
                    // It was started meanwhile.
                    Err(e) if self.status(&container)?.is_active() => drop(e),
                    Err(e) => return Err(e),
                }
            }
        }
        self.prune_volumes()?;
        pruned.freed = self.store.collect()?;
        pruned.networks = self.prune_networks(|_| true)?;
        // Pods that say nothing of their group have theirs beside the containers'.
        if self.containers()?.is_empty() && self.store.pods().list()?.is_empty() {
            self.remove_default_network()?;
            match Cgroup::open(&Layout::probe()?, &self.paths.cgroup_parent()) {
                Ok(parent) => parent.delete()?,
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(pruned)
    }

    /// Volumes without a name of their own that their container left behind (`rm` without
    /// `--volumes`, or a crash).
    fn prune_volumes(&self) -> Result<(), Error> {
        let mut stray = names(&self.paths.volumes())?;
        stray.retain(|v| volume::is_anonymous(v));
        // Listed first: a container's row is there before its volumes are.
        let containers = self.containers()?;
        for name in stray {
            if !containers.iter().any(|c| volumes_of(c).any(|v| v == name)) {
                volume::remove(&self.paths, &name)?;
            }
        }
        Ok(())
    }
}

/// The entries of a folder; one that is not there has none.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("read", folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
