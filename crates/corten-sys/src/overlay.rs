//! Overlays of many layers on kernels before 6.7, which have no `lowerdir+`, and of layers that are attached nowhere before 6.15,
//! which takes none.
//!
//! There all layers are one string, and fsconfig(2) takes 255 bytes of it; mount(2) takes a page, but
//! attaches what it makes to a place that others see. So a thread with a mount namespace of its own does
//! that and hands back a detached copy. The layers are named by descriptors, to make the most of a page.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount as mount_by_name, mount_change};

use crate::mount::{self, Attributes, Change, clone_tree};
use crate::namespace::{Namespaces, unshare};
use crate::socket::path_of;

/// A folder that exists everywhere, and that is over-mounted for nobody but the thread.
const PLACE: &str = "/proc";
/// What mount(2) reads of its options: a page, with the zero at its end.
const PAGE: usize = 4096;

/// Makes a detached overlay of `layers`, the uppermost first; `trees`, none or one for each, are detached mounts that are to be
/// in their place. `words` are its other options, without commas. `E2BIG`: some 200 layers are the most.
pub fn of_layers(
    layers: &[String],
    trees: &[OwnedFd],
    words: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(Namespaces::MOUNT)?;
            let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", all)?;
            for (layer, tree) in layers.iter().zip(trees) {
                mount::attach(tree, CWD, layer.as_str())?;
            }
            attach(layers, words)?;
            let attributes = Attributes {
                set: attributes,
                clear: 0,
            };
            let change = Change {
                attributes,
                ..Change::default()
            };
            clone_tree(CWD, PLACE, false, &change)
        });
        made.join().unwrap_or(Err(Errno::IO))
    })
}

fn attach(layers: &[String], words: &[(String, Option<String>)]) -> Result<(), Errno> {
    // Opened in this namespace: an overlay takes layers of its maker's namespace only (Linux 5.14).
    let open = |path: &String| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty())
    };
    let mut held = layers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = held.iter().map(path_of).collect();
    let mut options = format!("lowerdir={}", names.join(":"));
    for (key, value) in words {
        options += ",";
        options += key;
        let Some(value) = value else { continue };
        let value = match key.as_str() {
            "upperdir" | "workdir" => {
                held.push(open(value)?);
                held.last().map(path_of).unwrap_or_default()
            }
            _ => value.clone(),
        };
        options += "=";
        options += &value;
    }
    if options.len() >= PAGE {
        return Err(Errno::TOOBIG);
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::empty();
    mount_by_name("overlay", PLACE, "overlay", flags, options.as_c_str())
}
