//! Create: a row, a folder, a snapshot, the volumes; nothing runs yet.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use corten_spec::Kind;
use corten_store::ImageRecord;

use super::health::Check;
use super::options::{
    MountRequest, MountSource, NetworkMode, Options, PortMapping, Protocol, Seccomp,
};
use super::record::{Container, Record, VERSION};
use super::{anonymous_volume, health, name, random_id, row, seccomp, spec};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::network::NetworkError;
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
        health::check(&options, &config)?;
        self.check_foreign(&options, &config)?;
        if let Seccomp::Profile(profile) = &options.security.seccomp {
            seccomp::check(profile)?;
        }
        check_sources(&options)?;
        self.check_runtime(options.runtime.as_deref())?;
        if let NetworkMode::Container(name) = &options.network.mode {
            // By id from here on: a name may be another's tomorrow.
            options.network.mode = NetworkMode::Container(self.container(name)?.id.to_string());
        }
        publish_exposed(&mut options, &config)?;
        self.name_networks(&mut options.network)?;
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

    /// What another's runtime cannot have: our supervisor would have to enter what it does not run.
    fn check_foreign(&self, options: &Options, image: &ImageConfig) -> Result<(), Error> {
        let Some(runtime) = &options.runtime else {
            return Ok(());
        };
        let checked = Check::of(&options.health, image.healthcheck.as_ref()).is_some();
        match checked && self.foreign_runtime(Some(runtime))?.is_some() {
            true => Err(Error::NotForeign {
                what: "health checks",
                runtime: runtime.clone(),
            }),
            false => Ok(()),
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
                    failure: None,
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

/// With `publish_all`, each EXPOSE of the image that is not published already goes to a port that is free then.
fn publish_exposed(options: &mut Options, config: &ImageConfig) -> Result<(), Error> {
    if !options.network.publish_all {
        return Ok(());
    }
    for text in &config.exposed {
        let (port, protocol) =
            exposed(text).ok_or_else(|| NetworkError::Exposed { port: text.clone() })?;
        let ports = &mut options.network.ports;
        if !ports
            .iter()
            .any(|p| (p.container_port, p.protocol) == (port, protocol))
        {
            ports.push(PortMapping {
                host_ip: None,
                host_port: 0,
                container_port: port,
                protocol,
            });
        }
    }
    Ok(())
}

/// `PORT[/PROTOCOL]`
fn exposed(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok().filter(|p| *p > 0)?, protocol))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports_are_published_once() {
        let mut options = Options::default();
        let config = ImageConfig {
            exposed: vec!["53/udp".into(), "80".into(), "443/tcp".into()],
            ..ImageConfig::default()
        };
        publish_exposed(&mut options, &config).unwrap();
        assert_eq!(options.network.ports, []);
        let asked = PortMapping {
            host_ip: None,
            host_port: 8443,
            container_port: 443,
            protocol: Protocol::Tcp,
        };
        options.network.publish_all = true;
        options.network.ports = vec![asked];
        publish_exposed(&mut options, &config).unwrap();
        let ports = options.network.ports.iter();
        let ports: Vec<_> = ports
            .map(|p| (p.host_port, p.container_port, p.protocol))
            .collect();
        assert_eq!(
            ports,
            [
                (8443, 443, Protocol::Tcp),
                (0, 53, Protocol::Udp),
                (0, 80, Protocol::Tcp)
            ]
        );
        for bad in ["0/tcp", "80/sctp", "http", "70000", ""] {
            assert_eq!(exposed(bad), None, "{bad}");
        }
    }
}
