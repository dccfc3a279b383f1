//! The kernel's view of an image: mounting one, and finding out whether that can be done here.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use corten_spec::Digest;
use corten_sys::mount::{Attributes, Refused, new_filesystem};
use rustix::fs::{Mode, OFlags};

use super::image::{Geometry, Plan};
use super::index::{Index, Place};
use super::{Budget, DATA, META, Packing, SPARSE, uuid};
use crate::layer::entry::Action;
use crate::layer::tar::{Entry, Type};
use crate::layer::{LayerError, Limits, marks};

/// Layers bring set-id programs and devices, for containers only; the overlay above asks its own mount.
const ATTRIBUTES: u64 = Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV;

/// What statfs(2) says of an overlay. What stands on one cannot be stacked again (FILESYSTEM_MAX_STACK_DEPTH).
const OVERLAY: u64 = 0x794c_7630;

/// Mounts the image in `folder` without attaching it anywhere.
pub(crate) fn mount(folder: &Path) -> io::Result<OwnedFd> {
    let sparse = folder.join(SPARSE);
    let mut devices = vec![folder.join(DATA)];
    if sparse.exists() {
        devices.push(sparse);
    }
    detached(&folder.join(META), &devices)
}

fn detached(meta: &Path, devices: &[PathBuf]) -> io::Result<OwnedFd> {
    let options: Vec<(&Path, Option<&Path>)> = devices
        .iter()
        .map(|d| (Path::new("device"), Some(d.as_path())))
        .collect();
    new_filesystem("erofs", Some(meta), &options, ATTRIBUTES).map_err(told)
}

/// The kernel's own words, where it has any.
fn told(refused: Refused) -> io::Error {
    let errno = io::Error::from(refused.errno);
    match refused.log.as_bytes() {
        b"" => errno,
        log => io::Error::new(
            errno.kind(),
            format!("{errno}: {}", String::from_utf8_lossy(log)),
        ),
    }
}

/// Why images cannot be mounted here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cannot {
    #[error("the store lies on an overlay, on which nothing can be stacked")]
    Overlay,
    #[error("this kernel or file system cannot mount EROFS from plain files ({0})")]
    Mount(io::Error),
    #[error("EROFS shows {0} wrongly on this kernel")]
    Shows(&'static str),
    #[error("cannot try EROFS in {}: {source}", path.display())]
    Try { path: PathBuf, source: io::Error },
}

/// Mounts a small image that has everything that matters, and looks at it. Files without a name: nothing is left behind.
pub(crate) fn probe(folder: &Path, packing: Packing) -> Result<(), Cannot> {
    let failed = |source| Cannot::Try {
        path: folder.into(),
        source,
    };
    let fs = rustix::fs::statfs(folder).map_err(|e| failed(e.into()))?;
    if fs.f_type.cast_unsigned() == OVERLAY {
        return Err(Cannot::Overlay);
    }
    let (meta, data) = sample(folder, packing).map_err(failed)?;
    let root = detached(&by_fd(&meta), &[by_fd(&data)]).map_err(Cannot::Mount)?;
    shows(root.as_fd())
}

const CONTENTS: &[u8] = b"these bytes are in the device";

fn sample(folder: &Path, packing: Packing) -> io::Result<(File, File)> {
    let block = 1u64 << packing.block_bits();
    let mut index = Index::new(&Limits::default(), &Budget::default());
    let bad = |e: LayerError| io::Error::other(e);
    let actions = [
        Action::Make(entry("file")),
        Action::Hide(b"whiteout".into()),
        Action::HideContents(b"opaque".into()),
    ];
    for action in actions {
        index
            .apply(action, |e| Ok((Place::Data(block), e.size)))
            .map_err(bad)?;
    }
    let geometry = Geometry {
        block_bits: packing.block_bits(),
        data: 2 * block,
        sparse: 0,
    };
    let (mut nodes, ..) = index.finish();
    let plan = Plan::new(&mut nodes, geometry).map_err(bad)?;
    let mut bytes = Vec::new();
    plan.write(uuid(&Digest::of(b"probe")), &mut bytes)?;
    let (mut meta, data) = (unnamed(folder)?, unnamed(folder)?);
    meta.write_all(&bytes)?;
    data.set_len(2 * block)?;
    data.write_all_at(CONTENTS, block)?;
    Ok((meta, data))
}

fn entry(path: &str) -> Entry {
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind: Type::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        device: (0, 0),
        size: CONTENTS.len() as u64,
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::from_raw_mode(0o600))?.into())
}

fn by_fd(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn shows(root: BorrowedFd<'_>) -> Result<(), Cannot> {
    let open = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(root, name, flags, Mode::empty())
    };
    let contents = open("file").map_err(io::Error::from).and_then(|fd| {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut File::from(fd), &mut bytes)?;
        Ok(bytes)
    });
    if contents.ok().as_deref() != Some(CONTENTS) {
        return Err(Cannot::Shows("the contents of files"));
    }
    if !open("opaque").is_ok_and(|fd| marks::is_opaque(&fd) == Ok(true)) {
        return Err(Cannot::Shows("extended attributes"));
    }
    match marks::stat(root, b"whiteout") {
        Ok(Some(s)) if marks::is_whiteout(&s) => Ok(()),
        _ => Err(Cannot::Shows("devices")),
    }
}
