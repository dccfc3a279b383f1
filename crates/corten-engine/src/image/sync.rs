//! Sync: many images of registries at once, by repository or by a list, into another registry or a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_registry::client::{Client, ClientConfig};
use corten_spec::Reference;
use serde::Deserialize;

use super::copy::place::Place;
use super::copy::transfer::CopyOptions;
use super::filter::glob;
use super::{ImageError, Progress, copy};
use crate::Engine;
use crate::error::Error;

/// A list of images, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Tags of one repository that are taken.
const TAGS_MAX: usize = 100_000;

/// Where images are synced to.
#[derive(Clone, Debug)]
pub enum Destination {
    /// `HOST[/PATH]`: each image below it.
    Registry(String),
    /// A folder a image, in skopeo's `dir:` form.
    Folder(PathBuf),
    /// One OCI layout with all of them.
    Layout(PathBuf),
}

/// One image, and where it goes.
#[derive(Clone, Debug)]
pub struct Step {
    pub from: Reference,
    pub to: Place,
}

/// `["HOST"]`, and below it `images.NAME = ["TAG", "1.*"]`; an empty list is all tags.
#[derive(Deserialize)]
#[serde(transparent)]
struct File(BTreeMap<String, Host>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    images: BTreeMap<String, Vec<String>>,
}

/// What is to be synced: repositories, and patterns of their tags.
#[derive(Clone, Debug)]
pub struct Selection {
    pub repository: Reference,
    /// Empty: all.
    pub tags: Vec<String>,
}

/// Reads a list of images.
pub fn read(path: &Path) -> Result<Vec<Selection>, Error> {
    let wrong = |why: String| ImageError::Place {
        text: path.display().to_string(),
        why,
    };
    let size = std::fs::metadata(path)
        .map_err(Error::io("open", path))?
        .len();
    if size > FILE_MAX {
        return Err(wrong(format!("a list of images has at most {FILE_MAX} bytes")).into());
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let file: File = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let mut found = Vec::new();
    for (host, images) in file.0 {
        for (name, tags) in images.images {
            found.push(Selection {
                repository: format!("{host}/{name}").parse()?,
                tags,
            });
        }
    }
    Ok(found)
}

impl Selection {
    /// One name: with a tag or digest, that image; without, all tags.
    pub fn of(name: &str) -> Result<Self, Error> {
        let repository: Reference = name.parse()?;
        let slash = name.rfind('/').map_or(0, |i| i + 1);
        let says = name[slash..].contains([':', '@']);
        let tags = match (says, repository.tag()) {
            (true, Some(tag)) => vec![tag.to_owned()],
            (true, None) => {
                return Err(ImageError::Place {
                    text: name.into(),
                    why: "an image by digest is copied, not synced".into(),
                }
                .into());
            }
            (false, _) => Vec::new(),
        };
        Ok(Self { repository, tags })
    }

    fn wants(&self, tag: &str) -> bool {
        self.tags.is_empty() || self.tags.iter().any(|p| glob(p.as_bytes(), tag.as_bytes()))
    }

    /// Are the tags spelled out, so that nobody need be asked for them?
    fn is_plain(&self) -> bool {
        !self.tags.is_empty() && self.tags.iter().all(|t| corten_spec::reference::is_tag(t))
    }
}

impl Engine {
    /// Every image of the selections, and where it goes. `scoped`: with its registry and path before its name.
    pub fn plan_sync(
        &self,
        selections: &[Selection],
        to: &Destination,
        scoped: bool,
        client: &ClientConfig,
    ) -> Result<Vec<Step>, Error> {
        let client = Client::new(client.clone());
        let mut steps = Vec::new();
        for selection in selections {
            let tags = match selection.is_plain() {
                true => selection.tags.clone(),
                false => copy::run(async {
                    let tags = client.tags(&selection.repository).await;
                    tags.map_err(|e| Error::registry("list the tags of", &selection.repository, e))
                })?,
            };
            let wanted = tags.iter().filter(|t| selection.wants(t)).take(TAGS_MAX);
            for tag in wanted {
                if let Some(from) = selection.repository.with_tag(tag) {
                    let to = place(&from, tag, to, scoped)?;
                    steps.push(Step { from, to });
                }
            }
        }
        Ok(steps)
    }

    /// Copies one image of a plan.
    pub fn sync_step(
        &self,
        step: &Step,
        options: &CopyOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<corten_spec::Digest, Error> {
        let from = Place::Registry(step.from.clone());
        Ok(self.copy(&from, &step.to, options, progress)?.digest)
    }
}

fn place(from: &Reference, tag: &str, to: &Destination, scoped: bool) -> Result<Place, Error> {
    let path = from.repository();
    let last = path.rsplit('/').next().unwrap_or(path);
    Ok(match to {
        Destination::Registry(prefix) => {
            // A port has no place in a path.
            let name = match scoped {
                true => format!("{}/{path}", from.registry().replace(':', "-")),
                false => last.to_owned(),
            };
            Place::Registry(format!("{}/{name}:{tag}", prefix.trim_end_matches('/')).parse()?)
        }
        Destination::Folder(folder) => {
            let name = match scoped {
                true => format!("{}/{path}:{tag}", from.registry()),
                false => format!("{last}:{tag}"),
            };
            Place::Folder(folder.join(name))
        }
        Destination::Layout(folder) => Place::Layout {
            folder: folder.clone(),
            tag: Some(match scoped {
                true => from.to_string(),
                false => format!("{last}:{tag}"),
            }),
        },
    })
}
