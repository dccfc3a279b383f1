//! Save: images of the store as an archive or folder.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use corten_spec::{Platform, Reference};
use corten_store::Lease;

use super::beside::Beside;
use super::copy::bindings::{Bindings, Layout};
use super::copy::source::Source;
use super::copy::target::{Shelf, Target};
use super::copy::transfer::existing_index;
use super::copy::{self, Copied, Walk, Wanted};
use super::load::platform_of;
use super::{ImageError, Progress};
use crate::Engine;
use crate::error::Error;

/// podman's names for the forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// One tar that docker, podman, containerd and skopeo read: an OCI layout with docker's `manifest.json`.
    #[default]
    DockerArchive,
    OciArchive,
    OciDir,
    /// skopeo's `dir:`.
    DockerDir,
}

/// Where an archive goes.
pub enum Output {
    Path(PathBuf),
    Stream(Box<dyn Write + Send>),
}

impl Engine {
    /// Writes images. A name is kept as it was given; an id has none. Layers that images share are written once.
    pub fn save(
        &self,
        names: &[String],
        format: SaveFormat,
        platform: Option<&Platform>,
        output: Output,
        progress: Arc<dyn Progress>,
    ) -> Result<(), Error> {
        let layout = match format {
            SaveFormat::DockerArchive => Layout::Docker,
            SaveFormat::OciArchive | SaveFormat::OciDir => Layout::Oci,
            SaveFormat::DockerDir => Layout::Flat,
        };
        let folder = matches!(format, SaveFormat::OciDir | SaveFormat::DockerDir);
        if layout == Layout::Flat && names.len() > 1 {
            return Err(ImageError::Place {
                text: names.join(" "),
                why: "a folder of docker's form holds one image".into(),
            }
            .into());
        }
        // Before anything is written: is all there?
        let lease = self.store.lease("save")?;
        let sources = self.sources(names, platform, &lease)?;
        match output {
            Output::Path(path) if folder => {
                let index = path.join("index.json");
                if layout == Layout::Flat && path.join("manifest.json").exists() {
                    return Err(ImageError::Exists { path }.into());
                }
                let existing = if index.exists() {
                    existing_index(&path)?
                } else {
                    None
                };
                fs::create_dir_all(&path).map_err(Error::io("make folder", &path))?;
                let shelf = Arc::new(Shelf::folder(&path, layout.form())?);
                self.write(sources, layout, &shelf, existing, progress)
            }
            Output::Path(path) => {
                let beside = Beside::create(&path)?;
                let file = beside.file.try_clone().map_err(Error::io("open", &path))?;
                let out = std::io::BufWriter::with_capacity(256 << 10, file);
                let shelf = Arc::new(Shelf::archive(Box::new(out)));
                self.write(sources, layout, &shelf, None, progress)?;
                beside.publish()
            }
            Output::Stream(out) => {
                let shelf = Arc::new(Shelf::archive(out));
                self.write(sources, layout, &shelf, None, progress)
            }
        }
    }

    fn sources(
        &self,
        names: &[String],
        platform: Option<&Platform>,
        lease: &Lease,
    ) -> Result<Vec<Saved>, Error> {
        let mut found: Vec<Saved> = Vec::new();
        for name in names {
            let record = self.image(name)?;
            super::push::hold(lease, &record)?;
            let wanted = match platform {
                Some(p) => Wanted::Platform(p.clone()),
                None => Wanted::Whole(platform_of(&self.config_of_image(&record)?)),
            };
            // What was asked for by its name keeps it; by an id, it has none.
            let named = name.parse::<Reference>();
            let named = named
                .ok()
                .filter(|r| r.to_string() == record.reference && r.tag().is_some());
            let names = named.map(|r| r.to_string()).into_iter().collect::<Vec<_>>();
            match found.iter_mut().find(|s| s.manifest == record.manifest) {
                Some(same) => same.names.extend(names),
                None => found.push(Saved {
                    names,
                    manifest: record.manifest.clone(),
                    source: Source::Store {
                        store: self.store.clone(),
                        record: Box::new(record),
                    },
                    wanted,
                }),
            }
        }
        Ok(found)
    }

    fn write(
        &self,
        sources: Vec<Saved>,
        layout: Layout,
        shelf: &Arc<Shelf>,
        existing: Option<Vec<u8>>,
        progress: Arc<dyn Progress>,
    ) -> Result<(), Error> {
        let target = Target::Files(shelf.clone());
        let mut bindings = Bindings::new(layout);
        let mut done = BTreeSet::new();
        for saved in sources {
            let mut walk = Walk {
                source: &saved.source,
                target: &target,
                progress: progress.clone(),
                done,
            };
            let copied: Copied = copy::run(walk.run(&saved.wanted))?;
            done = walk.done;
            bindings.add(&saved.names, &copied);
        }
        bindings.write(shelf, existing)?;
        shelf.finish()
    }
}

struct Saved {
    names: Vec<String>,
    manifest: corten_spec::Digest,
    source: Source,
    wanted: Wanted,
}
