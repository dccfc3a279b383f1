//! All files of a host together: which device is whose, and what several of them change.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::document::{Document, Edits};
use super::error::{DocumentError, Error};
use super::name::Name;
use super::yaml;

/// Where descriptions are, a later folder winning.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Those of hosts with many devices have some hundred KB.
const MAX_FILE: u64 = 4 << 20;

/// The files of a host, as they were when they were read.
#[derive(Debug, Default)]
pub struct Registry {
    files: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    /// The place of its folder: a later one wins.
    folder: usize,
    found: Result<Document, DocumentError>,
}

impl Registry {
    /// Reads all files of the folders, those that are not there aside. Never fails: see [`faults`](Self::faults).
    pub fn read<P: AsRef<Path>>(folders: &[P]) -> Self {
        let mut registry = Self::default();
        for (place, folder) in folders.iter().enumerate() {
            let folder = folder.as_ref();
            match files(folder) {
                Ok(paths) => {
                    for path in paths {
                        let found = read(&path).and_then(|bytes| parse(&path, &bytes));
                        registry.add(path, place, found);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => registry.add(folder.into(), place, Err(e.into())),
            }
        }
        registry
    }

    fn add(&mut self, path: PathBuf, folder: usize, found: Result<Document, DocumentError>) {
        self.files.push(Entry {
            path,
            folder,
            found,
        });
    }

    /// Files that could not be read, for the log.
    pub fn faults(&self) -> impl Iterator<Item = (&Path, &DocumentError)> {
        let fault = |e: &'_ Entry| e.found.is_err();
        let broken = self.files.iter().filter(move |e| fault(e));
        broken.filter_map(|e| Some((e.path.as_path(), e.found.as_ref().err()?)))
    }

    /// What these devices change: of each file first what any of its devices needs, once, then the device's own.
    pub fn edits(&self, names: &[Name]) -> Result<Edits, Error> {
        let mut edits = Edits::default();
        let mut seen: Vec<&Path> = Vec::new();
        for name in names {
            let (path, document) = self.owner(name)?;
            if !seen.contains(&path) {
                seen.push(path);
                edits.append(&document.container_edits);
            }
            let device = document.devices.iter().find(|d| d.name == name.device);
            if let Some(device) = device {
                edits.append(&device.container_edits);
            }
        }
        Ok(edits)
    }

    /// The one file that describes a device in the last folder which has it.
    fn owner(&self, name: &Name) -> Result<(&Path, &Document), Error> {
        let describes = |entry: &'_ Entry| {
            let document = entry.found.as_ref().ok();
            document.is_some_and(|d| {
                d.kind == name.kind && d.devices.iter().any(|d| d.name == name.device)
            })
        };
        let all: Vec<&Entry> = self.files.iter().filter(|e| describes(e)).collect();
        let last = all.iter().map(|e| e.folder).max();
        let mut owners = all.into_iter().filter(|e| Some(e.folder) == last);
        match (owners.next(), owners.next()) {
            (Some(first), Some(second)) => Err(Error::Conflict {
                name: name.to_string(),
                first: first.path.clone(),
                second: second.path.clone(),
            }),
            (
                Some(Entry {
                    path,
                    found: Ok(document),
                    ..
                }),
                None,
            ) => Ok((path, document)),
            _ => Err(Error::Missing {
                name: name.to_string(),
                unread: self.faults().map(|(path, _)| path.to_owned()).collect(),
            }),
        }
    }
}

/// `*.json` and `*.yaml` of a folder, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let known = path.extension().is_some_and(|e| e == "json" || e == "yaml");
        if known && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>, DocumentError> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(DocumentError::Size { max: MAX_FILE }),
        false => Ok(bytes),
    }
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Document, DocumentError> {
    let value = match path.extension().is_some_and(|e| e == "yaml") {
        true => {
            let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::Yaml {
                line: 1,
                problem: "it is not UTF-8".into(),
            })?;
            yaml::parse(text)?
        }
        false => serde_json::from_slice(bytes)?,
    };
    Document::parse(value)
}
