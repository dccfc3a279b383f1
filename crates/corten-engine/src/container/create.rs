//! Create: a row, a folder, a snapshot, the volumes; nothing runs yet.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use corten_spec::Kind;
use corten_store::ImageRecord;

use super::options::{MountRequest, MountSource, NetworkMode, Options, Seccomp};
use super::record::{Container, Record, VERSION};
use super::{anonymous_volume, name, random_id, row, seccomp, spec};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::{Engine, clock, volume};

/// Tries to find a name that is free before giving up.
const NAMES: u32 = 16;

impl Engine {
    /// Makes a container of an image that is here ([`Engine::image`] says so).
    pub fn create(&self, mut options: Options) -> Result<Container, Error> {
        // Held until the snapshot refers to the layers itself.
        let _lease = self.store.lease("create")?;
        let image = self.image(&options.image)?;
        let config_bytes = self.image_config_bytes(&image)?;
        let config = ImageConfig::parse(&options.image, &config_bytes)?;
        spec::command_line(&options, &config)?;
        if let Seccomp::Profile(profile) = &options.security.seccomp {
            seccomp::check(profile)?;
        }
        check_sources(&options)?;
        if let NetworkMode::Container(name) = &options.network.mode {
            // By id from here on: a name may be another's tomorrow.
            options.network.mode = NetworkMode::Container(self.container(name)?.id.to_string());
        }
        self.check_network_options(&options.network)?;
        add_image_volumes(&mut options, &config)?;
        let container = self.enter(options, &image)?;
        match self.furnish(&container, &config_bytes) {
            Ok(()) => Ok(container),
            Err(e) => {
                // Best effort: the row stays if this fails too, and names what is left.
                let undone = self
                    .remove_anonymous_volumes(&container)
                    .and_then(|()| self.discard(&container));
                match undone {
                    Ok(()) => Err(e.of_container(container.name.as_str(), "created")),
                    Err(second) => Err(Error::Undo {
                        name: container.name.to_string(),
                        first: e.to_string(),
                        source: Box::new(second),
                    }),
                }
            }
        }
    }

    /// The row: from here on the container has an owner on disk.
    fn enter(&self, options: Options, image: &ImageRecord) -> Result<Container, Error> {
        for attempt in 0.. {
            let id = random_id()?;
            let container = Container {
                id: id.clone(),
                name: match &options.name {
                    Some(n) => n.clone(),
                    None => name::generate(id.as_str(), attempt).parse()?,
                },
                image: image.reference.clone(),
                created_at: clock::nanoseconds(),
                record: Record {
                    version: VERSION,
                    options: options.clone(),
                    image_config: image.config.clone(),
                    manifest: image.manifest.clone(),
                    layers: image.layers.iter().map(|l| l.layer.to_string()).collect(),
                    run: None,
                },
            };
            let networks = self.rows_of(&options.network.endpoints())?;
            let containers = self.store.containers();
            match containers.insert(&row(&container)?, &networks) {
                Ok(()) => return Ok(container),
                Err(e)
                    if e.kind() == Kind::AlreadyExists
                        && options.name.is_none()
                        && attempt < NAMES => {}
                Err(e) => return Err(e.into()),
            }
        }
        unreachable!("the range has no end")
    }

    fn furnish(&self, container: &Container, config: &[u8]) -> Result<(), Error> {
        let folder = self.paths.container(&container.id);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(Error::io("make folder", folder))?;
        let path = self.paths.image_config(&container.id);
        fs::write(&path, config).map_err(Error::io("write", path))?;
        self.ensure_snapshot(container)?;
        for mount in &container.record.options.mounts {
            if let MountSource::Volume(name) = &mount.source {
                volume::ensure(&self.paths, name)?;
            }
        }
        Ok(())
    }
}

/// A bind source must be there: making an empty folder in its place, as docker does, hides typing errors.
fn check_sources(options: &Options) -> Result<(), Error> {
    for mount in &options.mounts {
        if let MountSource::Bind(path) = &mount.source
            && !path.exists()
        {
            return Err(Error::PathMissing {
                what: "bind source",
                path: path.clone(),
            });
        }
    }
    Ok(())
}

/// Each VOLUME of the image that nothing is mounted on gets a volume of its own.
fn add_image_volumes(options: &mut Options, config: &ImageConfig) -> Result<(), Error> {
    for target in &config.volumes {
        let target = format!("/{}", target.trim_matches('/'));
        let fine = target != "/" && !target.split('/').any(|c| c == ".." || c == ".");
        if !fine || options.mounts.iter().any(|m| m.target == target) {
            continue;
        }
        options.mounts.push(MountRequest {
            source: MountSource::Volume(anonymous_volume()?),
            target,
            options: vec![],
        });
    }
    Ok(())
}
