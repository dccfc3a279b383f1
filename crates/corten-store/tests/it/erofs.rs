//! Images as EROFS's own tools see them.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;

use corten_store::snapshot::conformance::{self, archive::Archive};
use corten_store::{LayerChoice, Packing, Snapshotter as _};
use corten_testkit::Image;

use crate::fixture::{Sandbox, run};

/// The files of a layer in a store: the index and its devices.
fn image(sandbox: &Sandbox, tar: &[u8]) -> (PathBuf, Vec<PathBuf>) {
    let lease = sandbox.store.lease("test").unwrap();
    let id = conformance::layer(&sandbox.store, &lease, tar).unwrap();
    let folder = sandbox.store.root().join("layers").join(id.as_str());
    let devices = ["data", "sparse"].map(|name| folder.join(name));
    let devices = devices.into_iter().filter(|d| d.exists()).collect();
    (folder.join("meta"), devices)
}

/// Before 1.6 they know no blocks but those of a page.
fn knows_small_blocks() -> bool {
    let out = Command::new("fsck.erofs").arg("-V").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let version = text.split_whitespace().last().unwrap_or_default();
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next(), parts.next());
    (major, minor) >= (Some(1), Some(6))
}

/// Every layer of the suite, and one that is large in every way.
#[test]
fn fsck_accepts_every_image() {
    let mut tars: Vec<Vec<u8>> = conformance::cases()
        .into_iter()
        .flat_map(|c| c.layers)
        .collect();
    tars.push(large());
    for packing in [Packing::Pages, Packing::Tar] {
        if packing == Packing::Tar && !knows_small_blocks() {
            println!("not checked: blocks of 512 bytes, which this fsck.erofs does not know");
            continue;
        }
        let sandbox = Sandbox::of(LayerChoice::Erofs(packing));
        for tar in &tars {
            let (meta, devices) = image(&sandbox, tar);
            let mut fsck = Command::new("fsck.erofs");
            fsck.args(devices.iter().map(|d| format!("--device={}", d.display())));
            run(fsck.arg("--extract").arg(&meta));
            let mut dump = Command::new("dump.erofs");
            dump.args(devices.iter().map(|d| format!("--device={}", d.display())));
            let out = dump.args(["-s", "-S"]).arg(&meta).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            let why = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{text}{why}");
            assert!(text.contains("0xE0F5E1E2"), "{text}");
        }
    }
}

/// Folders of thousands, names of every length, long targets.
fn large() -> Vec<u8> {
    let mut tar = Archive::new();
    for i in 0..5000 {
        tar = tar.file(&format!("many/{i}"), "x");
    }
    for i in 1..=255 {
        tar = tar.file(&format!("long/{}", "n".repeat(i)), &"y".repeat(i * 40));
    }
    for i in (1..4000).step_by(97) {
        tar = tar.symlink(&format!("links/{i}"), &"t/".repeat(i)[..i]);
    }
    tar.finish()
}

/// GNU tar compares every entry of real layers with what the kernel shows of them: kind, mode, owner, time, size, contents, target.
#[test]
fn gnu_tar_finds_no_difference() {
    let layout = Image::Postgres.layout().unwrap();
    let manifest = layout.manifest().unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert!(layers.len() >= 3);
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let lease = sandbox.store.lease("test").unwrap();
    let snapshotter = sandbox.store.snapshotter();
    for (i, digest) in layers
        .iter()
        .filter_map(|l| l["digest"].as_str())
        .enumerate()
    {
        let mut tar = Vec::new();
        let packed = layout.blob(digest).unwrap();
        flate2::bufread::MultiGzDecoder::new(&packed[..])
            .read_to_end(&mut tar)
            .unwrap();
        let key = format!("layer-{i}");
        lease.hold_snapshot(&key).unwrap();
        let id = conformance::layer(&sandbox.store, &lease, &tar).unwrap();
        let folder = sandbox.store.root().join("layers").join(id.as_str());
        snapshotter.prepare(&key, &[id]).unwrap();
        run(Command::new("tar")
            .args(["--compare", "--numeric-owner", "--xattrs", "--file"])
            .arg(folder.join("data"))
            .arg("--directory")
            .arg(folder.join("fs")));
        snapshotter.remove(&key).unwrap();
    }
}
