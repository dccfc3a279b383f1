//! EROFS on disk: the few structures that an uncompressed image needs, as bytes.
//!
//! Source: Linux, `fs/erofs/erofs_fs.h` and Documentation/filesystems/erofs.rst. All numbers are little endian.

use crate::layer::LayerError;

/// Where the superblock starts, whatever the block size.
pub(super) const SUPER: usize = 1024;
const SUPER_LENGTH: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Slots of the device table are as long as the superblock, and follow it.
const SLOT: usize = 128;
/// The unit of inode numbers.
pub(super) const UNIT: u64 = 32;
/// All inodes are of the long form, which alone has a time of its own.
pub(super) const INODE: usize = 64;
pub(super) const DIRENT: usize = 12;

const COMPAT_CHECKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
const INCOMPAT_DEVICE_TABLE: u32 = 0x8;

/// How an inode's data lies: in blocks of the image, behind the inode, or in chunks of any device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Plain = 0,
    Inline = 2,
    Chunks = 4,
}

/// A file's contents, which are all in one chunk: they lie in one piece wherever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// From 1 on; 0 would be the image.
    pub device: u16,
    /// Its first block there.
    pub block: u32,
}

/// Bytes of a chunk's entry, which is also what it is aligned to.
pub(super) const CHUNK: usize = 8;
/// Chunks have entries of the long form, with a device.
const CHUNK_INDEXES: u32 = 0x20;

/// A block can be doubled so many times (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
const DOUBLED: u32 = 31;

/// The most bytes of a file that is one chunk. A device may be twice as long.
pub(super) fn longest(block_bits: u8) -> u64 {
    1 << (DOUBLED + u32::from(block_bits))
}

impl Chunk {
    /// What an inode of this many bytes, which are no more than [`longest`], says of its chunks: how many times a block is doubled
    /// for one to hold it all.
    pub fn format(size: u64, block_bits: u8) -> u32 {
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        bits.saturating_sub(block_bits.into()).min(DOUBLED) | CHUNK_INDEXES
    }

    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend([0; 2]);
        out.extend(self.device.to_le_bytes());
        out.extend(self.block.to_le_bytes());
    }
}

pub(super) struct Super<'a> {
    pub block_bits: u8,
    pub root: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub uuid: [u8; 16],
    /// The blocks of each device that holds contents.
    pub devices: &'a [u32],
}

/// Bytes before the first inode: a whole number of blocks.
pub(super) fn head(block_bits: u8) -> u64 {
    let block = 1 << block_bits;
    // Room for two devices, whether there is one or both: what lies where does not depend on it.
    ((SUPER + SUPER_LENGTH + 2 * SLOT) as u64).next_multiple_of(block)
}

impl Super<'_> {
    /// The image up to its first inode.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; SUPER];
        out.extend(MAGIC.to_le_bytes());
        // The checksum, filled in below.
        out.extend([0; 4]);
        out.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        out.push(self.block_bits);
        // No extensions.
        out.push(0);
        out.extend(self.root.to_le_bytes());
        out.extend(self.inodes.to_le_bytes());
        // The time that short inodes would have.
        out.extend([0; 12]);
        out.extend(self.blocks.to_le_bytes());
        // Inode numbers count from the image's start, and no xattrs are shared.
        out.extend([0; 8]);
        out.extend(self.uuid);
        // No name.
        out.extend([0; 16]);
        out.extend((INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE).to_le_bytes());
        out.extend([0; 2]);
        out.extend((self.devices.len() as u16).to_le_bytes());
        out.extend((((SUPER + SUPER_LENGTH) / SLOT) as u16).to_le_bytes());
        out.resize(SUPER + SUPER_LENGTH, 0);
        for device in self.devices {
            let end = out.len() + SLOT;
            // A tag, which we do not use.
            out.resize(end - SLOT + 64, 0);
            out.extend(device.to_le_bytes());
            out.resize(end, 0);
        }
        out.resize(head(self.block_bits) as usize, 0);
        let checksum = checksum(&out, self.block_bits);
        out[SUPER + 4..SUPER + 8].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}

/// CRC-32C of the superblock's block, from the superblock on, with a checksum of zero and no final inversion.
fn checksum(image: &[u8], block_bits: u8) -> u32 {
    let block = 1usize << block_bits;
    let end = match block > SUPER {
        true => block,
        false => SUPER + block,
    };
    image[SUPER..end].iter().fold(!0, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| {
            c >> 1 ^ (0x82f6_3b78 & (c & 1).wrapping_neg())
        })
    })
}

pub(super) struct Inode {
    pub layout: Layout,
    /// Type and permissions, as in `st_mode`.
    pub mode: u16,
    pub size: u64,
    /// First block, format of the chunks, or device number.
    pub place: u32,
    pub number: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    /// Of the xattr body behind the inode, in bytes.
    pub xattr_bytes: usize,
}

impl Inode {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let format = 1 | (self.layout as u16) << 1;
        out.extend(format.to_le_bytes());
        out.extend(xattr_count(self.xattr_bytes).to_le_bytes());
        out.extend(self.mode.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.size.to_le_bytes());
        out.extend(self.place.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.owner.0.to_le_bytes());
        out.extend(self.owner.1.to_le_bytes());
        out.extend(self.mtime.0.to_le_bytes());
        out.extend(self.mtime.1.to_le_bytes());
        out.extend(self.links.to_le_bytes());
        out.extend([0; 16]);
    }
}

/// The header counts as one unit, for historical reasons; each further unit is four bytes.
fn xattr_count(bytes: usize) -> u16 {
    match bytes.checked_sub(XATTR_HEADER) {
        Some(rest) => u16::try_from(1 + rest / 4).unwrap_or(u16::MAX),
        None => 0,
    }
}

const XATTR_HEADER: usize = 12;
/// `i_xattr_icount` could say a little more, and the overlay's mark may be added.
const XATTR_MOST: usize = 255 << 10;

/// The body of an inode's xattrs; empty if there are none.
///
/// # Errors
/// [`LayerError::Form`] for what EROFS has no way to write.
pub(super) fn xattrs(list: &[(Vec<u8>, Vec<u8>)]) -> Result<Box<[u8]>, LayerError> {
    if list.is_empty() {
        return Ok(Box::default());
    }
    let mut sorted: Vec<_> = list.iter().collect();
    sorted.sort();
    let mut out = vec![0; XATTR_HEADER];
    for (name, value) in sorted {
        // The kernel takes no such names (XATTR_NAME_MAX), and lists them as two, or so that nobody can ask for them.
        if name.len() > 255 || name.contains(&0) {
            return Err(unfit("the name of an xattr is none"));
        }
        let (index, rest) = prefix(name).ok_or(unfit("an xattr is of no kind that it knows"))?;
        let length = u8::try_from(rest.len()).map_err(|_| unfit("the name of an xattr is long"))?;
        let size =
            u16::try_from(value.len()).map_err(|_| unfit("an xattr has more than 65535 bytes"))?;
        out.extend([length, index]);
        out.extend(size.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    match out.len() <= XATTR_MOST {
        true => Ok(out.into()),
        false => Err(unfit("a file has more than 255 KiB of xattrs")),
    }
}

fn unfit(why: &'static str) -> LayerError {
    LayerError::Form { why }
}

/// Prefixes are numbers, and ACLs have no rest.
fn prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => Some((2, b"")),
        b"system.posix_acl_default" => Some((3, b"")),
        _ => {
            let rest = |p: &str| name.strip_prefix(p.as_bytes()).filter(|r| !r.is_empty());
            [(1, "user."), (4, "trusted."), (6, "security.")]
                .into_iter()
                .find_map(|(n, p)| Some((n, rest(p)?)))
        }
    }
}

/// The kernel's `new_encode_dev`.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_has_its_fields_where_the_kernel_looks() {
        for (bits, head) in [(9, 1536), (12, 4096)] {
            let bytes = Super {
                block_bits: bits,
                root: 48,
                inodes: 3,
                blocks: 5,
                uuid: [0xaa; 16],
                devices: &[7],
            }
            .encode();
            assert_eq!(bytes.len(), head);
            let at = |offset: usize, n: usize| &bytes[SUPER + offset..SUPER + offset + n];
            assert_eq!(at(12, 4), [bits, 0, 48, 0]);
            assert_eq!(at(36, 4), [5, 0, 0, 0]);
            assert_eq!(at(48, 16), [0xaa; 16]);
            assert_eq!(at(80, 4), [12, 0, 0, 0]);
            assert_eq!(at(86, 4), [1, 0, 9, 0]);
            assert_eq!(at(128 + 64, 8), [7, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn one_chunk_holds_a_file() {
        for (size, block_bits, doubled) in [
            (1, 9, 0),
            (512, 9, 0),
            (513, 9, 1),
            (1 << 30, 9, 21),
            ((1 << 30) + 1, 9, 22),
            (5000, 12, 1),
            (1 << 40, 9, 31),
        ] {
            assert_eq!(Chunk::format(size, block_bits), doubled | 0x20, "{size}");
        }
    }

    #[test]
    fn xattrs_that_cannot_be_written_are_told() {
        let one = |name: &str, length: usize| xattrs(&[(name.into(), vec![1; length])]);
        assert_eq!(one("user.a", 3).unwrap().len(), 12 + 8);
        assert_eq!(
            &*one("system.posix_acl_access", 4).unwrap(),
            [[0; 12].as_slice(), &[0, 2, 4, 0, 1, 1, 1, 1]].concat()
        );
        let long = format!("user.{}", "n".repeat(251));
        for (name, length) in [
            ("system.other", 1),
            ("user.", 1),
            ("user.a", 65_536),
            ("user.a\0b", 1),
            (long.as_str(), 1),
        ] {
            assert!(matches!(one(name, length), Err(LayerError::Form { .. })));
        }
        assert_eq!(xattr_count(0), 0);
        assert_eq!(xattr_count(20), 3);
    }

    #[test]
    fn device_numbers_are_split_as_the_kernel_does() {
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(259, 0x12345), 0x1231_0345);
    }
}
