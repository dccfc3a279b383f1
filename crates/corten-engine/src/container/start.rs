//! Start, in two steps as the OCI runtime has it: [`Engine::prepare`] makes everything up to an
//! init that waits, [`Prepared::start`] lets it go. In between the caller may attach, so that no
//! byte of output is missed. Whatever fails, what was made is given back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use corten_runtime::seccomp_profile::docker_default;
use corten_shim::attach::Attached;
use corten_shim::client::{self, Client, CreateOptions, CreateRequest, SpawnRequest, Stdio};
use corten_spec::oci::runtime::{Arch, Capability};
use corten_spec::{ContainerId, Kind};
use corten_store::{LayerId, RootMount, Snapshotter as _};
use serde_json::{Value, json};

use super::options::{MountRequest, MountSource, NetworkMode, Options};
use super::record::{Container, Run};
use super::spec::{self, Facts};
use super::user::{self, User};
use crate::error::{Error, Is};
use crate::image::ImageConfig;
use crate::network::{Files, HeldPort, Joined, forwards, hold_ports, namespace_of, new_namespace};
use crate::runtime::Foreign;
use crate::{Engine, Paths, clock, make_private, rootfs, volume};

const OCI_VERSION: &str = "1.2.0";
/// For others' runtimes: nothing that is asked of them is newer, and some refuse what they do not know.
const OLD_OCI_VERSION: &str = "1.0.2";

/// A container whose init waits to be let go. Dropped, it is taken down again.
pub struct Prepared<'e> {
    engine: &'e Engine,
    container: Container,
    /// Taken by the start.
    shim: Option<Client>,
    /// Other processes keep away until the start is decided.
    lock: Option<File>,
}

impl Engine {
    /// Makes a container ready to run. One that runs is refused.
    pub fn prepare(&self, container: &Container) -> Result<Prepared<'_>, Error> {
        let (lock, container) = self.hold(&container.id)?;
        let container = &container;
        let name = container.name.as_str();
        let status = self.status(container)?;
        if status.is_running() {
            return Err(Error::ContainerState {
                name: name.into(),
                action: "started",
                source: Is(status.as_str()),
            });
        }
        if self.paths.bundle(&container.id).exists() {
            self.release_locked(container)?;
        }
        match self.set_up(container.clone(), lock) {
            Ok(prepared) => Ok(prepared),
            Err((e, _lock)) => {
                let undone = self.undo_start(container);
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
    fn set_up(&self, mut container: Container, lock: File) -> Result<Prepared<'_>, (Error, File)> {
        match self.set_up_locked(&mut container) {
            Ok(shim) => Ok(Prepared {
                engine: self,
                container,
                shim: Some(shim),
                lock: Some(lock),
            }),
            Err(e) => Err((e, lock)),
        }
    }

    fn set_up_locked(&self, container: &mut Container) -> Result<Client, Error> {
        let id = container.id.clone();
        let options = container.record.options.clone();
        let mount = self.ensure_snapshot(container)?;
        let folder = self.paths.container(&id);
        forget_exit(&self.paths.exit_record(&id))?;

        let image = self.config_of(container)?;
        let joined = self.joined(&options.network.mode)?;
        let files = Files::of(&folder);
        let names = self.asks_resolver(&options)?;
        let hostname = match &options.network.mode {
            NetworkMode::Container(other) => {
                let target = self.container(other)?;
                files.share(&Files::of(&self.paths.container(&target.id)))?;
                match &options.process.hostname {
                    Some(name) => name.clone(),
                    None => files.hostname()?,
                }
            }
            _ => {
                let hostname = hostname(&options, &id)?;
                let nothing = Run::default();
                files.write(&files.texts(&hostname, &options.network, &nothing, names)?)?;
                hostname
            }
        };
        let (user, root) = self.look_inside(&options, &image, &mount)?;

        let held = hold_ports(&options.network.ports)?;
        let mut run = Run {
            started_at: clock::now(),
            ports: held.iter().map(|h| h.mapping.clone()).collect(),
            ..Run::default()
        };
        run.ports.dedup();
        // What is about to exist has its owner on disk first.
        container.record.run = Some(run.clone());
        self.update(container)?;

        let bundle = self.make_bundle(&id)?;
        let foreign = self.foreign_runtime(options.runtime.as_deref())?;
        let handed = match &foreign {
            None => Some(root),
            Some(_) => {
                // The foreign shim mounts it itself, and two mounts must not share an upper folder.
                drop(root);
                let own = options.network.mode.is_own().then(new_namespace);
                own.transpose()?.map(OwnedFd::from)
            }
        };
        let has_namespace = foreign.is_some() && handed.is_some();
        let mut shim = self.spawn(&id, &bundle, &held, handed)?;
        // While the supervisor starts on another processor.
        let handed = has_namespace.then(|| shim.inherited(held.len()));
        let facts = Facts {
            network: joined.as_ref().map(Joined::path).or(handed.clone()),
            oci_version: match &foreign {
                None => OCI_VERSION,
                Some(_) => OLD_OCI_VERSION,
            },
            ..self.facts(&id, &options, user, hostname.clone(), &files)?
        };
        let document = spec::plan(&options, &image, &facts)?;
        write_config(&bundle, &document)?;
        if let Some(namespace) = &handed {
            // Shims of virtual machines look at what is there when they create.
            self.attach_networks(container, &text(namespace), &mut run)?;
        }
        let request = match &foreign {
            None => self.create_request(container, held.len())?,
            Some(foreign) => self.foreign_request(container, foreign, &mount)?,
        };
        run.pid = shim.create(request)?;
        drop(joined);
        if foreign.is_none() {
            self.attach_networks(container, &namespace_of(run.pid), &mut run)?;
        }
        let networked = !run.networks.is_empty();
        if networked {
            shim.forward(forwards(&run.ports, &run.published_to()))?;
            files.write(&files.texts(&hostname, &options.network, &run, names)?)?;
        }
        container.record.run = Some(run);
        if networked {
            // The pid alone is not worth a transaction: the supervisor tells it.
            self.update(container)?;
        }
        if names && let Some(run) = &container.record.run {
            self.register_names(container, run, &mut shim)?;
        }
        Ok(shim)
    }

    fn asks_resolver(&self, options: &Options) -> Result<bool, Error> {
        let endpoints = options.network.endpoints();
        self.has_names(endpoints.iter().map(|e| e.network.as_str()))
    }

    /// The snapshot's mount; made here if a crash came between the row and it.
    pub(crate) fn ensure_snapshot(&self, container: &Container) -> Result<RootMount, Error> {
        let snapshots = self.store.snapshotter();
        let key = container.id.as_str();
        match snapshots.mounts(key) {
            Err(e) if e.kind() == Kind::NotFound => {}
            found => return Ok(found?),
        }
        let layers: Vec<LayerId> = (container.record.layers.iter())
            .map(|l| l.parse())
            .collect::<Result<_, _>>()
            .map_err(|_| Error::ImageBroken {
                image: container.image.clone(),
                reason: "the container's record names a layer by no valid id",
            })?;
        Ok(snapshots.prepare(key, &layers)?)
    }

    /// Mounts the root where nobody sees it, to read who the user is, to make the working folder
    /// and to fill new volumes. The same mount becomes the container's: what was looked at is what runs.
    fn look_inside(
        &self,
        options: &Options,
        image: &ImageConfig,
        mount: &RootMount,
    ) -> Result<(User, OwnedFd), Error> {
        let root = corten_runtime::rootfs::assemble(&[runtime_mount(mount)])?;
        let asked = options.process.user.as_ref().unwrap_or(&image.user);
        let passwd = rootfs::read_text(root.as_fd(), "/etc/passwd")?;
        let group = rootfs::read_text(root.as_fd(), "/etc/group")?;
        let user = user::resolve(asked, &passwd, &group)?;
        rootfs::make_folders(root.as_fd(), &spec::workdir(options, image))?;
        for request in &options.mounts {
            if let MountSource::Volume(name) = &request.source {
                volume::ensure(&self.paths, name)?;
                volume::fill(&self.paths, name, root.as_fd(), &request.target)?;
            }
        }
        Ok((user, root))
    }

    fn facts(
        &self,
        id: &ContainerId,
        options: &Options,
        user: User,
        hostname: String,
        files: &Files,
    ) -> Result<Facts, Error> {
        let mut volumes = BTreeMap::new();
        for request in &options.mounts {
            if let MountSource::Volume(name) = &request.source {
                volumes.insert(name.clone(), self.paths.volume(name));
            }
        }
        Ok(Facts {
            hostname,
            cgroup: self.paths.cgroup(id),
            user,
            files: vec![
                ("/etc/resolv.conf", files.resolv_conf.clone()),
                ("/etc/hostname", files.hostname.clone()),
                ("/etc/hosts", files.hosts.clone()),
            ],
            volumes,
            executable: executable()?,
            swap_accounting: crate::system::swap_accounting(),
            host_devices: match options.security.privileged {
                true => crate::system::host_devices()?,
                false => vec![],
            },
            default_seccomp,
            kernel: crate::system::kernel_version(),
            network: None,
            oci_version: OCI_VERSION,
        })
    }

    fn make_bundle(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        let bundle = self.paths.bundle(id);
        make_private(&self.paths.bundles())?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&bundle)
            .map_err(Error::io("make folder", &bundle))?;
        Ok(bundle)
    }

    fn spawn(
        &self,
        id: &ContainerId,
        bundle: &Path,
        held: &[HeldPort],
        last: Option<OwnedFd>,
    ) -> Result<Client, Error> {
        make_private(&self.paths.runtime_state())?;
        let mut inherit = held
            .iter()
            .map(|h| h.socket.try_clone())
            .collect::<Result<Vec<OwnedFd>, _>>()
            .map_err(Error::io("duplicate", "a socket"))?;
        inherit.extend(last);
        Ok(client::spawn(&SpawnRequest {
            exe: SpawnRequest::own_exe(),
            bundle,
            id,
            namespace: "corten",
            state_root: &self.paths.runtime_state(),
            inherit,
            log: None,
        })?)
    }

    fn create_request(&self, container: &Container, root: usize) -> Result<CreateRequest, Error> {
        let (id, options) = (&container.id, &container.record.options);
        let mut exit_command = global_flags(&self.paths)?;
        exit_command.extend(["system", "exited", id.as_str()].map(Into::into));
        Ok(CreateRequest {
            bundle: self.paths.bundle(id),
            rootfs: vec![],
            stdio: Stdio::attach(options.process.tty),
            options: CreateOptions {
                log_path: text(&self.paths.log(id)),
                exit_record: text(&self.paths.exit_record(id)),
                exit_command,
                attach: true,
                open_stdin: options.process.open_stdin,
                stdin_once: options.process.stdin_once,
                // After the sockets, and counted from 1.
                root_mount: root as u32 + 1,
                ..CreateOptions::default()
            },
        })
    }

    /// The same for a container that another's shim is to run.
    fn foreign_request(
        &self,
        container: &Container,
        foreign: &Foreign,
        mount: &RootMount,
    ) -> Result<CreateRequest, Error> {
        let request = self.create_request(container, 0)?;
        let mounts = &container.record.options.mounts;
        let shared = |m: &MountRequest| m.options.iter().any(|o| o.ends_with("shared"));
        Ok(CreateRequest {
            rootfs: vec![runtime_mount(mount)],
            options: CreateOptions {
                root_mount: 0,
                foreign: Some(foreign.order(mounts.iter().any(shared))),
                ..request.options
            },
            ..request
        })
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
                Err(error)
            }
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if self.shim.take().is_some() {
            // Best effort: there is nobody left to tell, and `system check` finds what stays.
            let _given_back = self.engine.undo_start(&self.container);
        }
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

/// A start begins a new history: the last exit is forgotten.
fn forget_exit(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// The store's recipe in the runtime's words.
fn runtime_mount(mount: &RootMount) -> corten_runtime::rootfs::Mount {
    corten_runtime::rootfs::Mount {
        fstype: mount.fstype.clone(),
        source: mount.source.clone(),
        options: mount.options.clone(),
    }
}

fn write_config(bundle: &Path, document: &Value) -> Result<(), Error> {
    let path = bundle.join("config.json");
    let text = serde_json::to_vec(document).map_err(|source| Error::Document {
        path: path.clone(),
        source,
    })?;
    fs::write(&path, text).map_err(Error::io("write", path))
}

/// A path for the wire, which carries text: all of ours begin in folders that the store has checked
/// to be UTF-8, or that were given as flags.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Docker's default policy, for the capabilities that the container has.
fn default_seccomp(capabilities: &[String]) -> Result<Value, Error> {
    let document = |source| Error::Document {
        path: "the default seccomp policy".into(),
        source,
    };
    let known: Vec<Capability> = serde_json::from_value(json!(capabilities)).map_err(document)?;
    let arch = match std::env::consts::ARCH {
        "aarch64" => Arch::ScmpArchAarch64,
        _ => Arch::ScmpArchX86_64,
    };
    serde_json::to_value(docker_default(&known, arch)).map_err(document)
}
