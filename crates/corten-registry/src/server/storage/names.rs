//! What a repository calls things: tags, what refers to what, and the repositories themselves.

use std::fs;
use std::io;
use std::path::PathBuf;

use corten_spec::Digest;
use corten_spec::digest::Algorithm;
use corten_spec::reference::is_repository;

use super::{Of, Order, Result, Storage, at, is_kept, names, optional, sync_folder_of};

impl Storage {
    pub fn set_tag(&self, _: &Order<'_>, name: &str, tag: &str, digest: &Digest) -> Result<()> {
        let path = self.repository(name).join("_tags").join(tag);
        self.place(&path, digest.to_string().as_bytes())?;
        self.use_now(&path)
    }

    /// How long ago a tag was last set, to the same or to another manifest.
    pub fn tag_idle(&self, name: &str, tag: &str) -> Result<Option<std::time::Duration>> {
        self.idle(&self.repository(name).join("_tags").join(tag))
    }

    pub fn tag(&self, name: &str, tag: &str) -> Result<Option<Digest>> {
        let path = self.repository(name).join("_tags").join(tag);
        let Some(text) = optional("read", &path, fs::read_to_string(&path))? else {
            return Ok(None);
        };
        let parsed = text
            .trim()
            .parse()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        at("understand", &path, parsed).map(Some)
    }

    pub fn remove_tag(&self, _: &Order<'_>, name: &str, tag: &str) -> Result<bool> {
        let path = self.repository(name).join("_tags").join(tag);
        let removed = optional("remove", &path, fs::remove_file(&path))?.is_some();
        if removed {
            sync_folder_of(&path)?;
        }
        Ok(removed)
    }

    /// The repository's tags, sorted; `None` where there is no such repository.
    pub fn tags(&self, name: &str) -> Result<Option<Vec<String>>> {
        let folder = self.repository(name);
        if !is_kept(&folder) {
            return Ok(None);
        }
        Ok(Some(names(&folder.join("_tags"))?))
    }

    pub fn add_referrer(
        &self,
        _: &Order<'_>,
        name: &str,
        subject: &Digest,
        by: &Digest,
        descriptor: &[u8],
    ) -> Result<()> {
        self.place(
            &self.referrers_of(name, subject).join(by.to_string()),
            descriptor,
        )
    }

    pub fn remove_referrer(
        &self,
        _: &Order<'_>,
        name: &str,
        subject: &Digest,
        by: &Digest,
    ) -> Result<()> {
        let path = self.referrers_of(name, subject).join(by.to_string());
        optional("remove", &path, fs::remove_file(&path)).map(drop)
    }

    /// The descriptors of what refers to a manifest.
    pub fn referrers(&self, name: &str, subject: &Digest) -> Result<Vec<Vec<u8>>> {
        let folder = self.referrers_of(name, subject);
        let mut out = Vec::new();
        for file in names(&folder)? {
            let path = folder.join(file);
            out.extend(optional("read", &path, fs::read(&path))?);
        }
        Ok(out)
    }

    /// The manifests that refer to one.
    pub fn referrers_digests(&self, name: &str, subject: &Digest) -> Result<Vec<Digest>> {
        let files = names(&self.referrers_of(name, subject))?;
        Ok(files.iter().filter_map(|f| f.parse().ok()).collect())
    }

    fn referrers_of(&self, name: &str, subject: &Digest) -> PathBuf {
        let folder = self.repository(name).join("_referrers");
        folder
            .join(subject.algorithm().as_str())
            .join(subject.hex())
    }

    /// All repositories that hold anything, sorted.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let top = self.root.join("repositories");
        let mut out = Vec::new();
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            let folder = top.join(&prefix);
            for name in names(&folder)? {
                let full = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}/{name}")
                };
                if !is_repository(&full) {
                    continue;
                }
                if is_kept(&top.join(&full)) {
                    out.push(full.clone());
                }
                open.push(full);
            }
        }
        out.sort();
        Ok(out)
    }

    /// The manifests or blobs that a repository has, and all content with [`contents`](Self::contents).
    pub fn links(&self, name: &str, of: Of) -> Result<Vec<Digest>> {
        self.digests_below(&self.repository(name).join(of.folder()))
    }

    /// All content there is.
    pub fn contents(&self) -> Result<Vec<Digest>> {
        self.digests_below(&self.root.join("blobs"))
    }

    fn digests_below(&self, folder: &std::path::Path) -> Result<Vec<Digest>> {
        let mut out = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let algorithm = algorithm.as_str();
            for hex in names(&folder.join(algorithm))? {
                // What is not ours is left alone.
                out.extend(format!("{algorithm}:{hex}").parse::<Digest>().ok());
            }
        }
        Ok(out)
    }

    /// How long ago a link was last used.
    pub fn link_idle(
        &self,
        name: &str,
        of: Of,
        digest: &Digest,
    ) -> Result<Option<std::time::Duration>> {
        self.idle(&self.link_path(name, of, digest))
    }

    /// What lies among the uploads, by file name.
    pub fn uploads(&self) -> Result<Vec<String>> {
        names(&self.root.join("uploads"))
    }

    pub fn remove_upload(&self, id: &str) -> Result<()> {
        for path in [self.upload(id), self.upload(&format!("{id}.of"))] {
            optional("remove", &path, fs::remove_file(&path))?;
        }
        Ok(())
    }
}
