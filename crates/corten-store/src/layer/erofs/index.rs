//! A layer's entries, applied one by one to a tree in memory: the same rules as for folders on disk (`layer/folder`),
//! and the same open ends ([`Pending`](crate::layer::Pending)).
//!
//! Nodes are never freed: what a later entry replaces loses its name, and is left out of the image. Memory is bounded by
//! [`Limits::index`] for all layers in hand; a layer that needs more is [`LayerError::Form`], and its maker takes folders instead.

use super::budget::{Budget, Claim};
use super::node::{Kind, NONE, Nodes, ROOT};
use crate::layer::attributes::Attributes;
use crate::layer::entry::{Action, components, escape, join, split};
use crate::layer::folder::{Done, attributes_of};
use crate::layer::tar::{Entry, Type};
use crate::layer::{LayerError, Limits};

/// MAXSYMLINKS of the kernel.
const SYMLINKS: usize = 40;
const LONGEST_PATH: usize = 4095;

/// Where the contents of a file went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this byte of the data file.
    Data(u64),
    /// At this byte of the file of expanded sparse files.
    Sparse(u64),
}

pub(crate) struct Index {
    pub(super) nodes: Nodes,
    /// The folder of the last entry: the next one mostly lies in it as well.
    last: Option<(Vec<u8>, u32)>,
    limits: Limits,
    claim: Claim,
    done: Done,
}

impl Index {
    pub fn new(limits: &Limits, budget: &Budget) -> Self {
        let mut nodes = Nodes::new();
        // Nothing in it that could be refused.
        let _ = nodes.set_attributes(ROOT, &Attributes::IMPLIED);
        Self {
            nodes,
            last: None,
            limits: limits.clone(),
            claim: budget.claim(),
            done: Done::default(),
        }
    }

    /// Does what one entry says. `place` stores a file's contents and says where, and how many bytes they were.
    pub fn apply(
        &mut self,
        action: Action,
        place: impl FnOnce(&Entry) -> Result<(Place, u64), LayerError>,
    ) -> Result<(), LayerError> {
        match action {
            Action::Nothing => Ok(()),
            Action::Hide(path) => self.hide(&path),
            Action::HideContents(path) => self.hide_contents(&path),
            Action::Make(e) if e.path.is_empty() => self.root(&e),
            Action::Make(e) => self.make(&e, place),
        }?;
        self.done.entries += 1;
        self.check_limits()
    }

    pub(super) fn finish(self) -> (Nodes, Done, Claim) {
        (self.nodes, self.done, self.claim)
    }

    fn check_limits(&mut self) -> Result<(), LayerError> {
        self.done.check(&self.limits)?;
        match self.claim.set(self.nodes.bytes()) > self.limits.index {
            true => Err(LayerError::Form {
                why: "its index needs more memory than it may have",
            }),
            false => Ok(()),
        }
    }

    fn hide(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let folder = self.enter(parent, path)?;
        match self.nodes.child(folder, name) {
            None => {
                let n = self.nodes.add(folder, name, Kind::Whiteout);
                self.nodes.set_attributes(n, &BARE)?;
            }
            Some(n) if self.nodes.get(n).kind.is_folder() => {
                self.nodes.get_mut(n).kind = Kind::OpaqueFolder;
                // Nothing of the hidden folder is inherited, were this one only implied.
                self.done.pending.name_folder(&self.nodes.path(n));
            }
            // Whatever else this layer has there hides what is below by being there.
            Some(_) => {}
        }
        Ok(())
    }

    fn hide_contents(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let folder = self.enter(path, path)?;
        match path {
            b"" => self.done.opaque_root = true,
            _ => self.nodes.get_mut(folder).kind = Kind::OpaqueFolder,
        }
        Ok(())
    }

    fn root(&mut self, e: &Entry) -> Result<(), LayerError> {
        self.done.names_root = true;
        self.nodes.set_attributes(ROOT, &attributes_of(e))
    }

    fn make(
        &mut self,
        e: &Entry,
        place: impl FnOnce(&Entry) -> Result<(Place, u64), LayerError>,
    ) -> Result<(), LayerError> {
        if e.kind == Type::Hardlink {
            return self.link(e);
        }
        let (parent, name) = split(&e.path);
        let folder = self.enter(parent, &e.path)?;
        let n = match e.kind {
            Type::Folder => self.folder(folder, name),
            _ => self.replace(folder, name, kind(e)),
        };
        self.nodes.set_attributes(n, &attributes_of(e))?;
        match e.kind {
            Type::File => {
                let (place, stored) = place(e)?;
                self.done.size += stored;
                let node = self.nodes.get_mut(n);
                node.size = e.size;
                (node.kind, node.place) = match place {
                    Place::Data(at) => (Kind::File, at),
                    Place::Sparse(at) => (Kind::Sparse, at),
                };
            }
            Type::Symlink => self.nodes.set_target(n, &e.link),
            Type::Char | Type::Block => {
                let (major, minor) = e.device;
                self.nodes.get_mut(n).place = super::format::device(major, minor).into();
            }
            _ => {}
        }
        Ok(())
    }

    fn folder(&mut self, parent: u32, name: &[u8]) -> u32 {
        let there = self.nodes.child(parent, name);
        let n = match there.map(|n| (n, self.nodes.get(n).kind)) {
            Some((n, kind)) if kind.is_folder() => n,
            Some((_, Kind::Whiteout)) => self.replace(parent, name, Kind::OpaqueFolder),
            _ => self.replace(parent, name, Kind::Folder),
        };
        self.done.pending.name_folder(&self.nodes.path(n));
        n
    }

    /// A new node; the last entry of a name wins, so an earlier one loses it.
    fn replace(&mut self, parent: u32, name: &[u8], kind: Kind) -> u32 {
        if let Some(earlier) = self.nodes.child(parent, name) {
            // It may be a folder of that path, or a symlink on it.
            self.last = None;
            self.nodes.detach(earlier);
        }
        self.nodes.add(parent, name, kind)
    }

    /// A hard link has no attributes of its own; its target may be in a lower layer.
    fn link(&mut self, e: &Entry) -> Result<(), LayerError> {
        let target = self.target(e)?;
        let (parent, name) = split(&e.path);
        let folder = self.enter(parent, &e.path)?;
        let there = self.nodes.child(folder, name);
        if let (Some(target), Some(n)) = (target, there)
            && self.holder(n) == target
        {
            return Ok(());
        }
        match target {
            Some(target) => {
                let n = self.replace(folder, name, Kind::Link);
                self.nodes.get_mut(n).place = target.into();
            }
            None => {
                if let Some(n) = there {
                    self.last = None;
                    self.nodes.detach(n);
                }
                let path = join(&self.nodes.path(folder), name);
                self.done.pending.add_link(&path, &e.link);
            }
        }
        Ok(())
    }

    /// The node that a hard link means, if this layer has it, and has it here already.
    fn target(&mut self, e: &Entry) -> Result<Option<u32>, LayerError> {
        let (parent, name) = split(&e.link);
        let Some(folder) = self.descend(parent, &e.path, false)? else {
            return Ok(None);
        };
        let Some(n) = self.nodes.child(folder, name) else {
            return Ok(None);
        };
        match self.nodes.get(n).kind {
            Kind::Whiteout => Ok(None),
            kind if kind.is_folder() => Err(LayerError::refused(
                &e.path,
                "it is a hard link to a folder",
            )),
            _ => Ok(Some(self.holder(n))),
        }
    }

    /// The node that has what this name stands for.
    fn holder(&self, n: u32) -> u32 {
        let node = self.nodes.get(n);
        match node.kind {
            // What `link` put there.
            Kind::Link => u32::try_from(node.place).unwrap_or(NONE),
            _ => n,
        }
    }

    /// The folder `path`, made if need be. `entry` is for messages.
    fn enter(&mut self, path: &[u8], entry: &[u8]) -> Result<u32, LayerError> {
        if let Some((last, n)) = &self.last
            && last == path
        {
            return Ok(*n);
        }
        let n = self
            .descend(path, entry, true)?
            // Only a walk that makes nothing ends nowhere.
            .ok_or_else(|| LayerError::refused(entry, "its folder is gone"))?;
        self.last = Some((path.to_vec(), n));
        Ok(n)
    }

    /// Goes down name by name, through symlinks of this layer as long as they are relative and stay inside. With `make`, folders that
    /// are not there are implied.
    fn descend(
        &mut self,
        path: &[u8],
        entry: &[u8],
        make: bool,
    ) -> Result<Option<u32>, LayerError> {
        let mut at = ROOT;
        // Of the path to there, with a slash before each name.
        let mut length = 0;
        let mut todo: Vec<Vec<u8>> = components(path);
        let mut symlinks = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                if at == ROOT {
                    return Err(escape(entry));
                }
                length -= self.nodes.name(at).len() + 1;
                at = self.nodes.get(at).parent;
                continue;
            }
            let longer = longer(length, &name, entry)?;
            let next = self.nodes.child(at, &name);
            match next.map(|n| (n, self.nodes.get(self.holder(n)).kind)) {
                Some((n, kind)) if kind.is_folder() => (at, length) = (n, longer),
                Some((n, Kind::Symlink)) => {
                    symlinks += 1;
                    let target = self.nodes.get(self.holder(n));
                    todo.extend(detour(self.nodes.target(target), symlinks, entry)?);
                }
                None | Some((_, Kind::Whiteout)) => {
                    if !make {
                        return Ok(None);
                    }
                    (at, length) = (self.imply(at, &name, next)?, longer);
                }
                Some(_) => {
                    return Err(LayerError::refused(entry, "what it lies in is no folder"));
                }
            }
        }
        Ok(Some(at))
    }

    /// Makes a folder that is only implied.
    fn imply(
        &mut self,
        parent: u32,
        name: &[u8],
        whiteout: Option<u32>,
    ) -> Result<u32, LayerError> {
        if let Some(n) = whiteout {
            self.nodes.detach(n);
        }
        let kind = match whiteout {
            Some(_) => Kind::OpaqueFolder,
            None => Kind::Folder,
        };
        let n = self.nodes.add(parent, name, kind);
        self.nodes.set_attributes(n, &Attributes::IMPLIED)?;
        // Where a whiteout stood, nothing from below shines through, so nothing is inherited.
        if whiteout.is_none() {
            self.done.entries += 1;
            self.done.pending.add_folder(&self.nodes.path(n));
        }
        Ok(n)
    }
}

/// Of a whiteout.
const BARE: Attributes = Attributes {
    mode: 0,
    uid: 0,
    gid: 0,
    mtime: (0, 0),
    xattrs: Vec::new(),
};

fn kind(e: &Entry) -> Kind {
    match e.kind {
        Type::Symlink => Kind::Symlink,
        Type::Char => Kind::Char,
        Type::Block => Kind::Block,
        Type::Fifo => Kind::Fifo,
        _ => Kind::File,
    }
}

fn detour(target: &[u8], symlinks: usize, entry: &[u8]) -> Result<Vec<Vec<u8>>, LayerError> {
    if symlinks > SYMLINKS {
        return Err(LayerError::refused(
            entry,
            "its path has more than 40 symlinks",
        ));
    }
    match target.first() {
        Some(b'/') | None => Err(escape(entry)),
        Some(_) => Ok(components(target)),
    }
}

/// The length of a path with one more name, and a slash before each.
fn longer(length: usize, name: &[u8], entry: &[u8]) -> Result<usize, LayerError> {
    match length + name.len() > LONGEST_PATH {
        true => Err(LayerError::refused(
            entry,
            "its path through symlinks is longer than 4095 bytes",
        )),
        false => Ok(length + name.len() + 1),
    }
}
