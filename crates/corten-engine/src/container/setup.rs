//! The set-up of a start: from a container's record to an init that waits.
//!
//! ```text
//!   look      what is asked for, and what is there: nothing of the host is changed
//!   begin     sockets of published ports; the row says that a run begins
//!   place     where it is to run: a new supervisor, or that of the run before
//!   create    the specification, and the container by it
//!   connect   networks, ports, names
//! ```
//!
//! Our own runtime takes over the root that was looked into, and networks are attached to the namespace that it has made.
//! Another's shim mounts the root itself, and is given a namespace that its supervisor holds, with the networks in it: shims
//! of virtual machines look at what is there when they create.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use corten_runtime::seccomp_profile::docker_default;
use corten_shim::client::{self, Client, CreateOptions, CreateRequest, SpawnRequest, Stdio};
use corten_spec::oci::runtime::{Arch, Capability};
use corten_spec::{ContainerId, Kind};
use corten_store::{LayerId, RootMount, Snapshotter as _};
use serde_json::{Value, json};

use super::options::{MountRequest, MountSource, NetworkMode, Options};
use super::record::{Container, Run};
use super::spec::{self, Facts};
use super::start::{Again, executable, global_flags, hostname, text};
use super::user::{self, User};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::network::{
    Files, HeldPort, Joined, forwards, hold_ports, namespace_of, new_namespace, sockets_of,
};
use crate::runtime::Foreign;
use crate::{Engine, clock, make_private, rootfs, volume};

const OCI_VERSION: &str = "1.2.0";
/// For others' runtimes: nothing that is asked of them is newer, and some refuse what they do not know.
const OLD_OCI_VERSION: &str = "1.0.2";

/// What was found of what a start needs.
struct Found {
    /// `None`: our own runtime.
    foreign: Option<Foreign>,
    image: ImageConfig,
    mount: RootMount,
    /// Another's network namespace.
    joined: Option<Joined>,
    files: Files,
    hostname: String,
    /// Whether it asks the resolver of its networks.
    names: bool,
    user: User,
}

/// Where a container is to run.
struct Place {
    shim: Client,
    root: Root,
    /// A network namespace that the supervisor holds; else the runtime makes one.
    namespace: Option<PathBuf>,
}

/// Where the supervisor has the container's root from.
enum Root {
    /// A mount that it has inherited: its place, from 1.
    Inherited(u32),
    Mounts(Vec<corten_runtime::rootfs::Mount>),
}

impl Engine {
    /// Returns the supervisor, in which init waits.
    pub(super) fn set_up_locked(
        &self,
        container: &mut Container,
        again: Option<Again>,
    ) -> Result<Client, Error> {
        let (found, root) = self.look(container)?;
        let (mut run, held) = self.begin_run(container, again.as_ref())?;
        let mut place = match again {
            None => self.new_place(container, &found, &held, root)?,
            Some(again) => {
                // Two mounts must not share an upper folder.
                drop(root);
                same_place(again, &found)
            }
        };
        self.write_spec(container, &found, place.namespace.as_deref())?;
        if let Some(namespace) = &place.namespace {
            self.attach_networks(container, &text(namespace), &mut run)?;
        }
        let request = self.create_request(container, &found, place.root)?;
        run.pid = place.shim.create(request)?;
        if found.foreign.is_none() {
            self.attach_networks(container, &namespace_of(run.pid), &mut run)?;
        }
        self.connect_run(container, &found, run, &mut place.shim)?;
        Ok(place.shim)
    }

    /// The root comes along as a mount that nobody sees.
    fn look(&self, container: &Container) -> Result<(Found, OwnedFd), Error> {
        let options = &container.record.options;
        let foreign = self.foreign_runtime(options.runtime.as_deref())?;
        let mount = self.ensure_snapshot(container)?;
        let image = self.config_of(container)?;
        let joined = self.joined(&options.network.mode)?;
        let names = self.asks_resolver(options)?;
        let files = Files::of(&self.paths.container(&container.id));
        let hostname = self.write_files(container, &files, names)?;
        let (user, root) = self.look_inside(options, &image, &mount)?;
        let found = Found {
            foreign,
            image,
            mount,
            joined,
            files,
            hostname,
            names,
            user,
        };
        Ok((found, root))
    }

    /// The files of /etc, as far as they are known. Returns the host name.
    fn write_files(
        &self,
        container: &Container,
        files: &Files,
        names: bool,
    ) -> Result<String, Error> {
        let options = &container.record.options;
        if let NetworkMode::Container(other) = &options.network.mode {
            let target = self.container(other)?;
            files.share(&Files::of(&self.paths.container(&target.id)))?;
            return match &options.process.hostname {
                Some(name) => Ok(name.clone()),
                None => files.hostname(),
            };
        }
        let hostname = hostname(options, &container.id)?;
        let nothing = Run::default();
        files.write(&files.texts(&hostname, &options.network, &nothing, names)?)?;
        Ok(hostname)
    }

    fn asks_resolver(&self, options: &Options) -> Result<bool, Error> {
        let endpoints = options.network.endpoints();
        self.has_names(endpoints.iter().map(|e| e.network.as_str()))
    }

    /// What is about to exist has its owner on disk first. The sockets are to be the supervisor's; one that stays has them.
    fn begin_run(
        &self,
        container: &mut Container,
        again: Option<&Again>,
    ) -> Result<(Run, Vec<HeldPort>), Error> {
        // A damaged one is no reason not to start.
        let last = self.exit_record(container).ok().flatten();
        let mut run = Run {
            started_at: clock::now(),
            last_finished: last.map(|exit| exit.exited_at),
            ..Run::default()
        };
        let held = match again {
            Some(again) => {
                run.ports.clone_from(&again.ports);
                run.restarts = again.count;
                Vec::new()
            }
            None => {
                forget_exit(&self.paths.exit_record(&container.id))?;
                hold_ports(&container.record.options.network.ports)?
            }
        };
        if again.is_none() {
            run.ports = held.iter().map(|h| h.mapping.clone()).collect();
            run.ports.dedup();
        }
        container.record.failure = None;
        container.record.run = Some(run.clone());
        self.update(container)?;
        Ok((run, held))
    }

    /// A new bundle, and a new supervisor in it.
    fn new_place(
        &self,
        container: &Container,
        found: &Found,
        held: &[HeldPort],
        root: OwnedFd,
    ) -> Result<Place, Error> {
        let id = &container.id;
        let bundle = self.paths.bundle(id);
        let own = container.record.options.network.mode.is_own();
        let (root, handed) = match found.foreign {
            // After the sockets, and counted from 1.
            None => (Root::Inherited(held.len() as u32 + 1), Some(root)),
            Some(_) => {
                drop(root);
                let namespace = own.then(new_namespace).transpose()?;
                let root = Root::Mounts(vec![runtime_mount(&found.mount)]);
                (root, namespace.map(OwnedFd::from))
            }
        };
        let has_namespace = found.foreign.is_some() && handed.is_some();
        self.make_bundle(&bundle)?;
        let shim = self.spawn(id, &bundle, held, handed)?;
        Ok(Place {
            namespace: has_namespace.then(|| shim.inherited(held.len())),
            shim,
            root,
        })
    }

    /// While the supervisor starts on another processor.
    fn write_spec(
        &self,
        container: &Container,
        found: &Found,
        namespace: Option<&Path>,
    ) -> Result<(), Error> {
        let options = &container.record.options;
        let joined = found.joined.as_ref().map(Joined::path);
        let facts = Facts {
            network: joined.or(namespace.map(Path::to_owned)),
            oci_version: match found.foreign {
                None => OCI_VERSION,
                Some(_) => OLD_OCI_VERSION,
            },
            ..self.facts(&container.id, options, found)?
        };
        let document = spec::plan(options, &found.image, &facts)?;
        write_config(&self.paths.bundle(&container.id), &document)
    }

    /// What the networks have given is passed on: to the supervisor, the files of /etc, the row, and the resolver.
    fn connect_run(
        &self,
        container: &mut Container,
        found: &Found,
        run: Run,
        shim: &mut Client,
    ) -> Result<(), Error> {
        let networked = !run.networks.is_empty();
        if networked {
            shim.forward(forwards(&run.ports, &run.published_to()))?;
            let network = &container.record.options.network;
            let texts = (found.files).texts(&found.hostname, network, &run, found.names)?;
            found.files.write(&texts)?;
        }
        container.record.run = Some(run);
        if networked {
            // The pid alone is not worth a transaction: the supervisor tells it.
            self.update(container)?;
        }
        match &container.record.run {
            Some(run) if found.names => self.register_names(container, run, shim),
            _ => Ok(()),
        }
    }

    /// What the run before held is given back, and its supervisor has a new network namespace where it holds one: the old one ends
    /// with whatever the container has made of it.
    pub(super) fn clear_for_again(
        &self,
        container: &Container,
        shim: &mut Client,
    ) -> Result<Option<PathBuf>, Error> {
        let options = &container.record.options;
        // It may have no container any more.
        let _deleted = shim.delete("");
        let namespace = match self.foreign_runtime(options.runtime.as_deref())? {
            Some(_) if options.network.mode.is_own() => {
                let new = new_namespace()?;
                let path = format!("/proc/{}/fd/{}", std::process::id(), new.as_raw_fd());
                let ports = container.record.run.as_ref().map(|r| r.ports.as_slice());
                let place = sockets_of(ports.unwrap_or_default());
                Some(shim.inherit(place, Path::new(&path))?)
            }
            _ => None,
        };
        self.release_run(container)?;
        Ok(namespace)
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

    fn facts(&self, id: &ContainerId, options: &Options, found: &Found) -> Result<Facts, Error> {
        let files = &found.files;
        let mut volumes = BTreeMap::new();
        for request in &options.mounts {
            if let MountSource::Volume(name) = &request.source {
                volumes.insert(name.clone(), self.paths.volume(name));
            }
        }
        Ok(Facts {
            hostname: found.hostname.clone(),
            cgroup: self.paths.cgroup(id),
            user: found.user.clone(),
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

    fn make_bundle(&self, bundle: &Path) -> Result<(), Error> {
        make_private(&self.paths.bundles())?;
        DirBuilder::new()
            .mode(0o700)
            .create(bundle)
            .map_err(Error::io("make folder", bundle))
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

    fn create_request(
        &self,
        container: &Container,
        found: &Found,
        root: Root,
    ) -> Result<CreateRequest, Error> {
        let (id, options) = (&container.id, &container.record.options);
        let mut exit_command = global_flags(&self.paths)?;
        exit_command.extend(["system", "exited", id.as_str()].map(Into::into));
        let (rootfs, root_mount) = match root {
            Root::Inherited(place) => (vec![], place),
            Root::Mounts(mounts) => (mounts, 0),
        };
        let shared = |m: &MountRequest| m.options.iter().any(|o| o.ends_with("shared"));
        let shares = options.mounts.iter().any(shared);
        Ok(CreateRequest {
            checkpoint: Default::default(),
            bundle: self.paths.bundle(id),
            rootfs,
            stdio: Stdio::attach(options.process.tty),
            options: CreateOptions {
                log_path: match options.log.none {
                    true => String::new(),
                    false => text(&self.paths.log(id)),
                },
                exit_record: text(&self.paths.exit_record(id)),
                exit_command,
                attach: true,
                open_stdin: options.process.open_stdin,
                stdin_once: options.process.stdin_once,
                root_mount,
                log_max_size: options.log.max_size,
                log_max_files: options.log.max_files,
                restart: self.restart_terms(container)?,
                health: self.health_request(container, &found.image)?,
                foreign: found.foreign.as_ref().map(|f| f.order(shares, false)),
                ..CreateOptions::default()
            },
        })
    }
}

/// In the supervisor of the run before.
fn same_place(again: Again, found: &Found) -> Place {
    Place {
        shim: again.shim,
        root: Root::Mounts(vec![runtime_mount(&found.mount)]),
        namespace: again.namespace,
    }
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
