use std::fs;
use std::os::unix::fs::MetadataExt;

use corten_testkit::fixture::hostile::Hostile;
use corten_testkit::{Image, Result, tool};

#[test]
fn busybox_has_what_its_layers_say() -> Result<()> {
    let layout = Image::Busybox.layout()?;
    assert_eq!(
        layout.manifest()?["layers"].as_array().map(Vec::len),
        Some(3)
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("rootfs");
    layout.unpack(&root)?;
    let read = |name: &str| fs::read_to_string(root.join(name)).expect(name);
    assert_eq!(read("data/kept"), "kept\n");
    assert_eq!(read("data/changed"), "after\n");
    assert!(!root.join("data/gone").exists());
    assert!(!root.join("data/replaced/old").exists());
    let inode = |name: &str| fs::metadata(root.join(name)).expect(name).ino();
    assert_eq!(inode("data/pair-a"), inode("data/pair-b"));
    Ok(())
}

#[test]
fn python_and_postgres_share_their_lower_layers() -> Result<()> {
    let layers = |image: Image| -> Result<Vec<_>> {
        Ok(image.layout()?.manifest()?["layers"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    };
    let (python, postgres) = (layers(Image::Python)?, layers(Image::Postgres)?);
    assert_eq!((python.len(), postgres.len()), (2, 3));
    assert_eq!(python, postgres[..2]);
    Ok(())
}

/// GNU tar judges our writer: the archives that are no lie must be well formed.
#[test]
fn hostile_archives_are_well_formed() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for hostile in [
        Hostile::DotDot,
        Hostile::Absolute,
        Hostile::SymlinkAbsolute,
        Hostile::Hardlink,
    ] {
        let layout = hostile.layout(folder.path())?;
        let manifest = layout.manifest()?;
        let digest = manifest["layers"][1]["digest"]
            .as_str()
            .unwrap_or_default()
            .replace("sha256:", "");
        let blob = layout.folder.join("blobs/sha256").join(digest);
        let list = tool::call("tar", &["-tzf", &blob.to_string_lossy()])?;
        assert!(!list.trim().is_empty(), "{hostile:?}");
    }
    Ok(())
}
