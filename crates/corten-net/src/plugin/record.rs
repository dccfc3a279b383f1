//! What a plugin must remember of a container's link so that DEL can put it back: a file a link,
//! `CONTAINER_IFNAME.json`, as the reference `tuning` has it. Written before the change that it is
//! about, whole or not at all.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Request;
use crate::Error;
use crate::error::file_error;

/// No record of ours comes near.
const MAX_FILE: u64 = 64 << 10;
const SUFFIX: &str = ".json";

/// The folder of one plugin's records.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

/// Whose a record is, besides its name: keys that others pass over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Whose {
    #[serde(default, rename = "cortenNetwork")]
    pub network: String,
    #[serde(default, rename = "cortenNetns")]
    pub netns: PathBuf,
    /// Of the namespace; its path may come to mean another.
    #[serde(default, rename = "cortenInode")]
    pub inode: u64,
    #[serde(default, rename = "cortenContainer")]
    pub container_id: String,
    #[serde(default, rename = "cortenIfname")]
    pub ifname: String,
}

impl Whose {
    pub fn of(request: &Request<'_>) -> Self {
        Self {
            network: request.network().into(),
            netns: request.netns.into(),
            inode: inode(request.netns),
            container_id: request.container_id.into(),
            ifname: request.ifname.into(),
        }
    }

    /// Whether the namespace at this path is still the one that the record is about.
    pub fn is_at(&self, netns: &Path) -> bool {
        self.inode != 0 && self.inode == inode(netns)
    }
}

fn inode(netns: &Path) -> u64 {
    fs::metadata(netns).map_or(0, |m| m.ino())
}

impl Records {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn path(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.folder.join(format!("{container_id}_{ifname}{SUFFIX}"))
    }

    pub fn write(
        &self,
        container_id: &str,
        ifname: &str,
        record: &impl Serialize,
    ) -> Result<(), Error> {
        let path = self.path(container_id, ifname);
        let temporary = self.folder.join(format!(".{container_id}_{ifname}"));
        fs::create_dir_all(&self.folder).map_err(file_error("make", &self.folder))?;
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(file_error("write", &path))
    }

    /// `None` if there is none, or nothing that can be read as one.
    pub fn read<T: DeserializeOwned>(
        &self,
        container_id: &str,
        ifname: &str,
    ) -> Result<Option<T>, Error> {
        self.load(&self.path(container_id, ifname))
    }

    fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Error> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error("open", path)(e)),
        };
        let mut bytes = Vec::new();
        let mut bounded = file.take(MAX_FILE);
        bounded
            .read_to_end(&mut bytes)
            .map_err(file_error("read", path))?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Every record of a network.
    pub fn of_network<T: DeserializeOwned>(&self, network: &str) -> Result<Vec<(Whose, T)>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(file_error("list", &self.folder)(e)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(file_error("list", &self.folder))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let whose = self.load::<Whose>(&path)?;
            let Some(whose) = whose.filter(|w| w.network == network) else {
                continue;
            };
            all.extend(self.load(&path)?.map(|record| (whose, record)));
        }
        Ok(all)
    }

    /// One that is not there is a success.
    pub fn remove(&self, container_id: &str, ifname: &str) -> Result<(), Error> {
        let path = self.path(container_id, ifname);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }
}
