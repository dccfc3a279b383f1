//! `export`: a container's root file system as a tar. `commit`: what a container has changed, as a layer of a new image.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use corten_spec::Digest;
use corten_store::{ImageRecord, RootMount};
use serde_json::{Value, json};

use super::build::{self, NewImage};
use super::change::Instruction;
use super::tar::write::Writer;
use super::tree::{self, Form};
use crate::Engine;
use crate::container::Container;
use crate::error::Error;

/// What `commit` adds.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    pub author: String,
    pub message: String,
    pub changes: Vec<Instruction>,
    /// A whole reference; without one the image is found by its id.
    pub name: Option<String>,
}

impl Engine {
    /// Writes the root of a container, running or not: the image with what the container has changed. Volumes and
    /// other mounts are not in it.
    pub fn export(&self, container: &Container, out: impl Write) -> Result<(), Error> {
        let mount = self.ensure_snapshot(container)?;
        let root = read_only(&mount)?;
        let mut writer = Writer::new(out);
        tree::write(&root, Form::Root, &mut writer)?;
        let done = writer.finish().map(|_| ());
        done.map_err(Error::io("write", "the archive"))
    }

    /// Makes an image of what a container has become. Its image must still be here.
    pub fn commit(&self, container: &Container, options: &CommitOptions) -> Result<Digest, Error> {
        let lease = self.store.lease("commit")?;
        let base = self.base_of(container)?;
        let mount = self.ensure_snapshot(container)?;
        let upper = upper(&mount).ok_or_else(|| Error::ImageBroken {
            image: container.image.clone(),
            reason: "its containers have no writable part of their own",
        })?;
        let root = fs::File::open(&upper).map_err(Error::io("open", &upper))?;
        let layer = self.new_layer(&lease, |out| {
            let mut writer = Writer::new(out);
            tree::write(&OwnedFd::from(root), Form::Layer, &mut writer)?;
            let done = writer.finish().map(|_| ());
            done.map_err(Error::io("write", "the layer"))
        })?;
        let mut config = self.config_of_image(&base)?;
        run_config(&mut config, container);
        for change in &options.changes {
            change.apply(&mut config["config"]);
        }
        if !options.author.is_empty() {
            config["author"] = options.author.clone().into();
        }
        let command = self.command_line(container)?.join(" ");
        let history = json!({
            "created_by": command,
            "comment": options.message,
            "author": options.author,
        });
        let mut layers = base.layers;
        layers.push(layer);
        self.finish_image(
            &lease,
            NewImage {
                config,
                layers,
                history,
                name: options.name.clone(),
            },
        )
    }

    fn base_of(&self, container: &Container) -> Result<ImageRecord, Error> {
        let config = &container.record.image_config;
        let mut images = self.store.images()?.into_iter();
        let found = images.find(|i| i.config == *config);
        found.ok_or_else(|| Error::ImageMissing {
            name: container.image.clone(),
        })
    }
}

/// What the container was told to run, as the new image's own.
fn run_config(config: &mut Value, container: &Container) {
    let options = &container.record.options;
    let process = &options.process;
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    let target = &mut config["config"];
    if let Some(entrypoint) = &process.entrypoint {
        target["Entrypoint"] = json!(entrypoint);
        target["Cmd"] = json!(process.command);
    } else if !process.command.is_empty() {
        target["Cmd"] = json!(process.command);
    }
    for variable in &process.env {
        build::set_variable(target, variable);
    }
    if let Some(folder) = &process.workdir {
        target["WorkingDir"] = json!(folder);
    }
    if let Some(user) = &process.user {
        target["User"] = json!(user);
    }
    for (key, value) in &options.labels {
        build::set_label(target, key, value);
    }
}

fn option<'a>(mount: &'a RootMount, key: &str) -> Option<&'a str> {
    let all = mount.options.iter();
    all.filter_map(|o| o.split_once('='))
        .find_map(|(k, v)| (k == key).then_some(v))
}

/// The folder of what is written to it.
pub(crate) fn upper(mount: &RootMount) -> Option<PathBuf> {
    option(mount, "upperdir").map(PathBuf::from)
}

/// The same view with nothing to write to: an overlay whose upper folder is in use by a container that runs must not have it
/// as its own, too.
pub(super) fn read_only(mount: &RootMount) -> Result<OwnedFd, Error> {
    let mut options = mount.options.clone();
    if let (Some(upper), Some(lower)) = (option(mount, "upperdir"), option(mount, "lowerdir")) {
        let layers = format!("lowerdir={upper}:{lower}");
        options.retain(|o| {
            !matches!(
                o.split('=').next(),
                Some("upperdir" | "workdir" | "lowerdir")
            )
        });
        options.push(layers);
    }
    let mount = corten_runtime::rootfs::Mount {
        fstype: mount.fstype.clone(),
        source: mount.source.clone(),
        options,
    };
    Ok(corten_runtime::rootfs::assemble(&[mount])?)
}
