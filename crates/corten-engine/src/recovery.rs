//! After a crash: compare what is there with what the rows own, name the difference, and put it
//! right.
//!
//! Everything of a container is found by its id: folder, bundle, runtime state, cgroup, veth,
//! address, published port, snapshot. So one rule serves for all of them: what belongs to a
//! container that has no row is removed; what belongs to one that does not run is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use corten_cgroup::{Cgroup, Layout};
use corten_net::recover;
use corten_shim::proto::task::Status as TaskStatus;
use corten_spec::{ContainerId, Kind};
use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::container::{Container, Status, wait_for};
use crate::error::Error;
use crate::{Engine, remove_tree};

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
    /// Bytes on disk.
    pub freed: u64,
}

/// What a look at every container gave.
struct Census {
    containers: BTreeMap<String, (Container, Status)>,
}

impl Census {
    /// Does this id belong to a container that runs?
    fn runs(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|(_, s)| s.is_running())
    }

    fn knows(&self, id: &str) -> bool {
        self.containers.contains_key(id)
    }
}

impl Engine {
    /// Looks for what crashes left, and with `repair` removes it.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        // What lies there has been removed already; that is no finding.
        self.sweep()?;
        self.check_containers(repair, &mut found)?;
        let census = self.census()?;
        self.check_bundles(&census, repair, &mut found)?;
        self.check_runtime_state(&census, repair, &mut found)?;
        self.check_cgroups(&census, repair, &mut found)?;
        self.check_network(&census, repair, &mut found)?;
        self.check_folders(&census, repair, &mut found)?;
        for f in self.store.check(repair)? {
            found.push(Finding {
                what: f.what.to_string(),
                place: f.where_,
                repaired: f.repaired,
            });
        }
        Ok(found)
    }

    fn census(&self) -> Result<Census, Error> {
        let mut containers = BTreeMap::new();
        for container in self.containers()? {
            let status = self.status(&container)?;
            containers.insert(container.id.to_string(), (container, status));
        }
        Ok(Census { containers })
    }

    /// Containers whose run ended, or was never begun, without anybody giving back what it held.
    fn check_containers(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        for container in self.containers()? {
            if self.is_busy(&container)? {
                continue;
            }
            let status = self.status(&container)?;
            let held = self.paths.bundle(&container.id).exists();
            let never_started = status.is_running() && self.waits_for_nobody(&container)?;
            let what = match (&status, held) {
                _ if never_started => "container made ready by a process that is gone",
                (Status::Running { .. }, _) => continue,
                (Status::Lost, _) if held => "container whose supervisor is gone",
                (_, true) => "container that has exited and still holds resources",
                (Status::Exited(_) | Status::Lost, false)
                    if container.record.options.auto_remove =>
                {
                    "container that should have removed itself"
                }
                _ => continue,
            };
            if repair {
                if never_started {
                    self.remove_or_release(&container)?;
                } else {
                    self.release(&container)?;
                    if container.record.options.auto_remove {
                        self.remove(&container, true, true)?;
                    }
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

    /// Is another process starting, releasing or removing it at this moment?
    fn is_busy(&self, container: &Container) -> Result<bool, Error> {
        let path = self.paths.lock(&container.id);
        let file = match fs::File::open(&path) {
            Ok(f) => f,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io("open", path)(e)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(Error::io("lock", path)(e.into())),
        }
    }

    /// Its init was made and waits, and the process that was to start it does not live: that one
    /// held the lock, which is free.
    fn waits_for_nobody(&self, container: &Container) -> Result<bool, Error> {
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(false);
        };
        Ok(shim
            .state("")
            .is_ok_and(|s| s.status() == TaskStatus::Created))
    }

    fn remove_or_release(&self, container: &Container) -> Result<(), Error> {
        if container.record.options.auto_remove {
            return self.remove(container, true, true);
        }
        self.kill_and_wait(container)?;
        self.release(container)
    }

    fn check_bundles(
        &self,
        census: &Census,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        for id in names(&self.paths.bundles())? {
            if census.knows(&id) {
                continue;
            }
            if repair {
                let id: ContainerId = id.parse()?;
                if let Some(mut shim) = self.supervisor(&id)? {
                    // What it does not do in an orderly way, the checks below do by force.
                    let _asked = shim.kill("", 9, true);
                    let _gone = wait_for(&mut shim, std::time::Duration::from_secs(5));
                    let _down = shim.delete("").and_then(|_| shim.shutdown());
                }
                remove_tree(&self.paths.bundle(&id))?;
            }
            found.push(Finding {
                what: "bundle without a container".into(),
                place: self.paths.bundles().join(&id).display().to_string(),
                repaired: repair,
            });
        }
        Ok(())
    }

    fn check_runtime_state(
        &self,
        census: &Census,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let root = self.paths.runtime_state();
        for name in names(&root)? {
            if census.runs(&name) {
                continue;
            }
            if repair {
                match corten_runtime::delete(&root, &name.parse()?, true) {
                    Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
                    _ => remove_tree(&root.join(&name))?,
                }
            }
            found.push(Finding {
                what: "runtime state without a running container".into(),
                place: root.join(&name).display().to_string(),
                repaired: repair,
            });
        }
        Ok(())
    }

    fn check_cgroups(
        &self,
        census: &Census,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let parent = self.paths.cgroup_parent();
        for path in Layout::probe()?.list(&parent)? {
            let id = path.rsplit('/').next().unwrap_or_default();
            if census.runs(id) {
                continue;
            }
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

    fn check_network(
        &self,
        census: &Census,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let list = self.network_list()?;
        let mut holdings = recover::holdings(&list)?;
        // The kernel takes a dead container's link away some milliseconds after its last process.
        for _ in 0..20 {
            if holdings.links.iter().all(|l| census.runs(&l.container_id)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            holdings = recover::holdings(&list)?;
        }
        let owners: BTreeSet<&str> = holdings
            .containers()
            .into_iter()
            .filter(|id| !census.runs(id))
            .collect();
        for owner in owners {
            let links = holdings
                .links
                .iter()
                .filter(|l| l.container_id == owner)
                .map(|l| ("link", l.name.clone()));
            let addresses = (holdings
                .addresses
                .iter()
                .filter(|a| a.container_id == owner))
            .map(|a| ("address", a.address.to_string()));
            let ports = (holdings.ports.iter().filter(|p| p.container_id == owner)).map(|p| {
                (
                    "published port",
                    format!("{}/{:?}", p.host, p.protocol).to_lowercase(),
                )
            });
            for (what, place) in links.chain(addresses).chain(ports) {
                found.push(Finding {
                    what: format!("{what} of container {owner:.12}, which does not run"),
                    place,
                    repaired: repair,
                });
            }
            if repair {
                recover::free(&list, owner)?;
            }
        }
        Ok(())
    }

    fn check_folders(
        &self,
        census: &Census,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        for name in names(&self.paths.containers())? {
            if census.knows(&name) {
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

    /// Removes every container that does not run, every layer and blob that nothing names, and, once
    /// no container is left, the network's bridge and rules.
    pub fn prune(&self) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for container in self.containers()? {
            if !self.status(&container)?.is_running() {
                self.remove(&container, false, true)?;
                pruned.containers.push(container.id.to_string());
            }
        }
        pruned.freed = self.store.collect()?;
        if self.containers()?.is_empty() {
            match corten_net::network::remove(&self.network_list()?) {
                // Another engine with the same settings has containers on it.
                Err(e) if e.kind() == Kind::Busy => {}
                done => done?,
            }
            match Cgroup::open(&Layout::probe()?, &self.paths.cgroup_parent()) {
                Ok(parent) => parent.delete()?,
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(pruned)
    }
}

/// The entries of a folder; one that is not there has none.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
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
