//! From the tree in memory to the bytes of an image: first where everything lies, then the bytes in that order.
//!
//! ```text
//!  superblock, device table │ inodes, each with its xattrs and, where it fits, its entries or target │ long folders and targets
//! ```
//!
//! No file contents: those are in devices of their own, and an inode has the number of its first block there. (EROFS can also address devices
//! through one space of block numbers, which would save an entry a file; its own tools read that wrongly, though.)
//!
//! Nodes are taken folder by folder in the order of their names, and nothing depends on the time, the host or the way that the
//! bytes came: the same layer gives the same image.

use std::io::{self, Write};

use super::format::{self, CHUNK, Chunk, DIRENT, INODE, Inode, Layout, Super, UNIT};
use super::node::{Kind, NONE, Nodes, ROOT};
use crate::layer::LayerError;
use crate::layer::marks::OPAQUE;

/// `S_IF*` of inode(7).
const REGULAR: u16 = 0o100_000;

/// How file contents are addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Of a block, as a power of two: 9 to 12.
    pub block_bits: u8,
    /// Bytes of the data device.
    pub data: u64,
    /// Bytes of the device of expanded sparse files; none if it is 0.
    pub sparse: u64,
}

/// Everything that is decided before the first byte is written.
pub(super) struct Plan<'a> {
    nodes: &'a Nodes,
    geometry: Geometry,
    /// Nodes with a name, by folder and name.
    sorted: Vec<u32>,
    /// For each node: where its inode is, in units from the image's start; 0 if it has none.
    at: Vec<u32>,
    /// For each node: how many names it has.
    links: Vec<u32>,
    /// Nodes with an inode, in the order in which these lie.
    order: Vec<u32>,
    /// What does not fit behind its inode: node and first block, in order.
    apart: Vec<(u32, u32)>,
    blocks: u32,
}

impl<'a> Plan<'a> {
    pub fn new(nodes: &'a mut Nodes, geometry: Geometry) -> Result<Self, LayerError> {
        nodes.freeze();
        let sorted = sort(nodes);
        let nodes: &Nodes = nodes;
        let mut plan = Self {
            nodes,
            geometry,
            sorted,
            at: vec![0; nodes.len()],
            links: vec![0; nodes.len()],
            order: Vec::new(),
            apart: Vec::new(),
            blocks: 0,
        };
        plan.walk();
        plan.place()?;
        Ok(plan)
    }

    fn block(&self) -> u64 {
        1 << self.geometry.block_bits
    }

    /// The node that has the inode of this one.
    fn holder(&self, n: u32) -> u32 {
        let node = self.nodes.get(n);
        match node.kind {
            Kind::Link => u32::try_from(node.place).unwrap_or(NONE),
            _ => n,
        }
    }

    fn children(&self, folder: u32) -> &[u32] {
        let node = self.nodes.get(folder);
        let (start, count) = (node.place as usize, node.size as usize);
        &self.sorted[start..start + count]
    }

    /// Finds what can be reached from the root, in order, and counts names.
    fn walk(&mut self) {
        let mut todo = vec![ROOT];
        // A folder's own two names; its parent's is that of the root, which is its own parent.
        self.links[ROOT as usize] = 2;
        self.order.push(ROOT);
        while let Some(folder) = todo.pop() {
            let node = self.nodes.get(folder);
            let (start, count) = (node.place as usize, node.size as usize);
            let first = todo.len();
            for i in start..start + count {
                let n = self.sorted[i];
                let holder = self.holder(n);
                let is_folder = self.nodes.get(holder).kind.is_folder();
                if self.links[holder as usize] == 0 {
                    self.order.push(holder);
                }
                self.links[holder as usize] += if is_folder { 2 } else { 1 };
                if is_folder {
                    self.links[folder as usize] += 1;
                    todo.push(n);
                }
            }
            todo[first..].reverse();
        }
    }

    /// Gives every inode its place, then every block.
    fn place(&mut self) -> Result<(), LayerError> {
        let block = self.block();
        let mut at = format::head(self.geometry.block_bits);
        let mut apart = Vec::new();
        let longest = format::longest(self.geometry.block_bits);
        for i in 0..self.order.len() {
            let n = self.order[i];
            if self.chunk(n).is_some() && self.nodes.get(n).size > longest {
                return Err(TOO_LONG);
            }
            let fixed = (INODE + self.xattr_bytes(n) + self.chunk_bytes(n)) as u64;
            let tail = self.tail(n);
            // What lies behind an inode must not cross the end of a block.
            let fits = |at: u64| tail < block && (at + fixed) % block + tail <= block;
            let next = at.next_multiple_of(block);
            match (fits(at), fits(next)) {
                _ if tail == 0 => {}
                (true, _) => {}
                (false, true) => at = next,
                (false, false) => apart.push(n),
            }
            self.at[n as usize] = unit(at)?;
            let is_apart = apart.last() == Some(&n);
            at += fixed + if is_apart { 0 } else { tail };
            at = at.next_multiple_of(UNIT);
        }
        let mut next = at.div_ceil(block);
        for n in apart {
            self.apart.push((n, number(next)?));
            next += self.tail(n).div_ceil(block);
        }
        self.blocks = number(next)?;
        let Geometry { data, sparse, .. } = self.geometry;
        number(data.max(sparse).div_ceil(block))?;
        Ok(())
    }

    /// Bytes that an inode has besides itself and its xattrs: a folder's entries or a symlink's target.
    fn tail(&self, n: u32) -> u64 {
        let node = self.nodes.get(n);
        match node.kind {
            Kind::Symlink => node.size,
            kind if kind.is_folder() => {
                let names = self.entries(n).map(|(name, _)| name.len());
                Pages::new(self.block() as usize, names).size()
            }
            _ => 0,
        }
    }

    /// All entries of a folder by name, `.` and `..` among them, with their nodes.
    fn entries(&self, folder: u32) -> impl Iterator<Item = (&[u8], u32)> {
        let parent = self.nodes.get(folder).parent;
        let mut own = [(b".".as_slice(), folder), (b"..".as_slice(), parent)]
            .into_iter()
            .peekable();
        let mut children = self.children(folder).iter().peekable();
        std::iter::from_fn(move || {
            let Some(&&n) = children.peek() else {
                return own.next();
            };
            let name = self.nodes.name(n);
            if own.peek().is_some_and(|(o, _)| *o < name) {
                return own.next();
            }
            children.next();
            Some((name, self.holder(n)))
        })
    }

    fn xattr_bytes(&self, n: u32) -> usize {
        let bytes = self.nodes.xattrs(self.nodes.get(n)).len();
        match self.nodes.get(n).kind {
            Kind::OpaqueFolder if bytes == 0 => opaque_mark().len(),
            Kind::OpaqueFolder => bytes + opaque_mark().len() - HEADER,
            _ => bytes,
        }
    }

    /// What follows an inode and its xattrs for where the contents are.
    fn chunk_bytes(&self, n: u32) -> usize {
        match self.chunk(n) {
            // It is aligned as it is long.
            Some(_) => CHUNK + self.xattr_bytes(n).wrapping_neg() % CHUNK,
            None => 0,
        }
    }

    fn chunk(&self, n: u32) -> Option<Chunk> {
        let node = self.nodes.get(n);
        let device = match node.kind {
            Kind::File => 1,
            Kind::Sparse => 2,
            _ => return None,
        };
        // That it fits was checked with the size of the device.
        let block = (node.place / self.block()) as u32;
        (node.size > 0).then_some(Chunk { device, block })
    }

    /// Writes the image; returns its length.
    pub fn write(&self, uuid: [u8; 16], out: &mut impl Write) -> io::Result<u64> {
        let Geometry { data, sparse, .. } = self.geometry;
        let devices: Vec<u32> = [data, sparse]
            .into_iter()
            .take(if sparse == 0 { 1 } else { 2 })
            .map(|bytes| bytes.div_ceil(self.block()) as u32)
            .collect();
        let head = Super {
            block_bits: self.geometry.block_bits,
            // The first inode, and the head ends within the first 65536 units.
            root: self.at[ROOT as usize] as u16,
            inodes: self.order.len() as u64,
            blocks: self.blocks,
            uuid,
            devices: &devices,
        };
        let mut writer = Positioned { out, at: 0 };
        writer.put(&head.encode())?;
        let mut bytes = Vec::new();
        let mut apart = self.apart.iter().peekable();
        for (i, &n) in self.order.iter().enumerate() {
            bytes.clear();
            let start = apart.next_if(|(a, _)| *a == n).map(|(_, block)| *block);
            self.inode(n, i, start, &mut bytes);
            writer.fill_to(u64::from(self.at[n as usize]) * UNIT)?;
            writer.put(&bytes)?;
        }
        for (n, start) in &self.apart {
            writer.fill_to(u64::from(*start) * self.block())?;
            bytes.clear();
            self.contents(*n, &mut bytes);
            writer.put(&bytes)?;
        }
        let length = u64::from(self.blocks) * self.block();
        writer.fill_to(length)?;
        Ok(length)
    }

    fn inode(&self, n: u32, number: usize, apart: Option<u32>, out: &mut Vec<u8>) {
        let node = self.nodes.get(n);
        let tail = self.tail(n);
        let chunk = self.chunk(n);
        let (layout, place) = match (apart, chunk) {
            (Some(block), _) => (Layout::Plain, block),
            (None, Some(_)) => {
                let format = Chunk::format(node.size, self.geometry.block_bits);
                (Layout::Chunks, format)
            }
            (None, None) if tail > 0 => (Layout::Inline, 0),
            // A device's number is all that it has.
            (None, None) => (Layout::Plain, self.device(n)),
        };
        let inode = Inode {
            layout,
            mode: mode(node.kind, node.mode),
            size: match node.kind {
                Kind::File | Kind::Sparse => node.size,
                _ => tail,
            },
            place,
            // Only 32-bit callers see it.
            number: number as u32 + 1,
            owner: self.nodes.owner(node),
            mtime: (node.seconds, node.nanos),
            links: self.links[n as usize],
            xattr_bytes: self.xattr_bytes(n),
        };
        inode.encode(out);
        let xattrs = self.nodes.xattrs(node);
        match (node.kind, xattrs) {
            (Kind::OpaqueFolder, []) => out.extend(opaque_mark()),
            (Kind::OpaqueFolder, some) => {
                out.extend(some);
                out.extend(&opaque_mark()[HEADER..]);
            }
            _ => out.extend(xattrs),
        }
        if let Some(chunk) = chunk {
            out.resize(out.len().next_multiple_of(CHUNK), 0);
            chunk.encode(out);
        }
        if layout == Layout::Inline {
            self.contents(n, out);
        }
    }

    fn device(&self, n: u32) -> u32 {
        let node = self.nodes.get(n);
        match node.kind {
            Kind::Char | Kind::Block => node.place as u32,
            _ => 0,
        }
    }

    fn contents(&self, n: u32, out: &mut Vec<u8>) {
        let node = self.nodes.get(n);
        if node.kind == Kind::Symlink {
            out.extend_from_slice(self.nodes.target(node));
            return;
        }
        let names: Vec<usize> = self.entries(n).map(|(name, _)| name.len()).collect();
        let start = out.len();
        let mut entries = self.entries(n);
        let mut pages = Pages::new(self.block() as usize, names.into_iter());
        let mut page_start = start;
        while let Some(count) = pages.next_page() {
            out.resize(page_start, 0);
            self.page(&mut entries, count, out);
            page_start += self.block() as usize;
        }
    }

    /// One block of a folder: fixed parts first, then names.
    fn page<'e>(
        &self,
        entries: &mut impl Iterator<Item = (&'e [u8], u32)>,
        count: usize,
        out: &mut Vec<u8>,
    ) {
        let mut names = Vec::new();
        for (name, n) in entries.take(count) {
            out.extend(u64::from(self.at[n as usize]).to_le_bytes());
            // Less than a block, which is at most 4096.
            out.extend(((count * DIRENT + names.len()) as u16).to_le_bytes());
            out.extend([entry_type(self.nodes.get(n).kind), 0]);
            names.extend_from_slice(name);
        }
        out.extend(names);
    }
}

/// How a folder's entries are spread over blocks: an entry and its name are in one.
struct Pages<I: Iterator<Item = usize>> {
    block: usize,
    names: std::iter::Peekable<I>,
    last: usize,
}

impl<I: Iterator<Item = usize>> Pages<I> {
    fn new(block: usize, names: I) -> Self {
        Self {
            block,
            names: names.peekable(),
            last: 0,
        }
    }

    /// How many entries the next block has.
    fn next_page(&mut self) -> Option<usize> {
        let (mut used, mut count) = (0, 0);
        while let Some(length) = self.names.peek() {
            if used + DIRENT + length > self.block {
                break;
            }
            used += DIRENT + length;
            count += 1;
            self.names.next();
        }
        if count > 0 {
            self.last = used;
        }
        (count > 0).then_some(count)
    }

    /// Whole blocks, and of the last one what is used.
    fn size(mut self) -> u64 {
        let mut pages = 0u64;
        while self.next_page().is_some() {
            pages += 1;
        }
        pages.saturating_sub(1) * self.block as u64 + self.last as u64
    }
}

struct Positioned<'a, W> {
    out: &'a mut W,
    at: u64,
}

impl<W: Write> Positioned<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn fill_to(&mut self, to: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < to {
            let n = (to - self.at).min(ZEROS.len() as u64) as usize;
            self.put(&ZEROS[..n])?;
        }
        Ok(())
    }
}

/// Sorts what has a name, and tells each folder where its entries are.
fn sort(nodes: &mut Nodes) -> Vec<u32> {
    let mut sorted: Vec<u32> = nodes
        .numbers()
        .filter(|&n| n != ROOT && nodes.get(n).parent != NONE)
        .collect();
    sorted.sort_unstable_by(|&a, &b| {
        let key = |n: u32| (nodes.get(n).parent, nodes.name(n));
        key(a).cmp(&key(b))
    });
    let mut start = 0;
    while start < sorted.len() {
        let parent = nodes.get(sorted[start]).parent;
        let same = |n: &&u32| nodes.get(**n).parent == parent;
        let count = sorted[start..].iter().take_while(same).count();
        let folder = nodes.get_mut(parent);
        (folder.place, folder.size) = (start as u64, count as u64);
        start += count;
    }
    sorted
}

const TOO_LARGE: LayerError = LayerError::Form {
    why: "it needs more than 2^32 blocks",
};

const TOO_LONG: LayerError = LayerError::Form {
    why: "a file of it needs more than 2^31 blocks",
};

fn number(blocks: u64) -> Result<u32, LayerError> {
    u32::try_from(blocks).map_err(|_| TOO_LARGE)
}

fn unit(at: u64) -> Result<u32, LayerError> {
    number(at / UNIT)
}

fn mode(kind: Kind, permissions: u16) -> u16 {
    match kind {
        Kind::Folder | Kind::OpaqueFolder => 0o040_000 | permissions,
        // Links have none of their own.
        Kind::Symlink => 0o120_777,
        Kind::Char => 0o020_000 | permissions,
        Kind::Whiteout => 0o020_000,
        Kind::Block => 0o060_000 | permissions,
        Kind::Fifo => 0o010_000 | permissions,
        Kind::File | Kind::Sparse | Kind::Link => REGULAR | permissions,
    }
}

/// `EROFS_FT_*`, which are those of ext2.
fn entry_type(kind: Kind) -> u8 {
    match kind {
        Kind::File | Kind::Sparse | Kind::Link => 1,
        Kind::Folder | Kind::OpaqueFolder => 2,
        Kind::Char | Kind::Whiteout => 3,
        Kind::Block => 4,
        Kind::Fifo => 5,
        Kind::Symlink => 7,
    }
}

/// Of an xattr body.
const HEADER: usize = 12;

/// An xattr body with the overlay's mark alone. It sorts after every xattr of the layer's but for `trusted.`, `user.` and
/// what follows them; EROFS does not care for the order.
fn opaque_mark() -> &'static [u8] {
    use std::sync::OnceLock;
    static MARK: OnceLock<Box<[u8]>> = OnceLock::new();
    MARK.get_or_init(|| {
        // A known prefix and a short value: nothing to refuse.
        format::xattrs(&[(OPAQUE.into(), b"y".to_vec())]).unwrap_or_default()
    })
}
