//! overlay
use super::*;
use crate::store::Store;
/// Snapshots as folders under the kernel's overlay filesystem. Cheap to clone.
#[derive(Clone)]
pub struct Overlay { store: Store }
impl Overlay { pub(crate) fn new(store: Store) -> Self { Self { store } } }
impl Snapshotter for Overlay {
    fn name(&self) -> &'static str { "overlay" }
    fn prepare(&self, _key: &str, _layers: &[LayerId]) -> Result<RootMount> { unimplemented!() }
    fn mounts(&self, _key: &str) -> Result<RootMount> { unimplemented!() }
    fn remove(&self, _key: &str) -> Result<()> { unimplemented!() }
    fn usage(&self, _key: &str) -> Result<Usage> { unimplemented!() }
    fn list(&self) -> Result<Vec<String>> { unimplemented!() }
}
