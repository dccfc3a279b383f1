//! The overlay snapshotter keeps its contract.

use corten_store::snapshot::conformance;

use crate::fixture::Sandbox;

#[test]
fn conforms() {
    let sandbox = Sandbox::new();
    conformance::run(&sandbox.store, &sandbox.store.snapshotter());
    sandbox.store.collect().unwrap();
    assert_eq!(sandbox.store.check(false).unwrap(), []);
}
