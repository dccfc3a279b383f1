//! The snapshotter keeps its contract, whatever form layers have.

use corten_store::Snapshotter as _;
use corten_store::snapshot::conformance;
use corten_store::{LayerChoice, Packing};

use crate::fixture::Sandbox;

fn conforms(layers: LayerChoice, name: &str) {
    let sandbox = Sandbox::of(layers);
    let snapshotter = sandbox.store.snapshotter();
    assert_eq!(snapshotter.name(), name);
    conformance::run(&sandbox.store, &snapshotter);
    sandbox.store.collect().unwrap();
    assert_eq!(sandbox.store.check(false).unwrap(), []);
}

#[test]
fn folders_conform() {
    conforms(LayerChoice::Folders, "overlay");
}

#[test]
fn images_over_the_tar_conform() {
    conforms(LayerChoice::Erofs(Packing::Tar), "erofs");
}

#[test]
fn images_over_pages_conform() {
    conforms(LayerChoice::Erofs(Packing::Pages), "erofs");
}
