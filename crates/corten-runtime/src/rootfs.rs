//! Root file systems as detached mounts: what containerd's and our snapshotters describe, made without a
//! mount point.

mod mapped;
mod stack;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_sys::mount::{Refused, new_filesystem};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::Error;
use crate::error::{failed, invalid, unsupported};
use crate::parent::mounts;
use crate::plan::mounts::{Link, bind_changes};
use crate::plan::words::{Options, sort};

pub use stack::stack;

/// A mount as containerd and the snapshotters describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind`, `erofs`, `tmpfs`, …
    pub fstype: String,
    pub source: String,
    /// As in `mount -o`: `lowerdir=…`, `ro`, `rbind`, …
    pub options: Vec<String>,
}

/// The kernel takes strings of a file system's options up to this length (fsconfig(2)).
const STRING_MAX: usize = 255;
/// The option that adds one layer (Linux 6.7).
const APPEND: &str = "lowerdir+";

/// Makes one detached mount of `mounts`, the container's root. Nothing appears in the caller's
/// mount namespace. There must be one; [`stack`] takes more.
pub fn assemble(mounts: &[Mount]) -> Result<OwnedFd, Error> {
    let [mount] = mounts else {
        return Err(unsupported(format!("a root of {} mounts", mounts.len())));
    };
    let what = Path::new(&mount.source);
    refuse_for_containerd(mount)?;
    let mut options = sort(&mount.options, what)?;
    let ids = mapped::take(&mut options.rest)?;
    let ours = options.remount || options.idmap.is_some() || options.versions;
    if ours || options.copy_link || options.bind_link || options.cover_link {
        return Err(invalid("rootfs", "has options that a root cannot have"));
    }
    if options.bind || mount.fstype == "bind" {
        let tree = bind(mount, &options)?;
        if let Some(ids) = &ids {
            mapped::tree(&tree, ids, what)?;
        }
        return Ok(tree);
    }
    if options.copy_up || !options.propagation.is_empty() {
        return Err(invalid("rootfs", "has options that a root cannot have"));
    }
    let mut words = options.rest.clone();
    let flags = options.superblock.iter();
    words.extend(flags.map(|flag| (String::from(*flag), None)));
    let attributes = options.attributes.set | options.below.set;
    match &ids {
        None => file_system(mount, &words, attributes),
        Some(ids) if mount.fstype == "overlay" => mapped_overlay(mount, words, ids, attributes),
        Some(ids) => {
            let tree = file_system(mount, &words, attributes)?;
            mapped::tree(&tree, ids, what)?;
            Ok(tree)
        }
    }
}

/// The words `X-containerd.…` are for containerd's own mount manager, which takes them out as it does what they say: one
/// that comes this far was not done.
fn refuse_for_containerd(mount: &Mount) -> Result<(), Error> {
    let left = |word: &&String| word.starts_with("X-containerd.") || word.contains("{{");
    if let Some(word) = mount.options.iter().find(left) {
        return Err(unsupported(format!(
            "mount option {word:?} of the root, which only containerd itself can do,"
        )));
    }
    // Types like `format/overlay` and `mkfs/ext4` are such words as well.
    match mount.fstype.split_once('/') {
        Some(_) => Err(unsupported(format!(
            "a root of type {:?}, which only containerd itself can make,",
            mount.fstype
        ))),
        None => Ok(()),
    }
}

fn mapped_overlay(
    mount: &Mount,
    words: Vec<(String, Option<String>)>,
    ids: &crate::plan::idmap::Ids,
    attributes: u64,
) -> Result<OwnedFd, Error> {
    let mapped::Overlay {
        words,
        layers,
        trees,
    } = mapped::overlay(words, ids)?;
    let mut held = Vec::new();
    let given = overlay(&words, &mut held)?;
    let made = new_filesystem(
        mount.fstype.as_str(),
        Some("overlay"),
        &borrow(&given),
        attributes,
    );
    made.or_else(|refused| {
        // Layers that are attached nowhere: an overlay takes them since Linux 6.15.
        if refused.errno != Errno::INVAL {
            return Err(refuse(mount, refused));
        }
        let others: Vec<_> = words.into_iter().filter(|(key, _)| key != APPEND).collect();
        let made = corten_sys::overlay::of_layers(&layers, &trees, &others, attributes);
        // What the kernel has said in words is another reason, such as an option that it does not know.
        let said = String::from_utf8_lossy(refused.log.as_bytes());
        let is_other = !said.is_empty() && !said.contains(APPEND);
        made.map_err(|errno| match errno {
            Errno::INVAL if is_other => refuse(mount, refused),
            // Before Linux 5.19 it takes none at all.
            Errno::INVAL => unsupported(
                "an overlay of id-mapped layers, which this kernel refuses,".to_string(),
            ),
            errno => failed("mount", &mount.fstype)(errno),
        })
    })
}

fn borrow(words: &[(String, Option<String>)]) -> Vec<(&str, Option<&str>)> {
    words
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect()
}

/// A new file system; `mount` has its type and source, and is what messages name.
pub(crate) fn file_system(
    mount: &Mount,
    words: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd, Error> {
    // Long paths are named by a descriptor, which must live until the file system is made.
    let mut held = Vec::new();
    let words = match mount.fstype.as_str() {
        "overlay" => overlay(words, &mut held)?,
        _ => words.to_vec(),
    };
    let source = Some(mount.source.as_str()).filter(|s| !s.is_empty());
    let made = new_filesystem(mount.fstype.as_str(), source, &borrow(&words), attributes);
    made.or_else(|refused| older_overlay(mount, &words, attributes, refused))
}

/// Once more for a kernel that does not know `lowerdir+`, if that may have been the reason.
fn older_overlay(
    mount: &Mount,
    words: &[(String, Option<String>)],
    attributes: u64,
    refused: Refused,
) -> Result<OwnedFd, Error> {
    let (layers, others): (Vec<_>, Vec<_>) =
        words.iter().cloned().partition(|(key, _)| key == APPEND);
    if layers.is_empty() || refused.errno != Errno::INVAL {
        return Err(refuse(mount, refused));
    }
    let layers: Vec<String> = layers.into_iter().filter_map(|(_, path)| path).collect();
    corten_sys::overlay::of_layers(&layers, &[], &others, attributes)
        .map_err(failed("mount", &mount.fstype))
}

fn bind(mount: &Mount, options: &Options) -> Result<OwnedFd, Error> {
    let flag = options.superblock.first().copied();
    if let Some(word) = flag.or(options.rest.first().map(|(word, _)| word.as_str())) {
        let problem = format!("has the option {word:?}, which a bind mount cannot have");
        return Err(invalid("rootfs", problem));
    }
    let private = Some(corten_sys::mount::Propagation::Private);
    let changes = bind_changes(options, private);
    mounts::bind(
        Path::new(&mount.source),
        options.recursive,
        Link::Follow,
        &changes,
    )
    .map_err(failed("bind", &mount.source))
}

fn refuse(mount: &Mount, refused: Refused) -> Error {
    let log = String::from_utf8_lossy(refused.log.as_bytes());
    let path = match log.is_empty() {
        true => mount.fstype.clone(),
        false => format!("{} ({log})", mount.fstype),
    };
    failed("mount", PathBuf::from(path))(refused.errno)
}

/// Layers one by one (`lowerdir+`, Linux 6.7): as one string they would have to fit 255 bytes. A short list
/// stays one string, which older kernels take as well.
fn overlay(
    options: &[(String, Option<String>)],
    held: &mut Vec<OwnedFd>,
) -> Result<Vec<(String, Option<String>)>, Error> {
    let mut words = Vec::new();
    for (key, value) in options {
        match (key.as_str(), value) {
            ("lowerdir", Some(list)) if list.len() > STRING_MAX => {
                for layer in layers(list) {
                    words.push((APPEND.into(), Some(short(&layer, held)?)));
                }
            }
            ("upperdir" | "workdir", Some(path)) => {
                let path = match path.len() > STRING_MAX {
                    true => short(&unescape(path), held)?,
                    false => path.clone(),
                };
                words.push((key.clone(), Some(path)));
            }
            _ => words.push((key.clone(), value.clone())),
        }
    }
    Ok(words)
}

/// Splits at colons that no backslash escapes.
fn layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => layers.push(String::new()),
            letter => {
                let letter = match letter {
                    '\\' => letters.next().unwrap_or('\\'),
                    letter => letter,
                };
                if let Some(last) = layers.last_mut() {
                    last.push(letter);
                }
            }
        }
    }
    layers
}

fn unescape(path: &str) -> String {
    layers(path).join(":")
}

fn short(path: &str, held: &mut Vec<OwnedFd>) -> Result<String, Error> {
    if path.len() <= STRING_MAX {
        return Ok(path.into());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, OsStr::new(path), flags, Mode::empty())
        .map_err(failed("open the layer", path))?;
    let name = corten_sys::socket::path_of(&folder);
    held.push(folder);
    Ok(name)
}

/// For the fuzzer: lists of layers.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(list: &str) {
    let _ = (layers(list), unescape(list));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_split_at_bare_colons() {
        assert_eq!(layers("/a:/b\\:c:/d"), ["/a", "/b:c", "/d"]);
        assert_eq!(unescape("/a\\:b:c"), "/a:b:c");
    }

    #[test]
    fn one_mount_makes_a_root() {
        let error = assemble(&[]).unwrap_err();
        assert_eq!(error.to_string(), "a root of 0 mounts is not supported");
    }
}
