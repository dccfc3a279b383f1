//! One entry of a layer, in 48 bytes, and the tables that entries share.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use super::arena::{Numbered, Text, Texts};
use crate::layer::LayerError;
use crate::layer::attributes::Attributes;

/// What stands for no number.
pub(super) const NONE: u32 = u32::MAX;
pub(super) const ROOT: u32 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    /// Hides all that lies below it in other layers.
    OpaqueFolder,
    File,
    /// A file in the device of expanded sparse files.
    Sparse,
    Symlink,
    Char,
    Block,
    Fifo,
    /// A character device 0:0, as the overlay has it.
    Whiteout,
    /// Another name of the node in `place`.
    Link,
}

impl Kind {
    pub fn is_folder(self) -> bool {
        matches!(self, Self::Folder | Self::OpaqueFolder)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// `NONE`: it has lost its name to a later entry; links may still lead to it.
    pub parent: u32,
    name: Text,
    name_length: u8,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    owner: u32,
    xattrs: u32,
    pub nanos: u32,
    pub seconds: i64,
    /// Bytes of a file or of a symlink's target; how many entries a folder has, once that is counted.
    pub size: u64,
    /// A file's first byte in its device; a symlink's target; a device's number; the node of a link; a folder's
    /// first entry, once those are sorted.
    pub place: u64,
}

/// All nodes of a layer. Number 0 is the root.
pub(super) struct Nodes {
    nodes: Numbered<Node>,
    texts: Texts,
    owners: Table<(u32, u32)>,
    /// Encoded; the first one is empty.
    xattrs: Table<Box<[u8]>>,
    xattr_bytes: usize,
    children: HashTable<u32>,
    state: RandomState,
}

/// Values by number, each once.
struct Table<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + std::hash::Hash> Table<T> {
    fn new(first: T) -> Self {
        let numbers = HashMap::from([(first.clone(), 0)]);
        Self {
            values: vec![first],
            numbers,
        }
    }

    /// The value's number, and whether it is new.
    fn number(&mut self, value: T) -> (u32, bool) {
        if let Some(n) = self.numbers.get(&value) {
            return (*n, false);
        }
        let n = u32::try_from(self.values.len()).unwrap_or(NONE);
        self.values.push(value.clone());
        self.numbers.insert(value, n);
        (n, true)
    }
}

impl Nodes {
    pub fn new() -> Self {
        let mut nodes = Self {
            nodes: Numbered::new(),
            texts: Texts::new(),
            owners: Table::new((0, 0)),
            xattrs: Table::new(Box::default()),
            xattr_bytes: 0,
            children: HashTable::new(),
            state: RandomState::new(),
        };
        let name = nodes.texts.push(b"");
        nodes.nodes.push(Node {
            parent: ROOT,
            name,
            name_length: 0,
            kind: Kind::Folder,
            mode: 0o755,
            owner: 0,
            xattrs: 0,
            nanos: 0,
            seconds: 0,
            size: 0,
            place: 0,
        });
        nodes
    }

    pub fn get(&self, n: u32) -> &Node {
        self.nodes.get(n)
    }

    pub fn get_mut(&mut self, n: u32) -> &mut Node {
        self.nodes.get_mut(n)
    }

    pub fn numbers(&self) -> std::ops::Range<u32> {
        self.nodes.numbers()
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn name(&self, n: u32) -> &[u8] {
        let node = self.nodes.get(n);
        self.texts.get(node.name, node.name_length.into())
    }

    pub fn target(&self, node: &Node) -> &[u8] {
        let at = Text::from_place(node.place);
        self.texts
            .get(at, usize::try_from(node.size).unwrap_or_default())
    }

    pub fn owner(&self, node: &Node) -> (u32, u32) {
        self.owners.values[node.owner as usize]
    }

    pub fn xattrs(&self, node: &Node) -> &[u8] {
        &self.xattrs.values[node.xattrs as usize]
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        self.state.hash_one((parent, name))
    }

    pub fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let same = |n: &u32| self.nodes.get(*n).parent == parent && self.name(*n) == name;
        self.children.find(self.hash(parent, name), same).copied()
    }

    /// A new node under a name that is free.
    pub fn add(&mut self, parent: u32, name: &[u8], kind: Kind) -> u32 {
        let text = self.texts.push(name);
        let n = self.nodes.push(Node {
            parent,
            name: text,
            // NAME_MAX: checked when the entry's path was.
            name_length: u8::try_from(name.len()).unwrap_or(u8::MAX),
            kind,
            mode: 0,
            owner: 0,
            xattrs: 0,
            nanos: 0,
            seconds: 0,
            size: 0,
            place: 0,
        });
        let hash = self.hash(parent, name);
        let (nodes, texts, state) = (&self.nodes, &self.texts, &self.state);
        self.children.insert_unique(hash, n, |&n| {
            let node = nodes.get(n);
            let name = texts.get(node.name, node.name_length.into());
            state.hash_one((node.parent, name))
        });
        n
    }

    /// Takes a node's name away, and with it all that lies below.
    pub fn detach(&mut self, n: u32) {
        let node = self.nodes.get(n);
        let name = self.texts.get(node.name, node.name_length.into());
        let hash = self.hash(node.parent, name);
        if let Ok(entry) = self.children.find_entry(hash, |&other| other == n) {
            entry.remove();
        }
        self.nodes.get_mut(n).parent = NONE;
    }

    pub fn set_target(&mut self, n: u32, target: &[u8]) {
        let place = self.texts.push(target).to_place();
        let node = self.nodes.get_mut(n);
        node.place = place;
        node.size = target.len() as u64;
    }

    pub fn set_attributes(&mut self, n: u32, a: &Attributes) -> Result<(), LayerError> {
        let encoded = super::format::xattrs(&a.xattrs)?;
        let bytes = encoded.len();
        let (xattrs, is_new) = self.xattrs.number(encoded);
        if is_new {
            // Held twice, by number and by value.
            self.xattr_bytes += 2 * bytes + 64;
        }
        let (owner, _) = self.owners.number((a.uid, a.gid));
        let node = self.nodes.get_mut(n);
        // Twelve bits, by `tar`.
        node.mode = (a.mode & 0o7777) as u16;
        node.owner = owner;
        node.xattrs = xattrs;
        (node.seconds, node.nanos) = a.mtime;
        Ok(())
    }

    /// From the root, through no symlink.
    pub fn path(&self, mut n: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while n != ROOT && n != NONE {
            names.push(self.name(n));
            n = self.nodes.get(n).parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// An estimate of the memory held.
    pub fn bytes(&self) -> usize {
        let owners = self.owners.values.len() * 40;
        // A slot has a number and a control byte.
        let children = self.children.capacity() * 5 * 8 / 7;
        self.nodes.bytes() + self.texts.bytes() + self.xattr_bytes + owners + children
    }

    /// Done with looking names up: frees what that needs.
    pub fn freeze(&mut self) {
        self.children = HashTable::new();
    }
}
