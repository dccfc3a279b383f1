//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test.
//!
//! None may panic, whatever it is given, and the kernel must read every image that is written. Not part of the
//! library: compiled with `--cfg fuzzing` and for the tests only. The check sums of tar headers are not looked at while fuzzing: they would
//! keep the fuzzer from all that lies behind them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use corten_spec::{Digest, Reference};

use crate::content::direct::Direct;
use crate::layer::erofs::{Budget, Image, Packing, mount};
use crate::layer::{LayerError, Limits, entry, tar};
use crate::snapshot::conformance::view;

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 3] = [("layer", layer), ("gzip", gzip), ("reference", reference)];

/// A tar, from its bytes to what the kernel shows of the image made of it; and the same from its contents in pages. Both must show the same.
/// Needs root, and EROFS from files; without, the image is only written.
pub fn layer(bytes: &[u8]) {
    let place = std::env::temp_dir().join(format!("corten-fuzz-{}", std::process::id()));
    let shown = [Packing::Tar, Packing::Pages].map(|packing| {
        let folder = place.join(format!("{packing:?}"));
        fs::create_dir_all(&folder).expect("a folder");
        match write(bytes, packing, &folder) {
            Ok(()) => Some(show(&folder)),
            Err(LayerError::Store { source, .. }) => panic!("{source}"),
            Err(_) => None,
        }
    });
    fs::remove_dir_all(&place).expect("the folder goes");
    let [tar, pages] = shown;
    assert_eq!(tar, pages);
}

fn write(bytes: &[u8], packing: Packing, folder: &Path) -> Result<(), LayerError> {
    let limits = Limits {
        entries: 3000,
        unpacked: 1 << 24,
        header: 1 << 16,
        pending: 1 << 16,
        index: 1 << 22,
    };
    let id = Digest::of(bytes);
    let mut image = Image::new(folder, packing, &id, &limits, &Budget::default()).expect("files");
    if let Some(file) = image.tar_file().expect("a file") {
        let mut file = Direct::new(file);
        file.write(bytes, 0).expect("the tar");
    }
    let mut reader = tar::Reader::new(bytes, &limits);
    while let Some(found) = reader.next()? {
        image.apply(entry::action(found)?, &mut reader)?;
    }
    reader.drain()?;
    image.finish(bytes.len() as u64).map(drop)
}

/// All that can be seen of it; nothing where the kernel mounts no such images.
fn show(folder: &Path) -> String {
    let root: OwnedFd = match mount(folder) {
        Ok(root) => root,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return String::new(),
        Err(e) => panic!("the kernel refuses an image: {e}"),
    };
    // Files of terabytes, all of them a hole, are not to be read.
    let sparse = fs::metadata(folder.join("sparse")).map_or(0, |m| m.len());
    match sparse < 1 << 22 {
        true => view::of(&root).expect("the kernel reads an image"),
        false => String::new(),
    }
}

/// A compressed layer.
pub fn gzip(bytes: &[u8]) {
    crate::layer::inflate_all(bytes, 1 << 24);
}

/// The name of an image: what is understood can be written, and is understood alike.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(found) = text.parse::<Reference>() {
        let again: Reference = found.to_string().parse().expect("its own text");
        assert_eq!(again, found);
        let familiar: Reference = found.familiar().parse().expect("its short text");
        assert_eq!(familiar, found);
        assert!(
            !found
                .repository()
                .split('/')
                .any(|part| part == ".." || part.is_empty())
        );
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every input that has ever shown something new, or broken something.
    #[test]
    fn the_corpus_is_survived() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let folder = folder.join(name);
            let mut count = 0;
            for entry in fs::read_dir(&folder).unwrap() {
                target(&fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder:?} is empty");
        }
    }
}
