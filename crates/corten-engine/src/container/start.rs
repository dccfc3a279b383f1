//! Start, in two steps as the OCI runtime has it: [`Engine::prepare`] makes everything up to an
//! init that waits, [`Prepared::start`] lets it go. In between the caller may attach, so that no
//! byte of output is missed. Whatever fails, what was made is given back.

use std::fs::File;
use std::path::{Path, PathBuf};

use corten_shim::attach::Attached;
use corten_shim::client::{self, Client};
use corten_spec::{ContainerId, Kind};

use super::options::{NetworkMode, Options, PortMapping};
use super::record::Container;
use crate::error::{Error, Is};
use crate::{Engine, Paths};

/// A container whose init waits to be let go. Dropped, it is taken down again.
pub struct Prepared<'e> {
    engine: &'e Engine,
    container: Container,
    /// Taken by the start.
    shim: Option<Client>,
    /// Other processes keep away until the start is decided.
    lock: Option<File>,
    /// By its policy, in the supervisor of the run before, which stays whatever comes of this start.
    again: bool,
}

/// What a start by policy has instead of a new supervisor.
pub(super) struct Again {
    pub shim: Client,
    /// The ports of the run before, which the supervisor holds.
    pub ports: Vec<PortMapping>,
    pub count: u32,
    /// The network namespace that the supervisor holds for a foreign shim.
    pub namespace: Option<PathBuf>,
}

impl Engine {
    /// Makes a container ready to run. One that runs is refused.
    pub fn prepare(&self, container: &Container) -> Result<Prepared<'_>, Error> {
        let (lock, container) = self.hold(&container.id)?;
        let container = &container;
        let name = container.name.as_str();
        let status = self.status(container)?;
        if status.is_active() {
            return Err(Error::ContainerState {
                name: name.into(),
                action: "started",
                source: Is(status.as_str()),
            });
        }
        if self.paths.bundle(&container.id).exists() {
            self.release_locked(container)?;
        }
        self.forget_stopped(container)?;
        match self.set_up(container.clone(), lock, None) {
            Ok(prepared) => Ok(prepared),
            Err((e, _lock)) => {
                let undone = self
                    .undo_start(container)
                    .and_then(|()| self.note_error(container, &e));
                Err(match undone {
                    Ok(()) => e.of_container(name, "started"),
                    Err(second) => Error::Undo {
                        name: name.into(),
                        first: e.to_string(),
                        source: Box::new(second),
                    },
                })
            }
        }
    }

    /// Gives back what a start had made, and forgets that run: the container is as if never started.
    fn undo_start(&self, container: &Container) -> Result<(), Error> {
        self.release_locked(container)?;
        let mut container = container.clone();
        container.record.run = None;
        self.update(&container)
    }

    /// The lock comes back with an error, so that the undoing is still under it.
    pub(super) fn set_up(
        &self,
        mut container: Container,
        lock: File,
        again: Option<Again>,
    ) -> Result<Prepared<'_>, (Error, File)> {
        let is_again = again.is_some();
        match self.set_up_locked(&mut container, again) {
            Ok(shim) => Ok(Prepared {
                engine: self,
                container,
                shim: Some(shim),
                lock: Some(lock),
                again: is_again,
            }),
            Err(e) => Err((e, lock)),
        }
    }

    /// The container's supervisor, if one answers.
    pub(crate) fn supervisor(&self, id: &ContainerId) -> Result<Option<Client>, Error> {
        match client::connect(&self.paths.bundle(id), id) {
            Ok(client) => Ok(Some(client)),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Prepared<'_> {
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// A stream to the container's stdio. Called before [`Self::start`], it misses nothing.
    pub fn attach(&mut self, stdin: bool) -> Result<Attached, Error> {
        self.engine.attach(&self.container, "", stdin)
    }

    /// Lets init go. Returns when its program has been executed.
    pub fn start(mut self) -> Result<Client, Error> {
        let name = self.container.name.as_str();
        let Some(mut shim) = self.shim.take() else {
            return Err(Error::ContainerMissing { name: name.into() });
        };
        match shim.start("") {
            Ok(_pid) => Ok(shim),
            Err(e) => {
                let error = Error::from(e).of_container(name, "started");
                self.shim = Some(shim);
                let (engine, container) = (self.engine, self.container.clone());
                if self.again {
                    return Err(error);
                }
                // First given back, under the lock, then noted.
                self.give_back();
                let _noted = engine.note_error(&container, &error);
                Err(error)
            }
        }
    }
}

impl Prepared<'_> {
    fn give_back(&mut self) {
        if self.shim.take().is_some() {
            // Best effort: there is nobody left to tell, and `system check` finds what stays.
            let _given_back = match self.again {
                true => self.engine.release_again(&self.container),
                false => self.engine.undo_start(&self.container),
            };
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.give_back();
        self.lock = None;
    }
}

/// The host name of a container whose network is its own or the host's.
pub(crate) fn hostname(options: &Options, id: &ContainerId) -> Result<String, Error> {
    match (&options.process.hostname, &options.network.mode) {
        (Some(name), _) => Ok(name.clone()),
        (None, NetworkMode::Host) => Ok(rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()),
        (None, _) => Ok(id.short().into()),
    }
}

/// Our own command line on an engine's folders, up to its verb.
pub(crate) fn global_flags(paths: &Paths) -> Result<Vec<String>, Error> {
    let mut words = vec![text(&executable()?)];
    for (flag, path) in [
        ("--root", paths.root()),
        ("--run", paths.run()),
        ("--etc", paths.etc()),
    ] {
        words.extend([flag.into(), text(path)]);
    }
    Ok(words)
}

pub(crate) fn executable() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(Error::io("find", "/proc/self/exe"))
}

/// A path for the wire, which carries text: all of ours begin in folders that the store has checked
/// to be UTF-8, or that were given as flags.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
